"""Tokenizers that come with weights: their bytes, which are stored among the weights, and their reader.

The bytes are a JSON object: how texts are cleaned, the ids of padding, start and end, and the `tokenizer.json` of the
library `tokenizers`, which does the work.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from openslip.config import TextTowerConfig
from openslip.data.tokenizer import Tokenizer, open_clip_tokenizer
from openslip.errors import CheckpointError, ConfigError, DataError

VERSION = 1
LARGEST = 1 << 26
"""The most bytes of a tokenizer; Gemma's, with 256,000 tokens, has about half as many."""
LONGEST = 1 << 16
"""Characters of a text that are looked at: more than any context holds."""
GROWTH = 1 << 10
"""Characters that the steps of a tokenizer may make of one: those of public models make a few."""
KEPT = 4
"""Tokenizers that a process keeps at hand."""
UNDERLINE = "▁"
"""What stands for a space among the pieces of sentencepiece."""
OF_TEXT = (1, 4, 6)
"""The kinds of these pieces that stand for text: normal, a user's, bytes."""

Cleaning = Literal["none", "whitespace", "lower", "canonicalize", "siglip"]
"""How a text is cleaned first. `whitespace`, `lower` and `canonicalize` are open_clip's: the first mends odd characters
and white space, the second also makes letters small, the third also drops punctuation. `siglip` is transformers'
SiglipTokenizer's: small letters, without punctuation."""
Token = int | str
"""A token's id, or its text."""


class OwnTokenizer:
    """Turns captions into rows of token ids as the bytes of a tokenizer say (`from_json`, `from_sentencepiece`).

    context: most tokens in a row, start and end included. padded: rows are filled up to the context, not to the longest
    row. limit: how many tokens the model has. Cheap to create and to pickle: the vocabulary is made at first use, once
    a process.

    Raises CheckpointError for bytes that hold no tokenizer.
    """

    def __init__(self, data: bytes, context: int, *, padded: bool = False, limit: int | None = None) -> None:
        described = _described(data)
        self.data, self.context, self.padded, self.limit = data, context, padded, limit
        self.pad: int = described["pad"]
        self.start: int | None = described["start"]
        self.end: int | None = described["end"]
        self._key = hashlib.sha256(data).digest()

    @property
    def special(self) -> tuple[int, ...]:
        """Ids that stand for no text: padding, start and end, if the tokenizer has them."""
        return tuple(sorted({id for id in (self.pad, self.start, self.end) if id is not None}))

    @property
    def vocabulary_size(self) -> int:
        return self._loaded()[1].get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text, of its first 65,536 characters once cleaned, without start and end.

        Raises DataError if it is not a text, or the tokenizer gives up on it; ConfigError if the library `tokenizers`
        is missing.
        """
        if not isinstance(text, str):
            raise DataError("A caption must be text", got=f"{type(text).__name__} {text!r:.100}")
        clean, tokenizer = self._loaded()
        # Half of a surrogate pair, which json lets pass, is no text that can be encoded.
        whole = clean(text).encode("utf-8", "replace").decode("utf-8")
        return _ids(tokenizer, whole[:LONGEST])

    def __call__(self, texts: Sequence[str] | str) -> Tensor:
        """Return (N, longest or context) int64: start, ids and end, if the tokenizer has them, then padding.

        A text that is too long loses its last ids, but keeps its end. Raises as `encode`.
        """
        before = [] if self.start is None else [self.start]
        after = [] if self.end is None else [self.end]
        most = self.context - len(before) - len(after)
        several = [texts] if isinstance(texts, str) else texts
        rows = [[*before, *self.encode(text)[:most], *after] for text in several]
        length = self.context if self.padded else max(map(len, rows), default=2)
        tokens = np.full((len(rows), max(1, length)), self.pad, dtype=np.int64)
        for row, ids in zip(tokens, rows):
            row[: len(ids)] = ids
        if self.limit is not None and tokens.size and tokens.max() >= self.limit:
            raise DataError(
                "The tokenizer gives a token that the model does not have",
                got=f"id {tokens.max()}, of {self.limit:,} tokens",
                cause="The tokenizer is another model's, or the text spells out a token added to the tokenizer",
            )
        return torch.from_numpy(tokens)

    def __repr__(self) -> str:
        return f"OwnTokenizer(context={self.context}, padded={self.padded})"

    def _loaded(self) -> tuple[Callable[[str], str], Any]:
        """Return what cleans a text and what splits it."""
        with _loading:
            if self._key not in _loaded:
                described = _described(self.data)
                while len(_loaded) >= KEPT:
                    _loaded.pop(next(iter(_loaded)))
                _loaded[self._key] = _CLEANING[described["clean"]], _parsed(described["tokenizer"])
            return _loaded[self._key]


def tokenizer_of(text: TextTowerConfig, own: bytes) -> Tokenizer | OwnTokenizer:
    """Return the tokenizer of a text tower: with these bytes, or CLIP's where there are none."""
    if own:
        return OwnTokenizer(own, text.context, padded=text.padded, limit=text.vocabulary)
    return Tokenizer(text.context, text.truncation, padded=text.padded)


