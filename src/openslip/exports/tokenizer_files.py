"""A model's tokenizer as files: for transformers, if the weights bring one; for any model, one `tokenizer.json`."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import Any

from openslip.data.own_tokenizer import UNDERLINE, OwnTokenizer, library
from openslip.data.tokenizer import END, START, open_clip_tokenizer
from openslip.encoder import Encoder

TOKENIZER = "tokenizer.json"
SPECIAL = {START: "<|startoftext|>", END: "<|endoftext|>"}
"""What OpenAI and transformers call the first and the last token of a text."""
TEXTS = (
    "a photo of a dog",
    "Two men in T-shirts, one of 40 & more: they're jumping!",
    "",
    "one more word " * 60,
)
"""Texts that the library `tokenizers` takes as they are: it does not repair letters, or replace `&amp;`."""
# CLIP's pattern; open_clip counts the first two as one word each. Texts that spell special tokens are split as text.
WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PUNCTUATION = "[" + "".join(f"\\x{ord(mark):02x}" for mark in string.punctuation) + "]"
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


@dataclass(frozen=True)
class TokenizerFiles:
    """The content of `tokenizer.json` and `tokenizer_config.json`, and how a text is cleaned before that.

    clean: as in `openslip.data.own_tokenizer`. For `siglip`, the tokenizer does the cleaning itself.
    """

    tokenizer: str
    config: str
    clean: str


def of_own(data: bytes) -> TokenizerFiles:
    """Return the files of a tokenizer (`openslip.data.own_tokenizer`) that puts start and end around a text itself."""
    tokenizers, described = library(), json.loads(data)
    normalizers, processors = tokenizers.normalizers, tokenizers.processors
    tokenizer = tokenizers.Tokenizer.from_str(described["tokenizer"])
    if described["clean"] == "siglip":  # the library can do this cleaning itself
        steps = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([*_siglip(), *steps])
    ids = {key: described[key] for key in ("start", "end", "pad") if described[key] is not None}
    names = {key: tokenizer.id_to_token(number) for key, number in ids.items()}
    around = [names.get("start"), "$A", names.get("end")]
    special = {names[key]: ids[key] for key in ("start", "end") if key in names}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(part for part in around if part), special_tokens=list(special.items())
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": names["pad"],
        **({"bos_token": names["start"]} if "start" in names else {}),
        **({"eos_token": names["end"]} if "end" in names else {}),
    }
    return TokenizerFiles(
        tokenizer.to_str(pretty=True), json.dumps(config, indent=2) + "\n", described["clean"]
    )


def _siglip() -> list[Any]:
    """Return how SigLIP's tokenizer cleans a text: small letters, no punctuation, single spaces."""
    from tokenizers import Regex, normalizers

    return [
        normalizers.Replace(UNDERLINE, " "),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(PUNCTUATION), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]


def tokenizer_json(encoder: Encoder) -> Any:
    """Return the tokenizer as one of the library `tokenizers`; None if the library gives other ids than ours.

    The tokenizer adds start and end, cuts long texts, and fills up: to the longest text, or to the context if the model
    wants that. The tokenizer does not cut for `truncation: reference`, where a text that is too long loses its end
    token. Of what CLIP's tokenizer cleans, only the frequent is cleaned: curly quotes, and the HTML of `ENTITIES`.
    """
    own, text = encoder.tokenizer, encoder.config.model.text
    made, pad = (_own(own), own.pad) if isinstance(own, OwnTokenizer) else (_clip(), 0)
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


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the tokens of CLIP's tokenizer with their ids, and the pairs that it merges, in order."""
    words = open_clip_tokenizer().SimpleTokenizer()
    vocabulary = {SPECIAL.get(number, word): number for word, number in words.encoder.items()}
    return vocabulary, [pair for pair, _ in sorted(words.bpe_ranks.items(), key=lambda item: item[1])]


def _clip() -> Any:
    """Return CLIP's tokenizer."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.BPE(*clip_vocabulary(), end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence(_cleaning("lower"))
    split = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    start, end = SPECIAL[START], SPECIAL[END]
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, START), (end, END)]
    )
    return made


def _own(own: OwnTokenizer) -> Any:
    """Return the tokenizer that the weights bring, with the cleaning of texts before its own steps."""
    from tokenizers import Tokenizer, normalizers

    files = of_own(own.data)
    made = Tokenizer.from_str(files.tokenizer)
    if files.clean not in ("none", "siglip"):  # siglip's cleaning is among the steps already
        steps = [] if made.normalizer is None else [made.normalizer]
        made.normalizer = normalizers.Sequence([*_cleaning(files.clean), *steps])
    return made


def _cleaning(clean: str) -> list[Any]:
    """Return the steps of `whitespace`, `lower` or `canonicalize` (`data.own_tokenizer`), as far as the library can."""
    from tokenizers import Regex, normalizers

    steps: list[Any] = [normalizers.Replace(html, sign) for html, sign in ENTITIES.items()]
    steps += [normalizers.Replace(Regex(curly), sign) for curly, sign in STRAIGHT.items()]
    steps.append(normalizers.NFC())
    if clean == "canonicalize":
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(PUNCTUATION), "")]
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if clean == "whitespace":
        return steps
    # Small letters as Python makes them: a sigma at the end of a word has a form of its own.
    return [*steps, normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"), normalizers.Lowercase()]
