"""Image files that a table names, as the images of a labelled set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from openslip.data.labelled.labelled_set import Image
from openslip.data.sources.image_files import ImageFiles
from openslip.data.storage.retry import is_url, shown
from openslip.errors import DataError
from openslip.files import expand


class Pictures(Sequence[Image]):
    """The files at `paths`, which the table at `table` names in a column, read when indexed. Picklable.

    Relative paths are taken from `image_root`, else from the table's folder or one beside it, which `note` says.
    Raises DataError where no file is there.
    """

    def __init__(self, table: str, paths: Iterable[str], image_root: str, column: str) -> None:
        if is_url(table) and not image_root:
            raise DataError(
                f"Column '{column}' of {shown(table)} holds paths, and these are in no folder of this machine",
                fix="Give the folder that they are relative to with --data.image-root",
            )
        root = expand(image_root).absolute() if image_root else Path(table).absolute().parent
        self._files = ImageFiles(shown(table), root, ((path, ()) for path in paths))
        self._files.probe(
            "Give the folder that the paths are relative to with --data.image-root, or the column that names the files "
            "with --data.image-column",
            table="" if image_root else Path(table).absolute(),
        )

    @property
    def note(self) -> str:
        """What was guessed of the places and spellings of the files, "" where nothing was."""
        return getattr(self._files, "note", "")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self._files[index].image

    def key(self, index: int) -> str:
        return self._files.path(index)
