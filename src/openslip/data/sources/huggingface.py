"""Data sets of the Hugging Face hub and its `datasets` library: downloaded, saved to disk, or read on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openslip.data.contents import Contents
from openslip.data.record import ImageFile, Record, Source
from openslip.data.sources.arrow import (
    LOOKED_AT,
    CheckedColumn,
    choose_typed,
    find_file,
    has_bytes,
    holds,
    make_record,
)
from openslip.data.sources.cells import refuse_urls
from openslip.data.sources.other_columns import holds_bytes
from openslip.data.sources.parquet import open_parquet
from openslip.errors import DataError, did_you_mean
from openslip.files import expand

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

T = TypeVar("T")
_HOW = (
    "Write hf:owner/name, hf:owner/name/config or hf:folder, followed by :split for a split other than train; "
    "hf-stream: instead of hf: downloads nothing"
)
_CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps a Parquet copy of a set: config/split/0000.parquet."""

_SPLIT_WORD = re.compile(r"(?:^|[-._])(train|training|validation|valid|val|dev|test|testing)(?=[-._\d]|$)")
_SPLIT_NAMES = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
}


def open_hub(
    spec: str,
    *,
    image_root: str = "",
    image_column: str = "",
    caption_column: str = "",
    captions_required: bool = True,
) -> Source:
    """Open `hf:NAME[:SPLIT]` or `hf-stream:NAME[:SPLIT]`; the default split is train, or the only one.

    NAME is `owner/name` or `owner/name/config` on the hub, or a local folder: one that `Dataset.save_to_disk` wrote,
    or one of Parquet files named after their splits. `hf:` downloads the set with the `datasets` library, once;
    `hf-stream:` reads the set's Parquet files on the hub, row group by row group. SPLIT may be a part, as in
    `train[:10%]`, where `datasets` reads the set. A set's own code is never run.

    Raises DataError when there is no such set, config, split or column, or when `datasets` is not installed.
    """
    scheme, _, rest = spec.partition(":")
    name, _, split = (rest, "", "") if os.path.exists(expand(rest)) else rest.partition(":")
    options: dict[str, Any] = {
        "image_root": image_root,
        "image_column": image_column,
        "caption_column": caption_column,
        "captions_required": captions_required,
    }
    folder = expand(name)
    if name and os.path.isdir(folder):
        if any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
            dataset, taken, splits = _load_saved(folder, split)
            return _hub_dataset(dataset, "" if split else taken, splits, spec, options)
        try:
            visible = [path for path in sorted(folder.rglob("*.parquet")) if not path.name.startswith(".")]
        except OSError as error:
            raise DataError("The folder cannot be listed", got=name, cause=str(error)) from None
        found = {path.relative_to(folder).as_posix(): str(path) for path in visible}
        if not found:
            raise DataError(
                "The folder holds neither a saved set of the `datasets` library nor Parquet files",
                got=name,
                fix="Give the folder that save_to_disk wrote, or one with files like train-00000-of-00001.parquet",
            )
        return _open_picked(found, "", split, spec, options)
    parts = name.split("/")
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts):
        raise DataError(
            "There is no such folder, and this cannot be the name of a set on the hub", got=name, fix=_HOW
        )
    repository, config = "/".join(parts[:2]), "".join(parts[2:])
    if scheme == "hf":
        dataset = _download(repository, config, split or "train")
        splits = list(dataset.info.splits or ())
        return _hub_dataset(dataset, "" if split else "train", splits, spec, options)
    return _open_picked(_hub_files(repository), config, split, spec, options)


def _hub_dataset(
    dataset: datasets.Dataset, taken: str, splits: list[str], spec: str, options: dict[str, Any]
) -> Source:
    """Open a set. `taken`: the split that was taken by default, of these `splits`."""
    source = HubDataset(dataset, name=spec, **options)
    source.note = _joined(_split_note(taken, splits, spec) if taken else "", source.note)
    return source


