"""Image files that a table names, as the images of a labelled set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.data.labelled.labelled_set import Image
from openslip.data.record import ImageFile
from openslip.data.sources.image_files import ImageFiles
from openslip.data.storage.retry import is_url, shown
from openslip.errors import DataError
from openslip.files import expand

if TYPE_CHECKING:
    import pyarrow as pa


class Pictures(Sequence[Image]):
    """The files at `paths`, which the table at `table` names in a column, read when indexed. Picklable.

    Relative paths start at `image_root`, else at the table's folder or one beside it; `note` says which. own: returns
    the other columns by `rows(indices)`, if there are any, and may have a `note` on them. Raises DataError if no file
    is there.
    """

    own: Any = None

    def __init__(self, table: str, paths: Iterable[str], image_root: str, column: str) -> None:
        if is_url(table) and not image_root:
            raise DataError(
                f"Column '{column}' of {shown(table)} holds paths, but the table is not on this machine",
                fix="Give the folder that the paths are relative to with --data.image-root",
            )
        root = expand(image_root).absolute() if image_root else Path(table).absolute().parent
        self.files = ImageFiles(shown(table), root, ((path, ()) for path in paths))
        self.files.probe(
            "Give the folder that the paths are relative to with --data.image-root, or the column that names the files "
            "with --data.image-column",
            table="" if image_root else Path(table).absolute(),
        )

    @property
    def note(self) -> str:
        """What was guessed about the places and spellings of the files, "" if nothing was."""
        return getattr(self.files, "note", "")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self.files[index].image

    def key(self, index: int) -> str:
        return self.files.path(index)

    def file(self, index: int) -> ImageFile:
        return self.files.file(index)

    def own_columns(self, indices: Sequence[int]) -> pa.Table | None:
        return self.own.rows(indices) if self.own else None

    @property
    def columns_note(self) -> str:
        return self.own.note if self.own else ""
