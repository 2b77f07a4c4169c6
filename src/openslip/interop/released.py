"""The models that the authors of SLIP have released, by name (their repository's README, January 2022)."""

from __future__ import annotations

import re

from openslip.errors import CheckpointError, did_you_mean

PLACE = "https://dl.fbaipublicfiles.com/slip/"
SIZES = {"small": "s", "base": "b", "large": "l"}
FILES = (
    *(f"{kind}_{size}_25ep.pt" for size in SIZES for kind in ("clip", "simclr", "slip")),
    *(f"slip_{size}_{epochs}ep.pt" for size in SIZES for epochs in (50, 100)),
    *(f"{kind}_base_{data}.pt" for kind in ("clip", "slip") for data in ("cc3m_40ep", "cc12m_35ep")),
)
"""19 files. The authors have published neither sizes nor checksums, so these are noted when a file is fetched."""


def _name(file: str) -> str:
    kind, size, *data, epochs = file.removesuffix(".pt").split("_")
    return f"{kind}-vit-{SIZES[size]}16-{data[0] if data else 'yfcc15m'}-{epochs}"


ADDRESSES = {_name(file): PLACE + file for file in FILES}
"""The address of each model, by its name: method, architecture, data and epochs (`slip-vit-b16-yfcc15m-25ep`)."""


def address(name: str) -> str:
    """Return the address of the released model of that name; "" if the text is no such name.

    Raises CheckpointError for a text that looks like such a name, but is none.
    """
    if name in ADDRESSES:
        return ADDRESSES[name]
    if re.fullmatch(r"(slip|clip|simclr)-vit-[a-z0-9-]+", name):
        raise CheckpointError(
            "The authors of SLIP have released no model of this name",
            got=name,
            fix=did_you_mean(name, ADDRESSES),
        )
    return ""