def _open_picked(
    files: dict[str, str], config: str, split: str, spec: str, options: dict[str, Any]
) -> Source:
    picked = pick(files, config, split, spec)
    source = open_parquet(picked, name=spec, **options)
    places = {place: split_of(path) for path, place in files.items()}
    taken = {places[place] for place in picked}
    if not split:
        source.note = _joined(_split_note(taken.pop(), filter(None, places.values()), spec), source.note)
    return source


def _split_note(taken: str, splits: Iterable[str], spec: str) -> str:
    """Return the note on a split that was taken by default; "" if there is no other."""
    others = sorted({str(split) for split in splits} - {taken})
    if not others:
        return ""
    return f"Split {taken!r} of {spec} is taken; there are also {', '.join(map(repr, others[:10]))}: {spec}:{others[0]}"


def _joined(*notes: str) -> str:
    return ". ".join(note.rstrip(".") for note in notes if note)


class HubDataset(Source):
    """The records of a `datasets.Dataset`, in its order. Images are taken as they are stored, never decoded.

    Columns are chosen as for Parquet (see `arrow.choose_typed`); `note` says what was guessed. A record's key is
    name:row. The source pickles as the set does: by the names of the set's files, unless the set is in memory.
    Raises DataError when the set is empty, or when its columns cannot be chosen.
    """

    options = ("image_root", "image_column", "caption_column")

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        name: str,
        image_root: str = "",
        image_column: str = "",
        caption_column: str = "",
        captions_required: bool = True,
    ) -> None:
        if not len(dataset):
            raise DataError("The set has no rows", got=name)
        schema = dataset.features.arrow_schema
        self.name, self.root = name, os.path.expanduser(image_root)
        self.chosen = choose_typed(
            schema,
            name,
            image_column=image_column,
            caption_column=caption_column,
            captions_required=captions_required,
            look=partial(_first_values, dataset),
        )
        self.note = self.chosen.note(name)
        self._names = (self.chosen.image, *self.chosen.captions)
        self._rows = dataset.select_columns(list(dict.fromkeys(self._names)))
        others = [field for field in dataset.data.schema if field.name not in self._names]
        self._other_names = [field.name for field in others if not holds_bytes(field.type)]
        self._others = dataset.select_columns(self._other_names) if self._other_names else None
        self._in_bytes = [field.name for field in others if holds_bytes(field.type)]
        self.contents = Contents("rows", len(dataset))
        self._columns: _Checked | None = None
        self._other_columns: _Checked | None = None
        if holds(schema.field(self.chosen.image).type) == "text":
            for index in range(min(100, len(self))):
                with suppress(ValueError, IndexError):
                    refuse_urls([self._values(index)[0]], self.chosen.image, name)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when it cannot be read, IndexError beyond the end."""
        key, values = self._read(range(len(self))[index], self._values)
        return make_record(values, self.chosen, key=key, name=self.name, root=self.root)

    def file(self, index: int) -> ImageFile | None:
        key, values = self._read(range(len(self))[index], self._values_of_file)
        if values is None:
            return None
        return find_file(values, self.chosen, key=key, name=self.name, root=self.root)

    def _read(self, index: int, read: Callable[[int], T]) -> tuple[str, T]:
        """Return the key of a row, and what `read` returns for it. Raises DataError when the row cannot be read."""
        key = f"{self.name}:{index}"
        try:
            return key, read(index)
        except (OSError, ValueError, LookupError) as error:  # files gone or damaged; text that is not UTF-8
            raise DataError("The row cannot be read", got=key, cause=str(error)) from None

    def _values_of_file(self, index: int) -> list[Any] | None:
        """Return the columns' values in a row without image bytes, None for a row that has them."""
        index, (image, *captions) = self._place(index)
        if has_bytes(scalar := image.scalar(index)):
            return None
        return [scalar.as_py(), *(column[index] for column in captions)]

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the other columns of these rows, with the set's types; columns that hold bytes are left out.

        Damaged cells are null.
        """
        if self._others is None:
            return None
        import pyarrow as pa

        if self._other_columns is None:
            self._other_columns = _checked(self._others, self._other_names)
        order, columns = self._other_columns
        rows = indices if order is None else [order[index] for index in indices]
        return pa.table([column.take(rows) for column in columns], names=self._other_names)

    @property
    def columns_note(self) -> str:  # type: ignore[override]
        left_out = ", ".join(map(repr, self._in_bytes))
        return f"Columns of {self.name} that hold bytes are left out: {left_out}" if left_out else ""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": None, "_other_columns": None}

    def _values(self, index: int) -> list[Any]:
        """Return the columns' values in a row, from the table itself: the set's features would decode images."""
        index, columns = self._place(index)
        return [column[index] for column in columns]

    def _place(self, index: int) -> tuple[int, list[CheckedColumn]]:
        """Return the position of a row in the table, and the columns of image and captions."""
        if self._columns is None:
            self._columns = _checked(self._rows, self._names)
        order, columns = self._columns
        return index if order is None else order[index], columns


_Checked = tuple[CheckedColumn | None, list[CheckedColumn]]
"""The order of the rows, None for the order of the table, and the columns."""


def _checked(dataset: Any, names: Sequence[str]) -> _Checked:
    order = None if dataset._indices is None else CheckedColumn(dataset._indices.column(0))
    return order, [CheckedColumn(dataset.data.column(name)) for name in names]


def _first_values(dataset: Any, name: str) -> list[Any]:
    """Return the values of a column in the first rows, as far as they can be read."""
    order, (column,) = _checked(dataset, [name])
    found = []
    for row in range(min(LOOKED_AT, len(dataset))):
        with suppress(ValueError, LookupError):
            found.append(column[row if order is None else order[row]])
    return found


def pick(files: dict[str, str], config: str, split: str, where: str) -> list[str]:
    """Return the Parquet files of one split and config of a set.

    `files`: path within the set → local path or URL. The config is a folder; it may be left out where there is only
    one, or one called `default`. The split is in the name of the file or its folder; "" is train, or the only split.
    Raises DataError when there are no such files, or several configs to choose from.
    """
    if config:
        folders = sorted({folder for path in files for folder in path.split("/")[:-1]})
        if config not in folders:
            raise DataError(
                f"{where} has no config {config!r}", fix=did_you_mean(config, folders or ["(none)"])
            )
        files = {path: place for path, place in files.items() if config in path.split("/")[:-1]}
    by_split: dict[str, list[str]] = {}
    for path in sorted(files):
        by_split.setdefault(split_of(path), []).append(path)
    wanted = _SPLIT_NAMES.get(split, split) or ("train" if "train" in by_split else "")
    if not wanted and len(by_split) == 1:
        wanted = next(iter(by_split))
    if wanted not in by_split:
        raise DataError(
            f"{where} has no split {split or 'train'!r} among its Parquet files",
            fix=did_you_mean(split or "train", filter(None, by_split))
            if any(by_split)
            else "Leave the split out",
        )
    chosen = by_split[wanted]
    configs = {_config_of(path) for path in chosen}
    if not config and len(configs) > 1:
        if "default" not in configs:
            raise DataError(
                f"{where} has several configs", got=", ".join(sorted(configs)[:20]), fix=f"Choose one. {_HOW}"
            )
        chosen = [path for path in chosen if _config_of(path) == "default"]
    return [files[path] for path in chosen]


def split_of(path: str) -> str:
    """Return the split that a Parquet file of a set belongs to, by its name or its folders' names; "" if by none.

    Hubs lay out files as `data/train-00000-of-00004.parquet`, `default/train/0000.parquet` or `val.parquet`.
    """
    *folders, stem = path.removesuffix(".parquet").split("/")
    numbered = re.match(r"(\w+(?:\.\w+)*)-\d+-of-\d+", stem)
    name = numbered[1] if numbered else folders[-1] if len(folders) > 1 and stem.isdigit() else ""
    if not name:
        words = filter(None, map(_SPLIT_WORD.search, (stem, *reversed(folders))))
        name = next((word[1] for word in words), "")
    return _SPLIT_NAMES.get(name, name)


def _config_of(path: str) -> str:
    """Return the folder of a file, without a last folder that is named after the split."""
    folders = path.split("/")[:-1]
    if folders and (split_of(folders[-1]) or path.split("/")[-1][:-8].isdigit()):
        folders.pop()
    return "/".join(folders)


def _hub_files(repository: str) -> dict[str, str]:
    """Return path → URL of a set's Parquet files on the hub: of the hub's copy if that is whole, else the set's own."""
    converted, own = list_hub(repository, _CONVERTED), {}
    partial = any("partial-" in path for path in converted)
    if partial or not converted:
        own = list_hub(repository, "")
    found = own or ({} if partial else converted)
    if not found:
        raise DataError(
            "The hub has no whole copy of the set in Parquet files"
            if partial
            else "The set has no Parquet files",
            got=repository,
            cause="No set has that name, or it is not public and you are not logged in, or it has another format",
            fix=f"Check the name, or download the set: hf:{repository} instead of hf-stream:{repository}",
        )
    return found


