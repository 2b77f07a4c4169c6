"""The data files that a spec names (Parquet, tables or tar shards), and the split of each file."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from openslip.data.formats import EXTENSIONS
from openslip.data.labelled.splits import SPLITS, split_aliases, split_called
from openslip.data.storage.paths import ending, find_paths
from openslip.data.storage.retry import is_url, shown
from openslip.errors import DataError, did_you_mean, shortened
from openslip.files import expand

Kind = Literal["parquet", "tar", "table"]

KINDS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".tar": "tar",
    ".csv": "table",
    ".tsv": "table",
    ".jsonl": "table",
    ".xlsx": "table",
}
DEEP = 3
"""Levels of folders that are searched."""
MOST_FOLDERS = 200
"""Folders that are searched. A folder of classes may have more, but holds no data files."""
MOST_FILES = 10_000
"""Entries of a folder that are listed before the folder counts as one of pictures."""
TAKEN = "Labelled images come from a folder or a .parquet file, a table (.csv, .tsv, .jsonl, .xlsx), or .tar shards"
_WORD = re.compile(
    rf"(?:^|(?<=[-._ /]))({'|'.join(sorted(split_aliases(), key=len, reverse=True))})(?=[-._ /\d]|$)",
    re.IGNORECASE,
)


class Asked(NamedTuple):
    """What a person says about a set's columns. Empty values are guessed.

    image, label: columns of tables; for tar shards the ending of a member, or for the label a key of the `.json`.
    image_root: the folder that paths of images are relative to, if it is not the folder of the files.
    """

    image: str = ""
    label: str = ""
    image_root: str = ""


@dataclass(frozen=True)
class DataFiles:
    """The files of one labelled set, by `train`, `val`, `test`, or `all` alone if no name tells a split.

    root: the top folder that is searched for files with class names; None behind a URL. notes: sentences on the files
    that are taken and left out. beside: whether the training files were found beside the named files. kept: the folder
    with copies of what a server has beside the files.
    """

    kind: Kind
    splits: dict[str, list[str]]
    root: Path | None
    notes: list[str] = field(default_factory=list)
    beside: bool = False
    kept: Path | None = None

    @property
    def files(self) -> list[str]:
        """The files of all splits."""
        return [file for some in self.splits.values() for file in some]


def find(spec: str) -> DataFiles | None:
    """Return the data files that `spec` names: a file, several by a pattern or range, a folder of them, a URL.

    The named file or pattern is measured. Training files beside a test set are taken too; a training file alone is a
    set without splits. Returns None for a folder without data files, which may hold pictures. Raises DataError if
    nothing is found, or several sets.
    """
    path = Path(os.path.abspath(expand(spec)))
    if os.path.isdir(path):
        return _in_folder(path)
    if os.path.isfile(path):
        kind = KINDS.get(path.suffix.lower())
        if kind is None:
            raise DataError(TAKEN, got=spec, fix=_instead_of(path.name.lower()))
        return _named([str(path)], kind, spec)
    if os.path.exists(path):  # a pipe
        raise DataError(TAKEN, got=spec, fix="Name the folder that holds it.")
    if not (is_url(spec) or glob.has_magic(spec) or "{" in spec):
        raise _missing(spec, path)
    if is_url(spec) and ending(spec) not in KINDS and not glob.has_magic(spec):
        from openslip.data.labelled.remote_shards import find_remote

        if found := find_remote(spec):
            return found
    paths = find_paths(spec)
    kinds = {KINDS.get(ending(found)) for found in paths}
    kind = kinds.pop()
    if kinds or kind is None:
        raise DataError(TAKEN, got=shown(spec), fix="Name files of one of these kinds.")
    if kind == "table" and any(map(is_url, paths)):
        raise DataError(
            "Behind a URL, only Parquet files and tar shards are read as labelled images",
            got=shown(spec),
            fix="Copy the files to a disk of this machine, and name them there.",
        )
    return _named(paths, kind, spec)


def split_in(path: str) -> str:
    """Return the split in a file's name, else in its folders' names; "" if no name tells one.

    `train-00000-of-00004.parquet`, `imagenet-val-000.tar`, `test/0.tar`, `default/train/0000.parquet`.
    """
    *folders, name = path.replace(os.sep, "/").split("/")
    for part in (os.path.splitext(name)[0], *reversed(folders)):
        if found := _WORD.search(part):
            return split_called(found[1])
    return ""


def _in_folder(folder: Path) -> DataFiles | None:
    found = _look_through(folder)
    for kind in ("parquet", "tar", "table"):
        if paths := found.get(kind):
            if kind == "parquet" and (tars := found.get("tar")):
                # Beside each shard, img2dataset leaves a .parquet with the status of each sample.
                if {Path(tar).stem for tar in tars} >= {Path(path).stem for path in paths}:
                    continue
                raise DataError(
                    "The folder holds both Parquet files and tar shards, and it is unclear which are meant",
                    got=f"{folder}: {len(paths):,} × .parquet, {len(tars):,} × .tar",
                    fix=f"Name the files that you mean: '{_pattern(paths)}' or '{_pattern(tars)}'",
                )
            # The folder of a split is treated like files named after the split.
            split = split_called(folder.name)
            return _named(paths, kind, str(folder)) if split else _divided(paths, kind, folder)
    return None


def _look_through(folder: Path) -> dict[Kind, list[str]]:
    """Return the data files of the topmost level that has any.

    Beside pictures only Parquet files of the upper folders and tables of metadata count: the folders are classes then,
    and a tar file may be an archive of them.
    """
    found: dict[Kind, list[str]] = {}
    level, looked = [folder], 0
    for depth in range(DEEP + 1):
        below: list[Path] = []
        here: dict[Kind, list[str]] = {}
        pictures = False
        for parent in level[: MOST_FOLDERS - looked]:
            looked += 1
            files, folders, some = _entries(parent)
            for path in files:
                here.setdefault(KINDS[os.path.splitext(path)[1].lower()], []).append(path)
            below += folders
            pictures = pictures or some
        found = found or here
        if pictures:
            found.pop("tar", None)
            if depth > 1:
                found.pop("parquet", None)
        if "parquet" in found or pictures:
            break
        level = below
    return {kind: sorted(paths) for kind, paths in found.items()}


def _entries(folder: Path) -> tuple[list[str], list[Path], bool]:
    """Return the data files in a folder, its folders, and whether it holds pictures."""
    files, folders, pictures = [], [], False
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            stem, suffix = os.path.splitext(entry.name.lower())
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if suffix[1:] in EXTENSIONS:
                pictures = True
                if number > MOST_FILES:
                    break
            elif suffix in KINDS and entry.is_file():
                if KINDS[suffix] != "table" or stem == "metadata":
                    files.append(entry.path)
            elif entry.is_dir():
                folders.append(Path(entry.path))
    return files, sorted(folders), pictures


def _divided(paths: Sequence[str], kind: Kind, folder: Path) -> DataFiles:
    """Return the files of a folder by split."""
    root = _root(folder)
    inside = {path: os.path.relpath(path, folder) for path in paths}
    by_split = _by_split(inside)
    told = set(by_split) - {""}
    strict = any(_is_strict(inside[path]) for path in paths)
    if not told or (len(told) == 1 and not strict):
        notes = [f"{folder} is one set of {len(paths):,} files: {_some(paths)}"] if len(paths) > 1 else []
        return DataFiles(kind, {"all": list(paths)}, root, [] if _numbered(paths) else notes)
    _refuse_several(by_split, inside, folder)
    notes = []
    if left := by_split.pop("", []):
        notes.append(f"Files of no split in {folder} are left out ({len(left):,}): {_some(left)}")
    return DataFiles(kind, {split: by_split[split] for split in SPLITS if split in by_split}, root, notes)


def _named(paths: Sequence[str], kind: Kind, spec: str) -> DataFiles:
    """Return the named files by split, and the training files beside a test set."""
    far = any(map(is_url, paths))
    paths = paths if far else [os.path.abspath(path) for path in paths]
    folder = "" if far else os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    root = None if far else _root(Path(folder))
    inside = {path: "/".join(shown(path).split("/")[3:][-2:]) if far else _inside(path) for path in paths}
    by_split = _by_split(inside)
    told = set(by_split) - {""}
    if len(told) > 1:
        _refuse_several(by_split, inside, folder)
        notes = []
        if left := by_split.pop("", []):
            notes.append(f"Files of no split in {shown(spec)} are left out ({len(left):,}): {_some(left)}")
        return DataFiles(kind, {split: by_split[split] for split in SPLITS if split in by_split}, root, notes)
    beside = [] if far else _beside(paths, inside)
    split = "" if "" in by_split else told.pop()
    if split in ("test", "val"):
        train = [path for path in beside if split_in(_inside(path)) == "train"]
        if train:
            notes = [f"{shown(spec)} is measured; training uses the files beside it: {_some(train)}"]
            return DataFiles(kind, {"train": train, split: list(paths)}, root, notes, beside=True)
        if any(map(_is_strict, inside.values())):
            return DataFiles(kind, {split: list(paths)}, root)
    others = len(set(beside) - set(map(os.path.abspath, paths)))
    notes = (
        [f"{shown(spec)} alone is measured, without the other files of its set ({others:,})"]
        if others
        else []
    )
    return DataFiles(kind, {"all": list(paths)}, root, notes)


def _by_split(inside: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, name in inside.items():
        found.setdefault(split_in(name), []).append(path)
    return found


def _beside(paths: Sequence[str], inside: dict[str, str]) -> list[str]:
    """Return the files whose names belong to the same set, in this folder or in the folders of other splits."""
    first = os.path.abspath(paths[0])
    folder, suffix = os.path.dirname(first), os.path.splitext(first)[1]
    if split_called(os.path.basename(folder)):
        pattern = os.path.join(glob.escape(os.path.dirname(folder)), "*", f"*{suffix}")
    else:
        pattern = os.path.join(glob.escape(folder), f"*{suffix}")
    names = {_name_parts(name) for name in inside.values()}
    return [path for path in sorted(glob.glob(pattern)) if _name_parts(_inside(path)) in names]


def _inside(path: str) -> str:
    """Return the part of a path that may tell the split: the file's name, and its folder's if that names a split."""
    folder, name = os.path.split(os.path.abspath(path))
    parent = os.path.basename(folder)
    return f"{parent}/{name}" if split_called(parent) else name


def _root(folder: Path) -> Path:
    """Return the folder of the set that a folder of data files belongs to."""
    while (split_called(folder.name) or folder.name == "data") and folder.parent != folder:
        folder = folder.parent
    return folder


def _is_strict(name: str) -> bool:
    """Return whether a file is named after a split, `train-0.parquet`, not just with the word, `my_train.parquet`."""
    *folders, last = name.replace(os.sep, "/").split("/")
    return any(map(split_called, (os.path.splitext(last)[0].split("-")[0], *folders)))


def _name_parts(name: str) -> tuple[str, ...]:
    """Return a file's name without split and numbers. These words tell apart sets in one folder."""
    stem = _WORD.sub("", os.path.splitext(name.replace(os.sep, "/"))[0].lower())
    return tuple(
        word for word in re.findall(r"[^\W\d_]+", stem) if word not in ("of", "data", "default", "part")
    )


