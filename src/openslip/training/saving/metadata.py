"""The configuration of a model in the header of its safetensors file, so that the file loads when it is copied alone.

The header holds one text, under KEY: a configuration in TOML, as far as weights depend on it. Paths of data, and values
that may change when a run is resumed, are left out. So files of equal weights are equal, and they tell nothing about
the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip import toml
from openslip.config import Config
from openslip.errors import CheckpointError
from openslip.files import open_regular, parse_json, whole_or_not
from openslip.training.saving.run import MAY_CHANGE, PLACES, matches

if TYPE_CHECKING:
    from torch import Tensor

KEY = "openslip"
CLASSIFIER = "openslip.classifier"
"""The text that describes, in JSON, a finetuned classifier (`openslip.evaluation.finetune.state.header`)."""
PROBE = "openslip.linear"
"""The text that describes, in JSON, a linear probe (`openslip.evaluation.kept_probe`)."""
HEADER = 16 << 20
"""The largest header that is read, in bytes. The header of a model with a thousand tensors has 150 thousand."""


def describe(config: Config, origin: str = "") -> dict[str, str]:
    """Return the texts for the header of a model's weights. origin: where the weights come from, as comment lines."""
    import tomli_w

    comment = "".join(f"# {line}\n" for line in origin.splitlines())
    return {KEY: comment + tomli_w.dumps(_lasting(toml.to_dict(config)))}


def check_place(path: Path) -> None:
    """Raise CheckpointError if a file would be written into a checkpoint, which would then not be whole."""
    if os.path.isfile(path.parent / "state.json"):
        raise CheckpointError(
            "The weights would be written into a checkpoint",
            got=str(path),
            fix="Name another file with --out",
        )


def write_model(path: Path, weights: Mapping[str, Tensor], config: Config, origin: str = "") -> None:
    """Write a model's weights, whole or not at all, to a safetensors file that `openslip.load` takes alone.

    Raises CheckpointError if the file cannot be written, and as `check_place` does.
    """
    from openslip.training.saving.tensors import write_tensors

    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_not(path) as file:  # not as bytes, which would be in memory a second time
            write_tensors(Path(file.name), weights, None, describe(config, origin))
    except OSError as error:
        raise CheckpointError(
            "The weights could not be written", got=str(path), cause=error.strerror or str(error)
        ) from None


def _lasting(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration without the values that weights do not depend on."""
    kept = {}
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict):
            if inner := _lasting(value, f"{key}."):
                kept[name] = inner
        elif not matches(key, (*MAY_CHANGE, *PLACES, "init")):
            kept[name] = value
    return kept


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the entries of a safetensors file by name, and the texts in its header; no tensor is read.

    Raises CheckpointError if the file is no safetensors file, has a header of more than HEADER bytes, or is cut off.
    """
    try:
        with open_regular(path) as file:
            start = file.read(8)
            size = int.from_bytes(start, "little")
            if len(start) < 8 or size > HEADER:
                raise ValueError(
                    f"It begins with {start!r}, which is not the length of a header"
                    if start
                    else "It is empty"
                )
            there = os.fstat(file.fileno()).st_size - 8 - size
            if there < 0:
                raise ValueError(f"Its header should have {size:,} bytes, and {size + there:,} are there")
            header = parse_json(file.read(size))
        if not isinstance(header, dict):
            raise ValueError("Its header is no table of tensors")
        texts = header.pop("__metadata__", None) or {}
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("Its header holds something other than texts")
        if (told := _end_of(header)) > there:
            raise ValueError(f"Its weights should have {told:,} bytes, and {there:,} are there")
        return header, texts
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The weights cannot be read: the file is cut off, damaged, or no safetensors file",
            got=str(path),
            cause=str(error),
            fix="Copy or download the file again, and compare the sizes",
        ) from None


def _end_of(entries: Mapping[str, Any]) -> int:
    """Return how many bytes the tensors of a header take, as far as the header tells."""
    places = [entry.get("data_offsets") for entry in entries.values() if isinstance(entry, dict)]
    ends = [place[-1] for place in places if isinstance(place, list) and place]
    return max((end for end in ends if isinstance(end, int)), default=0)