def list_hub(repository: str, revision: str) -> dict[str, str]:
    """Ask the hub for the Parquet files of a set: path within it → URL; {} if there is no such set or revision."""
    try:
        from huggingface_hub import HfFileSystem
    except ImportError:
        raise _not_installed("huggingface_hub") from None
    root = f"datasets/{repository}"
    try:
        found = HfFileSystem().find(root, revision=revision or None)
    except FileNotFoundError:
        return {}
    except Exception as error:  # errors of the network, the hub or its library
        raise DataError("The hub does not list the set's files", got=repository, cause=str(error)) from None
    inside = re.compile(rf"{re.escape(root)}(@refs(%2F|/)convert(%2F|/)parquet)?/(?P<path>.+\.parquet)")
    matches = map(inside.fullmatch, found)
    return {match["path"]: f"hf://{match[0]}" for match in matches if match}


def _download(repository: str, config: str, split: str) -> datasets.Dataset:
    """Load a set of the hub, which downloads it unless it was downloaded before."""
    library = _library()
    try:
        return library.load_dataset(repository, config or None, split=split)
    except Exception as error:  # errors of the network, the hub, the set or the library
        raise DataError(
            "The set cannot be loaded from the hub",
            got=":".join(filter(None, [repository, config, split])),
            cause=str(error).strip().split("\n")[0] or repr(error),
            fix=_HOW,
        ) from None


def _load_saved(folder: Path, split: str) -> tuple[datasets.Dataset, str, list[str]]:
    """Open what `save_to_disk` wrote: a set, or a dictionary of sets by split. Return it, its split, and all splits."""
    library = _library()
    try:
        saved = library.load_from_disk(str(folder))
    except Exception as error:  # whatever damaged files make the library raise
        raise DataError(
            "The saved set cannot be read", got=str(folder), cause=str(error) or repr(error)
        ) from None
    if isinstance(saved, library.Dataset):
        if split and split != str(saved.split):
            raise DataError(
                f"{folder} holds a single set, not one named {split!r}", fix="Leave the split out"
            )
        return saved, "", []
    name = split or ("train" if "train" in saved or len(saved) != 1 else next(iter(saved)))
    if name not in saved:
        raise DataError(f"{folder} has no split {name!r}", fix=did_you_mean(name, saved))
    return saved[name], name, list(saved)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise _not_installed("datasets") from None
    return datasets


def _not_installed(package: str) -> DataError:
    return DataError(f"The library `{package}` is not installed", fix=f"Install it: pip install {package}")