def _numbered(paths: Iterable[str]) -> bool:
    return len({_name_parts(os.path.basename(path)) for path in paths}) == 1


def _refuse_several(by_split: dict[str, list[str]], inside: dict[str, str], folder: Path | str) -> None:
    """Raise DataError if a split occurs more than once, as in several configurations of a set side by side."""
    for split, paths in by_split.items():
        kinds: dict[tuple[str, ...], str] = {}
        for path in paths:
            kinds.setdefault(_name_parts(inside[path]), path)
        if split and len(kinds) > 1:
            raise DataError(
                f"{shown(str(folder)) or 'The pattern'} holds several sets side by side",
                got=shortened(", ".join(inside[path] for path in kinds.values())),
                cause=f"Each has files for {split}",
                fix=f"Name the set that you mean, for example '{_like(next(iter(kinds.values())), inside)}'",
            )


def _like(path: str, inside: dict[str, str]) -> str:
    """Return a pattern or folder that names only the set of a file."""
    name = inside[path].replace(os.sep, "/")
    first, slash, _ = name.partition("/")
    if slash and not split_in(first):
        return path[: len(path) - len(name)] + first
    stem = _WORD.sub("*", os.path.splitext(os.path.basename(path))[0])
    return os.path.join(
        os.path.dirname(path), re.sub(r"\d+(-of-\d+)?$", "*", stem) + os.path.splitext(path)[1]
    )


