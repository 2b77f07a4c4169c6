"""What check, convert and show are told about the source."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from slip.cli.arguments import say_note
from slip.config import FORMATS
from slip.errors import DataError

if TYPE_CHECKING:
    from slip.data.record import Source

RECIPE = "small-data"
"""The recipe for pictures of one's own, whose views and batch are taken here."""


@dataclass(frozen=True)
class SourceOptions:
    """Which pictures and captions."""

    source: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SOURCE", help=f"What `slip train` reads: {FORMATS}. Several: 'A + B'."),
    ]
    _: KW_ONLY
    image_root: str = ""
    """Folder that image paths in a table or COCO file are relative to; empty: guessed."""
    image_column: str = ""
    """Column of a table that holds the image; empty: guessed from the header."""
    caption_column: str = ""
    """Column of a table that holds the caption; empty: guessed from the header."""

    def open(self, *, say: bool = True) -> Source:
        """Open the source, and say what was guessed."""
        from slip.data.sources import open_source

        try:
            source = open_source(
                self.source,
                image_root=self.image_root,
                image_column=self.image_column,
                caption_column=self.caption_column,
                captions_required=False,
            )
        except DataError as error:
            # What `slip train` calls --data.image-root is --image-root here.
            fix = error.fix.replace("--data.", "--")
            raise DataError(error.what, got=error.got, cause=error.cause, fix=fix) from None
        if say:
            say_note(source)
        return source