def from_json(
    text: str | bytes,
    *,
    clean: Cleaning = "none",
    pad: Token | None = None,
    ends: tuple[Token | None, Token | None] | None = None,
    lowercase: bool = False,
) -> bytes:
    """Return the bytes of a tokenizer, given the content of a `tokenizer.json`.

    pad: the token that fills rows up; None takes the file's. ends: start and end of a text, each None if there is none;
    by default, those that the file's post-processor adds. lowercase: whether to make letters small first, as
    transformers' Siglip2Tokenizer does whatever the file says.

    Raises CheckpointError if the content is no tokenizer, or lacks what is asked of it; ConfigError if the library
    `tokenizers` is missing.
    """
    tokenizer = _parsed(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    of = tokenizer.token_to_id
    start, end = _added(tokenizer) if ends is None else (_id(of, token) for token in ends)
    if pad is None:
        pad = (tokenizer.padding or {}).get("pad_id")
    if pad is None:
        raise CheckpointError("The tokenizer does not say which token fills rows up", fix="Name it with pad")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if getattr(
        tokenizer.model, "dropout", None
    ):  # dropout splits a text anew each time, which only training wants
        tokenizer.model.dropout = None
    if lowercase:
        small = library().normalizers.Lowercase()
        steps = [small] if tokenizer.normalizer is None else [small, tokenizer.normalizer]
        tokenizer.normalizer = library().normalizers.Sequence(steps)
    return _packed(clean, _id(of, pad), start, end, tokenizer.to_str())


def from_sentencepiece(
    content: bytes,
    *,
    clean: Cleaning = "siglip",
    pad: Token = "</s>",
    ends: tuple[Token | None, Token | None] = (None, "</s>"),
) -> bytes:
    """Return the bytes of a tokenizer, given the content of a sentencepiece model (`spiece.model`), a unigram one.

    The defaults are SigLIP's. pad, ends: as in `from_json`. Raises CheckpointError for any other content, ConfigError
    where a library is missing.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2 as protocol
    except (ImportError, TypeError) as error:
        raise _missing("sentencepiece and protobuf") from error
    tokenizers = library()
    model = protocol.ModelProto()  # type: ignore[missing-attribute]
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's own errors differ by its implementation
        raise _no_tokenizer(str(error)) from None
    if not len(model.pieces) or model.trainer_spec.model_type != 1:
        raise CheckpointError(
            "The sentencepiece model is not of the kind 'unigram'",
            fix="Use the tokenizer.json beside it",
        )
    spec, normalizers, regex = model.normalizer_spec, tokenizers.normalizers, tokenizers.Regex
    steps: list[Any] = (
        [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    )
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(regex(r"\A +| +\z"), ""), normalizers.Replace(regex(" {2,}"), " ")]
    steps.append(normalizers.Replace(" ", UNDERLINE))
    ids = {piece.piece: number for number, piece in enumerate(model.pieces)}
    # Only pieces of text may be found in a text: a caption that spells out "</s>" does not end there.
    vocabulary = [(p.piece if p.type in OF_TEXT else f"\0{p.piece}", p.score) for p in model.pieces]
    unigram = tokenizers.models.Unigram(
        vocabulary, model.trainer_spec.unk_id, model.trainer_spec.byte_fallback
    )
    tokenizer = tokenizers.Tokenizer(unigram)
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
        UNDERLINE, prepend_scheme=scheme, split=False
    )
    padding, start, end = (_id(ids.get, token) for token in (pad, *ends))
    return _packed(clean, padding, start, end, tokenizer.to_str())


_loaded: dict[bytes, tuple[Callable[[str], str], Any]] = {}
_loading = threading.Lock()


def _siglip(text: str) -> str:
    plain = text.replace(UNDERLINE, " ").lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", plain).strip()


def _of_open_clip(name: str) -> Callable[[str], str]:
    return lambda text: open_clip_tokenizer().get_clean_fn(name)(text)


_CLEANING: dict[str, Callable[[str], str]] = {
    "none": str,
    "siglip": _siglip,
    **{name: _of_open_clip(name) for name in ("whitespace", "lower", "canonicalize")},
}


def _packed(clean: Cleaning, pad: int | None, start: int | None, end: int | None, text: str) -> bytes:
    if clean not in get_args(Cleaning):
        raise ConfigError("There is no such way to clean texts", got=clean, fix=", ".join(get_args(Cleaning)))
    entries = {"version": VERSION, "clean": clean, "pad": pad, "start": start, "end": end, "tokenizer": text}
    data = json.dumps(entries, ensure_ascii=False).encode()
    _described(data)
    return data


def _described(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a tokenizer say. Raises CheckpointError."""
    if len(data) > LARGEST:
        raise CheckpointError(
            "The tokenizer among the weights is too large", got=f"{len(data):,} bytes, at most {LARGEST:,}"
        )
    if not any(data[:64]):
        raise CheckpointError(
            "The model's tokenizer is empty",
            cause="A model that is built anew has no tokenizer: the tokenizer comes with the weights",
            fix="Load or start from the weights, or set model.text.tokenizer to 0 for CLIP's tokenizer",
        )
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _no_tokenizer(str(error)) from None
    ids = [found.get(key) for key in ("pad", "start", "end")] if isinstance(found, dict) else []
    whole = all(one is None or (type(one) is int and 0 <= one < 2**31) for one in ids)
    texts = isinstance(found, dict) and isinstance(found.get("tokenizer"), str)
    if not (ids and whole and ids[0] is not None and texts and found.get("clean") in _CLEANING):
        raise _no_tokenizer("entries are missing, or are of another kind")
    if found.get("version") != VERSION:
        raise CheckpointError(
            "The tokenizer among the weights is of another version of openslip",
            got=f"version {found.get('version')!r:.20}, this one reads {VERSION}",
        )
    return found


def _parsed(text: str) -> Any:
    """Return a tokenizer of the library. Raises CheckpointError where the text describes none."""
    if len(text) > LARGEST:
        raise CheckpointError(
            "The tokenizer is too large", got=f"{len(text):,} characters, at most {LARGEST:,}"
        )
    tokenizers = library()
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # what the library cannot parse may end in a panic, which is no Exception
        raise _no_tokenizer(str(error)) from None
    growth = 1
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer):
        growth *= 1 if part is None else _growth(json.loads(part.__getstate__()))
    if growth > GROWTH:
        raise _no_tokenizer(f"its steps may make {growth:,} characters of one, at most {GROWTH:,}")
    return tokenizer


