"""Tokenizers that weights bring with them, as files that `tokenizers` and transformers load."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import Any

from openslip.data.own_tokenizer import UNDERLINE


@dataclass(frozen=True)
class TokenizerFiles:
    """The content of `tokenizer.json` and `tokenizer_config.json`, and how a text is cleaned before that.

    clean: as in `openslip.data.own_tokenizer`; where it is `siglip`, the tokenizer does the cleaning itself.
    """

    tokenizer: str
    config: str
    clean: str


def of_own(data: bytes) -> TokenizerFiles:
    """Return the files of a tokenizer (`openslip.data.own_tokenizer`) that puts start and end around a text itself."""
    from tokenizers import Tokenizer, normalizers, processors

    described = json.loads(data)
    tokenizer = Tokenizer.from_str(described["tokenizer"])
    if described["clean"] == "siglip":  # which the library can do itself
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
        normalizers.Replace(
            Regex("[" + "".join(f"\\x{ord(mark):02x}" for mark in string.punctuation) + "]"), ""
        ),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
