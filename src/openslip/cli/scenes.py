"""slip scenes FOLDER"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from openslip.cli.arguments import parse

EXAMPLES = """\
slip scenes shards --scenes scenes:train:2000
    Write 2,000 scenes as tar shards.
"""


@dataclass(frozen=True)
class Options:
    """Which scenes, and where the shards go."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder for the shards."""
    scenes: str = "scenes:train:10000"
    """scenes[:split[:count]], split one of train, test, heldout."""
    shard_size: int = 1000
    """Scenes in one shard."""


def main(argv: list[str]) -> None:
    """Render to tar shards."""
    options = parse(
        Options,
        argv,
        prog="slip scenes",
        examples=EXAMPLES,
        description="Render the embedded scenes to WebDataset shards.",
    )

    from openslip.errors import printable
    from openslip.scenes import open_scenes
    from openslip.tools.convert import write_shards

    done = write_shards(
        open_scenes(options.scenes), options.folder, shard_size=options.shard_size, shown=True
    )
    shards = f"{len(done.paths):,} shard{'s' * (len(done.paths) != 1)}"
    print(printable(f"wrote {shards} to {options.folder}"))
