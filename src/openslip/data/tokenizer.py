"""CLIP's byte-pair tokenizer: captions to token ids.

The vocabulary, the cleaning of the text and the merging are open_clip's own; what is added here is speed (a cache
from word to ids, and no cleaning where there is nothing to clean), bounded work on any input, and rows no longer
than needed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openslip.errors import ConfigError, DataError, did_you_mean

VOCABULARY_SIZE = 49408
START = 49406
END = 49407

_CACHED_WORDS = 2**16
_CACHED_LENGTH = 64  # characters; longer words hardly come twice
# Merging takes time quadratic in the length of a word. Longer words are merged in chunks: 2,560 bytes are 80 times
# the longest token, so no caption that is cut to CLIP's context of 77 notices.
_CHUNK = 2560
# On printable ASCII without "&" neither ftfy nor html.unescape changes anything but white space.
_CLEAN = re.compile(r"[ -%'-~\t\n\r]*")


class Tokenizer:
    """Turns captions into rows of token ids.

    context: most tokens in a row, start and end included.
    truncation: an over-long caption keeps its end-of-text as the last token ("keep-end"), or loses it as in
    the reference implementation ("reference"). padded: rows are filled up to the context, not to the longest row.

    Raises ConfigError when context is below 3 or truncation is unknown. Cheap to create and to pickle: the
    vocabulary is loaded at first use, once a process.
    """

    vocabulary_size = VOCABULARY_SIZE
    start = START
    end = END
    special = (0, START, END)
    """Ids that stand for no text: rows are filled up with 0, which is also the id of an exclamation mark."""

    def __init__(
        self,
        context: int = 77,
        truncation: Literal["keep-end", "reference"] = "keep-end",
        *,
        padded: bool = False,
    ) -> None:
        if context < 3:
            raise ConfigError(
                "A text context holds at least 3 tokens",
                got=context,
                cause="Two of them are the start and the end of the text",
                fix="Pass 3 or more; CLIP's is 77.",
            )
        if truncation not in ("keep-end", "reference"):
            choices = did_you_mean(str(truncation), ("keep-end", "reference"))
            raise ConfigError("Unknown way to cut an over-long caption", got=truncation, fix=choices)
        self.context, self.truncation, self.padded = context, truncation, padded

    def encode(self, text: str) -> list[int]:
        """Return the ids of the whole text, without start and end. Raises DataError when it is no text."""
        return _vocabulary().encode(text, sys.maxsize)

    def __call__(self, texts: Sequence[str] | str) -> Tensor:
        """Return (N, longest) int64: start, ids, end, then zeros up to the longest row, or to `context` if `padded`.

        Raises DataError when one of the texts is no text.
        """
        texts = [texts] if isinstance(texts, str) else texts
        encode, most = _vocabulary().encode, self.context - 2
        rows = []
        for text in texts:
            ids = encode(text, most + 1)
            if len(ids) <= most:
                rows.append([START, *ids, END])
            elif self.truncation == "keep-end":
                rows.append([START, *ids[:most], END])
            else:
                rows.append([START, *ids[: most + 1]])
        length = self.context if self.padded else max(map(len, rows), default=2)
        tokens = np.zeros((len(rows), length), dtype=np.int64)
        for row, ids in zip(tokens, rows):
            row[: len(ids)] = ids
        return torch.from_numpy(tokens)

    def __repr__(self) -> str:
        return f"Tokenizer(context={self.context}, truncation={self.truncation!r})"


class _Forgetful(dict):
    """A cache that stays empty. The cache of open_clip's merging would grow without bound, and takes a caption that
    spells out a special token ("<end_of_text>") for that token. Emptying it would take an entry from another thread."""

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Vocabulary:
    """open_clip's tokenizer behind a bounded cache from word (what stands between white space) to ids."""

    def __init__(self) -> None:
        tokenizer: Any = open_clip_tokenizer()._tokenizer
        tokenizer.cache = _Forgetful()
        self._bpe = tokenizer.bpe
        self._split = tokenizer.pat.findall
        self._clean = tokenizer.clean_fn
        self._letters, self._ids = tokenizer.byte_encoder, tokenizer.encoder
        self._words: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str, limit: int) -> list[int]:
        """Return the ids of the text, all of them or at least the first `limit`."""
        if not isinstance(text, str):
            raise DataError("A caption must be text", got=f"{type(text).__name__} {text!r:.100}")
        clean = text.lower() if _CLEAN.fullmatch(text) else self._clean(text)
        ids: list[int] = []
        words = self._words
        for word in clean.split():
            ids += words.get(word) or self._encode_word(word, limit)
            if len(ids) >= limit:
                break
        return ids

    def _encode_word(self, word: str, limit: int) -> tuple[int, ...]:
        ids: list[int] = []
        for part in self._split(word):
            letters = "".join([self._letters[byte] for byte in part.encode("utf-8")])
            for at in range(0, len(letters), _CHUNK):
                ids += [self._ids[token] for token in self._bpe(letters[at : at + _CHUNK]).split(" ")]
                if len(ids) >= limit:
                    return tuple(ids)
        if len(word) <= _CACHED_LENGTH:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            self._words[word] = tuple(ids)
        return tuple(ids)


@lru_cache(maxsize=1)
def _vocabulary() -> _Vocabulary:
    return _Vocabulary()


@cache
def open_clip_tokenizer() -> ModuleType:
    """Load open_clip's tokenizer module alone: the whole package takes 2.4 s more, in every loader process."""
    package = importlib.util.find_spec("open_clip")
    path = Path(package.origin).with_name("tokenizer.py") if package and package.origin else None
    spec = (
        importlib.util.spec_from_file_location("openslip.data._open_clip_tokenizer", path) if path else None
    )
    if spec is None or spec.loader is None:
        fix = "pip install open_clip_torch"
        raise ConfigError("open_clip, which brings the tokenizer's vocabulary, is not installed", fix=fix)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