def _pattern(paths: Sequence[str]) -> str:
    return os.path.join(os.path.dirname(paths[0]), f"*{os.path.splitext(paths[0])[1]}")


def _some(paths: Sequence[str]) -> str:
    names = [os.path.basename(shown(path)) if is_url(path) else _inside(path) for path in paths[:3]]
    return ", ".join(names) + (f" and {len(paths) - 3:,} more" if len(paths) > 3 else "")


def _instead_of(name: str) -> str:
    """Return what to do with a file that is not read."""
    if re.search(r"\.(zip|7z|rar|tgz|tar\.\w+|gz|bz2|xz|zst)$", name):
        return "Unpack it, and name the folder with the contents."
    if name.endswith((".json", ".txt", ".xml", ".yaml", ".yml")):
        return "Convert it to a .csv with one line for each picture, its file and its class: image,label."
    if name.rpartition(".")[2] in EXTENSIONS:
        return "Name the folder of its set."
    return "Write its pictures as files, in folders named like their classes, and name the folder that holds them all."


def _missing(spec: str, path: Path) -> DataError:
    siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    close = difflib.get_close_matches(path.name, siblings)
    fix = did_you_mean(path.name, close) if close else "Check the path."
    if spec.startswith(("hf:", "hf-stream:")):
        fix = (
            "Download the set (hf download NAME --repo-type dataset --local-dir FOLDER), and name its folder."
        )
    return DataError("There are no labelled images at this place", got=spec, fix=fix)
