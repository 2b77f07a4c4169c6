"""Tokenizers beside others' weights, as the bytes that our weights carry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openslip.errors import CheckpointError
from openslip.files import read_whole
from openslip.interop import hub
from openslip.interop.weight_files import read_config

FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")
"""transformers' names of a tokenizer's files."""
LARGEST = 1 << 26
"""Largest such file that is read, in bytes. Gemma's is about half as large."""


def of_transformers(folder: Path, spec: str) -> Tensor:
    """Return the tokenizer of a SigLIP in a folder as transformers writes it, (B,) uint8.

    SigLIP's tokenizer drops punctuation and makes letters small. Tokenizers of later models do what their files say.
    Raises CheckpointError if there is no tokenizer.
    """
    from openslip.data.own_tokenizer import from_json, from_sentencepiece

    config = _config(folder)
    if config.get("tokenizer_class", "SiglipTokenizer").startswith("Siglip"):
        if (folder / "spiece.model").is_file():
            return _tensor(from_sentencepiece(_bytes(folder / "spiece.model")))
        return _tensor(from_json(_json(folder, spec), clean="siglip", pad="</s>", ends=(None, "</s>")))
    return _tensor(
        from_json(
            _json(folder, spec), clean="lower" if config.get("do_lower_case") else "none",
            pad=_token(config, "pad_token"), ends=_ends(config),
        )
    )  # fmt: skip


def of_open_clip(text: Mapping[str, Any], folder: Path | None, spec: str) -> Tensor:
    """Return the tokenizer that a text tower of open_clip names, (B,) uint8: in the model's folder, else on the hub.

    text: open_clip's description of the tower. Raises CheckpointError if there is no tokenizer.
    """
    from openslip.data.own_tokenizer import from_json

    name, options = str(text["hf_tokenizer_name"]), dict(text.get("tokenizer_kwargs") or {})
    cleaning = options.pop("clean", "whitespace")
    without_end = options.pop("strip_sep_token", False)
    if text.get("tokenizer_mode") or options or cleaning not in ("whitespace", "lower", "canonicalize"):
        raise CheckpointError(
            "open_clip uses the model's tokenizer in a way that slip does not support",
            got=f"{spec}: mode {text.get('tokenizer_mode')}, options {text.get('tokenizer_kwargs')}",
            fix="open_clip, which is installed with slip, loads the model itself",
        )
    if folder is None or not (folder / FILES[0]).is_file():
        found = hub.fetch(name, [FILES[0]])
        if found is None:
            raise CheckpointError(
                "The model's tokenizer is not on the hub in a form that slip reads",
                got=f"{name}, of {spec}: no {FILES[0]}",
                fix=f"Copy a {FILES[0]} beside the weights, in a folder with open_clip_config.json",
            )
        hub.fetch(name, [FILES[2]], optional=True)
        folder = found.parent
    config = _config(folder)
    pad, ends = _token(config, "pad_token"), None
    if without_end:  # open_clip puts padding where the end was
        ends = (_token(config, "cls_token"), 0)
        pad = 0
    return _tensor(from_json(_json(folder, spec), clean=cleaning, pad=pad, ends=ends))


def _json(folder: Path, spec: str) -> bytes:
    path = folder / FILES[0]
    if not path.is_file():
        raise CheckpointError(
            f"The model has its own tokenizer, which is missing: {spec}",
            got=f"neither {FILES[0]} nor {FILES[1]} in {folder}",
            fix="Copy the tokenizer's files beside the weights as well",
        )
    return _bytes(path)


def _bytes(path: Path) -> bytes:
    try:
        return read_whole(path, LARGEST)
    except OSError as error:
        raise CheckpointError("The tokenizer cannot be read", got=str(path), cause=str(error)) from None


def _config(folder: Path) -> dict[str, Any]:
    """Return what the files beside a tokenizer say: the tokenizer's class, and the special tokens."""
    found: dict[str, Any] = {}
    for name in reversed(FILES[2:]):
        if (folder / name).is_file():
            found |= read_config(folder / name)
    return found


def _token(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _ends(config: Mapping[str, Any]) -> tuple[str | None, str | None] | None:
    """Return the tokens before and after a text if the tokenizer's settings name them, else None."""
    if "add_bos_token" not in config and "add_eos_token" not in config:
        return None
    return (
        _token(config, "bos_token") if config.get("add_bos_token") else None,
        _token(config, "eos_token") if config.get("add_eos_token") else None,
    )


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
