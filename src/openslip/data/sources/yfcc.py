"""YFCC15M as SLIP's authors keep it: a pickle or Parquet file of titles and descriptions, images in 100,000 zips."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from openslip.data.captions import texts
from openslip.data.containers.pickles import read_list
from openslip.data.containers.zip import read_member
from openslip.data.contents import Contents
from openslip.data.record import Record, Source
from openslip.data.sources.entries import Texts, Unusable, short
from openslip.data.sources.image_files import Strings
from openslip.data.sources.options import Misfit
from openslip.data.sources.roots import around, choose_root, spread
from openslip.errors import DataError, encodable
from openslip.files import TEMPORARY, expand, open_regular, sync

INDICES = 10**8
"""An image's index has at most 8 digits."""

COLUMNS = ("index", "title", "description")
"""Columns of metadata in Parquet."""

ROWS = 1 << 16
"""Rows of a Parquet file written or read at a time."""

Row = tuple[int, str, str]
"""(index, title, description)."""


class Yfcc(Source):
    """Images of YFCC100M by index, each with its title and description as captions, unless they are blank.

    `path` is the metadata: a pickled list of (index, title, description), or a Parquet file with columns of these
    names (see `convert_metadata`). An entry that is an index alone is an image without captions. Image 12345678 is
    the member `678.jpg` of `images/12/345.zip`; `root` is the folder that holds `images`: `image_root` if given, else
    one near the metadata. Texts are used unchanged; `openslip.data.cleaning` makes metadata from the raw data.
    `contents` counts the entries that are not used: those of another form.

    Raises DataError when the metadata cannot be read or have another form, or when the images are nowhere to be
    found. Memory: 20 bytes per record, and its texts; while a pickle is opened, about four times the pickle's size.
    """

    block = 1
    options = ("image_root",)

    def __init__(self, path: str | Path, *, image_root: str = "") -> None:
        self.name = str(path)
        self._indices, self._texts = array("i"), Strings()  # texts: title, description, title, …
        self.contents = Contents("entries")
        for index, title, description in read_metadata(path, self.contents):
            self._indices.append(index)
            self._texts.append(title)
            self._texts.append(description)
        if not self._indices:
            raise DataError("The metadata list no images", got=self.name)
        self.root, guessed = self._find(path, image_root)
        twice = len(self) - len(np.unique(np.frombuffer(self._indices, np.intc)))
        again = (
            f"{twice:,} entries are of images listed before: each entry is a record of its own."
            if twice
            else ""
        )
        self.note = " ".join(filter(None, [guessed, again]))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`; its key is the image's 8 digits.

        Raises DataError when the zip file or its member cannot be read, IndexError beyond the end.
        """
        index = range(len(self))[index]
        number = self._indices[index]
        folder, member = zip_member(number)
        captions = texts([self._texts[2 * index], self._texts[2 * index + 1]])
        return Record(
            read_member(os.path.join(self.root, folder), member), captions, f"{number:08}", self.name
        )

    def _find(self, path: str | Path, image_root: str) -> tuple[str, str]:
        """Return the folder that holds `images/`, and a note if the folder was guessed."""
        given = expand(image_root)
        # Some name the folder `images` itself.
        roots = [given, given.parent] if image_root else around(path, "", "yfcc100m", "yfcc15m")
        zips = [zip_member(self._indices[i])[0] for i in spread(len(self))]
        root, _ = choose_root(zips, roots)
        if not any((root / name).is_file() for name in zips):
            raise Misfit(
                "image_root",
                f"The images that {self.name} lists are not where they were looked for",
                got=str(root / zips[0]),
                cause=f"None of the {len(zips)} zip files that were looked for is there",
                fix="Give the folder that holds images/00/000.zip, … with --data.image-root",
            )
        return str(root), "" if image_root else f"Images of {self.name}: {root / 'images'} (guessed)."


def is_yfcc(path: str | Path) -> bool:
    """Tell whether `path` looks like metadata of YFCC: a .pkl file, or a .parquet file with its three columns."""
    path = Path(path)
    if path.suffix.lower() != ".parquet":
        return path.suffix.lower() in (".pkl", ".pickle")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as file:
            return set(COLUMNS) <= set(pq.read_schema(file).names)
    except (OSError, ValueError, pa.ArrowException):  # ValueError: names that are no UTF-8
        return False


def zip_member(index: int) -> tuple[str, str]:
    """Return the zip file that holds an image, relative to the root, and the member's name."""
    digits = f"{index:08}"
    return f"images/{digits[:2]}/{digits[2:5]}.zip", f"{digits[5:]}.jpg"


def read_metadata(path: str | Path, contents: Contents | None = None) -> Iterator[Row]:
    """Yield the (index, title, description) of metadata in a pickle, or in a file that ends in .parquet.

    Raises DataError when the file cannot be read, and at the first entry of another form. With `contents`, which counts
    the entries, entries of another form are left out, unless they are the majority.
    """
    path = Path(path)
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else read_list(path)
    seen = contents or Contents("entries")
    unusable, drawn = Unusable(seen), Texts(path)
    for number, entry in enumerate(rows):
        seen.seen += 1
        match entry:
            case (int(index), str() | None as title, str() | None as description) if 0 <= index < INDICES:
                drawn.draw(title, description)
                yield index, title or "", description or ""
            case int(index) if 0 <= index < INDICES:
                yield index, "", ""
            case _:
                error = DataError(
                    f"Entry {number:,} of the metadata is not (index, title, description)",
                    got=f"{short(entry)}, in {path}",
                    cause="An index is a number of at most 8 digits, title and description are texts",
                )
                if contents is None:
                    raise error
                unusable.count("the entry is not (index, title, description)", error)
    unusable.judge()


def convert_metadata(pickle_path: str | Path, parquet_path: str | Path) -> int:
    """Write the metadata of a pickle to Parquet, which opens faster. Return the number of entries.

    The Parquet file appears whole or not at all. All entries are in memory at once: about four times the size of the
    pickle, several GB for YFCC15M. Raises DataError when the pickle cannot be read or the file cannot be written.
    """
    return write_metadata(read_metadata(pickle_path), parquet_path)


def write_metadata(rows: Iterable[Row], path: str | Path) -> int:
    """Write (index, title, description) rows as a Parquet file, whole or not at all. Return the number of rows.

    Raises DataError when the file cannot be written, or there are no rows; passes on what `rows` raises.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    schema = pa.schema(zip(COLUMNS, (pa.int32(), pa.string(), pa.string())))
    rows, count = iter(rows), 0
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while batch := list(islice(rows, ROWS)):
                columns = (map(encodable, column) if i else column for i, column in enumerate(zip(*batch)))
                arrays = [pa.array(column, field.type) for column, field in zip(columns, schema)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                count += len(batch)
        if not count:
            raise DataError(
                "There is not one image to write",
                cause="The table is empty, or no image has a text and is in all the given lists",
            )
        sync(temporary)
        os.replace(temporary, path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError("The metadata cannot be written", got=str(path), cause=str(error)) from None
    finally:
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
    return count


def _parquet_rows(path: Path) -> Iterator[tuple[object, ...]]:
    """Yield the rows of the three columns; the texts may be missing."""
    from openslip.data.containers.row_groups import RowGroups, open_file

    names = open_file(str(path)).schema_arrow.names
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise DataError(
            f"The metadata lack the column '{missing[0]}'",
            got=f"{path}, with the columns {', '.join(names)}",
            fix="The metadata of YFCC15M have the columns index, title and description",
        )
    yield from RowGroups([str(path)], COLUMNS).scan()
