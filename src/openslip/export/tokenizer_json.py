"""A model's tokenizer as one `tokenizer.json`, which the library `tokenizers` reads without anything else."""

from __future__ import annotations

import json
import string
from typing import Any

from openslip.data.own_tokenizer import UNDERLINE, OwnTokenizer
from openslip.data.tokenizer import END, START, open_clip_tokenizer
from openslip.encoder import Encoder
from openslip.export.huggingface import SPECIAL, TEXTS

TOKENIZER = "tokenizer.json"
# CLIP's pattern; open_clip counts the first two as one word each. Texts that spell special tokens are split as text.
WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
STRAIGHT = {"[\u02bc\u2018-\u201b]": "'", "[\u201c-\u201f]": '"'}
"""The quotes that ftfy makes straight, and what it makes of them."""
ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'"}
"""The HTML that pages put into captions; open_clip replaces the other entities as well."""
CHECKED = (
    *TEXTS,
    "  white \t space\n",
    "under_score <end_of_text> <|endoftext|> #1!",
    "ÄÖÜ straße, 東京, день, 👍🏽",
    "3.14 isn't 1,000; it’s “quoted” &amp; &lt;b&gt;",
)
"""Texts whose ids are compared before the file is kept."""


def tokenizer_json(encoder: Encoder) -> Any:
    """Return the tokenizer as one of the library `tokenizers`; None where the library gives other ids than ours.

    The tokenizer adds start and end, cuts what is too long, and fills up: to the longest text, or to the context where
    the model wants that. It does not cut for `truncation: reference`, where a text that is too long loses its end.
    Of what CLIP's tokenizer cleans, only the frequent is cleaned: curly quotes, and the HTML of `ENTITIES`.
    """
    own, text = encoder.tokenizer, encoder.config.model.text
    made, start, end, pad = _own(own) if isinstance(own, OwnTokenizer) else _clip()
    _put_around(made, start, end)
    made.no_padding()
    made.no_truncation()
    if text.truncation == "keep-end":
        made.enable_truncation(text.context)
    made.enable_padding(
        pad_id=pad, pad_token=made.id_to_token(pad) or "[PAD]", length=text.context if text.padded else None
    )
    ours = encoder.tokenize(CHECKED)
    theirs = [one.ids[: text.context] for one in made.encode_batch(list(CHECKED))]
    return made if theirs == ours.tolist() else None


def _clip() -> tuple[Any, int | None, int | None, int]:
    """Return CLIP's tokenizer, and its tokens of start, end and padding."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    words = open_clip_tokenizer().SimpleTokenizer()
    vocabulary = {SPECIAL.get(number, word): number for word, number in words.encoder.items()}
    merges = [pair for pair, _ in sorted(words.bpe_ranks.items(), key=lambda item: item[1])]
    made = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence(_cleaning("lower"))
    split = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    return made, START, END, 0


def _own(own: OwnTokenizer) -> tuple[Any, int | None, int | None, int]:
    """Return the tokenizer that the weights bring, with the cleaning of texts before its own steps."""
    from tokenizers import Tokenizer, normalizers

    described = json.loads(own.data)
    made = Tokenizer.from_str(described["tokenizer"])
    steps = _cleaning(described["clean"])
    if steps:
        made.normalizer = normalizers.Sequence([*steps, *([made.normalizer] if made.normalizer else [])])
    return made, own.start, own.end, own.pad


def _cleaning(clean: str) -> list[Any]:
    """Return the steps that clean a text as `data.own_tokenizer` does, but for broken letters and rare HTML."""
    from tokenizers import Regex, normalizers

    if clean == "none":
        return []
    steps: list[Any] = []
    if clean != "siglip":
        steps += [normalizers.Replace(html, sign) for html, sign in ENTITIES.items()]
        steps += [normalizers.Replace(Regex(curly), sign) for curly, sign in STRAIGHT.items()]
        steps.append(normalizers.NFC())
    if clean in ("canonicalize", "siglip"):
        space = "_" if clean == "canonicalize" else UNDERLINE
        steps.append(normalizers.Replace(space, " "))
        steps.append(
            normalizers.Replace(Regex("[" + "".join(f"\\{sign}" for sign in string.punctuation) + "]"), "")
        )
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if clean == "whitespace":
        return steps
    # Small letters as Python makes them, which looks at where in a word the letter is.
    return [*steps, normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"), normalizers.Lowercase()]


def _put_around(made: Any, start: int | None, end: int | None) -> None:
    """Have the tokenizer put these tokens around each text."""
    from tokenizers import processors

    around = {"start": start, "end": end}
    template = ["$A"]
    template = [*(["start"] if start is not None else []), *template, *(["end"] if end is not None else [])]
    special = [(name, number) for name, number in around.items() if number is not None]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
