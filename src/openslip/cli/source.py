"""The options of commands about a source of pictures and captions, besides its name.

All commands use the same names: an option of `slip train` such as `--data.image-root` has this name in other commands
too, so advice can be followed everywhere. The other commands also know the short name, `--image-root`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from openslip.cli.arguments import print_notes
from openslip.config import SOURCES
from openslip.errors import UsageError

if TYPE_CHECKING:
    from openslip.data.record import Source

RECIPE = "small-data"
"""The recipe for the user's own pictures, whose views and batch are used here."""


def _also(name: str) -> object:
    return tyro.conf.arg(aliases=[f"--data.{name}"])


def refuse_unheeded(columns: Mapping[str, str], *sources: Source) -> None:
    """Raise UsageError for one of `columns` that has a value, but no effect on any of the sources."""
    heeded = {option for source in sources for option in source.options}
    for name, value in columns.items():
        if value and name not in heeded:
            raise UsageError(
                f"--{name.replace('_', '-')} has no effect here",
                got=value,
                cause=f"{' and '.join(source.name for source in sources)} has no such thing",
                fix="Leave it out",
            )


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """Where images and captions are, if not at the usual places."""

    image_root: Annotated[str, _also("image-root")] = ""
    """Folder that image paths in a table or COCO file are relative to; empty: guessed."""
    image_column: Annotated[str, _also("image-column")] = ""
    """Column of a table that holds the image, or the ending of the images in tar shards; empty: guessed."""
    caption_column: Annotated[str, _also("caption-column")] = ""
    """Column of a table that holds the caption, or the caption's ending or key in tar shards; empty: guessed."""
    label_column: Annotated[str, _also("label-column")] = ""
    """Column of a table that holds the class, or the class's ending or key in tar shards; empty: guessed."""

    leave_broken: Annotated[bool, _also("leave-broken")] = False
    """Leave out tar shards that cannot be read to their end, and list them, instead of refusing them."""

    @property
    def columns(self) -> dict[str, str]:
        """The options about columns and folders, as `open_source` takes them."""
        return {
            "image_root": self.image_root,
            "image_column": self.image_column,
            "caption_column": self.caption_column,
            "label_column": self.label_column,
        }

    def open_source(
        self, spec: str, *, captions_required: bool = True, leave_broken: bool | None = None
    ) -> Source:
        """Open the source `spec` with these options; `leave_broken` replaces the option unless None."""
        from openslip.data.sources import open_source

        source = open_source(
            spec,
            **self.columns,  # type: ignore[bad-argument-type]
            captions_required=captions_required,
            leave_broken=self.leave_broken if leave_broken is None else leave_broken,
        )
        refuse_unheeded(self.columns, source)
        return source


@dataclass(frozen=True)
class SourceOptions(ColumnOptions):
    """Which pictures and captions."""

    source: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SOURCE", help=f"What `slip train` reads: {SOURCES}. Several: 'A + B'."),
    ]

    _: KW_ONLY
    templates: Annotated[str, _also("templates")] = ""
    """Labelled images: templates for captions, in a file with {} for the class, or the name of a set."""
    class_names: Annotated[str, _also("class-names")] = ""
    """Labelled images: a JSON file with the names of the classes; empty: the names in the data."""

    @property
    def columns(self) -> dict[str, str]:
        return super().columns | {"templates": self.templates, "class_names": self.class_names}

    def open(self, *, notes: bool = True, leave_broken: bool | None = None) -> Source:
        """Open the source, and print what was guessed if `notes`; `leave_broken` as for `open_source`."""
        source = self.open_source(self.source, captions_required=False, leave_broken=leave_broken)
        if notes:
            print_notes(source)
        return source