def _growth(step: Any) -> int:
    """Return how many characters a tokenizer's step (as JSON), with all steps within it, may make of one."""
    if isinstance(step, list):
        return math.prod(map(_growth, step))
    if not isinstance(step, dict):
        return 1
    own = (
        len(step["content"]) if step.get("type") == "Replace" else 2 if step.get("type") == "ByteLevel" else 1
    )
    return max(1, own) * math.prod(_growth(part) for part in step.values() if isinstance(part, list))


def _ids(tokenizer: Any, text: str, *, special: bool = False) -> list[int]:
    """Return the ids of a text. Raises DataError where the library gives up, as on a pattern that has no end."""
    try:
        return tokenizer.encode(text, add_special_tokens=special).ids
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # its own Exception, or a panic, which is none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # such as a signal that has to end a loader
        raise DataError(
            "The model's tokenizer cannot split a text",
            got=f"{text!r:.100}",
            cause=f"{error!s:.200}",
            fix="Leave the text out, or take a model whose tokenizer.json has another pattern",
        ) from None


def _added(tokenizer: Any) -> tuple[int | None, int | None]:
    """Return the ids that the tokenizer's post-processor puts before and after a text."""
    try:
        inner, whole = (_ids(tokenizer, "a", special=special) for special in (False, True))
    except DataError as error:
        raise _no_tokenizer(error.cause) from None
    extra = len(whole) - len(inner)
    before = next((n for n in range(extra + 1) if whole[n : n + len(inner)] == inner), None)
    if before is None or before > 1 or extra - before > 1:
        raise CheckpointError(
            "The tokenizer puts more around a text than a start and an end",
            got=f"{inner} becomes {whole}",
        )
    return (whole[0] if before else None), (whole[-1] if extra > before else None)


def _id(of: Callable[[str], int | None], token: Token | None) -> int | None:
    found = of(token) if isinstance(token, str) else token
    if token is not None and found is None:
        raise CheckpointError("The tokenizer has no such token", got=token)
    return found


def library() -> ModuleType:
    """Return the library `tokenizers`. Raises ConfigError where it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise _missing("tokenizers") from error
    return tokenizers


def _missing(names: str) -> ConfigError:
    return ConfigError(
        f"The model's own tokenizer needs {names}",
        fix="pip install 'openslip[transformers]'",
    )


def _no_tokenizer(why: str) -> CheckpointError:
    return CheckpointError("The bytes hold no tokenizer", cause=f"{why:.300}")
