"""Tell what a folder on this machine holds: shards, a table with its pictures, a saved set, or pictures."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from openslip.data.contents import LeftOut
from openslip.data.formats import EXTENSIONS
from openslip.errors import DataError
from openslip.files import open_regular, read_whole

ENTRIES = 10_000
"""The most files and folders looked at for pictures beside shards."""
HEAD = 1 << 16
"""A table's header must be within this many bytes."""
TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".npy", ".pkl")
"""Endings of files that may name pictures and hold captions."""

_SPLIT = re.compile(r"train|val|dev|test", re.IGNORECASE)


@dataclass
class Layout:
    """What is taken of a folder: `paths` of shards, a table or annotation files, or the folder itself.

    taken: how many files are taken, if these are not the `paths`. left_out: reason → files that are not taken. notes:
    sentences for people.
    """

    kind: Literal["saved", "table", "shards", "annotations", "pictures"]
    paths: list[str]
    taken: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def lay_out(folder: str) -> Layout:
    """Return what to take of a folder.

    The first of these: a set that `datasets` saved; the table of a folder of pictures as data hubs have it
    (`metadata.csv` with a column `file_name`); .tar files; .parquet files; annotations of RedCaps; pictures. Of files
    or subfolders that are named after splits, those of `train` are taken. Hidden files do not count.
    Raises DataError where there are shards and more pictures than shards, or several splits but none for training.
    """
    from openslip.data.sources.redcaps import is_redcaps

    files, folders = _entries(folder)
    if "dataset_dict.json" in files or ("state.json" in files and any(_ends(files, ".arrow"))):
        how = "a set that the `datasets` library saved"
        if splits := _saved_splits(folder):
            how += f"; it has the splits {', '.join(splits)}, of which hf:{folder}:SPLIT takes one"
        return Layout("saved", [folder], notes=[f"{folder} is {how}"])
    tars, parquets = list(_ends(files, ".tar")), list(_ends(files, ".parquet"))
    tables = [name for ending in TABLES for name in _ends(files, ending)]
    if not (tars or parquets or tables or any(_extension(name) in EXTENSIONS for name in files)):
        if is_redcaps(folder):
            return Layout("annotations", [folder])
        return _one_of_subfolders(folder, folders, files) or Layout("pictures", [folder])
    named = [name for name in tables if not tars and _names_pictures(os.path.join(folder, name))]
    if len(named) == 1:
        return _with_notes(Layout("table", [os.path.join(folder, named[0])]), folder, set(tables) - {*named})
    if parquets and not tars and _is_of_img2dataset(folder, parquets, folders):
        return Layout("pictures", [folder])
    if tars:
        return _with_notes(
            _count_deeper(_shards(folder, tars), folder, folders, ".tar"),
            folder,
            {t for t in tables if _stem(t) not in map(_stem, tars)},
        )
    if parquets:
        return _with_notes(
            _count_deeper(
                choose_split([os.path.join(folder, name) for name in parquets], folder),
                folder,
                folders,
                ".parquet",
            ),
            folder,
            {*tables} - {*parquets},
        )
    if is_redcaps(folder):
        return Layout("annotations", [folder])
    return _one_of_subfolders(folder, folders, files) or Layout("pictures", [folder])


def choose_split(paths: Sequence[str], where: str) -> Layout:
    """Return the training shards in a folder if the names tell of several splits, else all shards.

    Raises DataError when none of several splits is for training.
    """
    by_split = split_names(paths)
    if len(by_split) < 2:
        return Layout("shards", list(paths))
    taken = "train" if "train" in by_split else ""
    if taken not in by_split:
        patterns = ", ".join(repr(f"{where}/*{_said(found[0])}*") for found in by_split.values())
        raise DataError(
            "The folder holds several splits, but none for training",
            got=f"{where}: {', '.join(f'{len(found)} × {split}' for split, found in by_split.items())}",
            fix=f"Name the files that you mean: {patterns}",
        )
    layout = Layout("shards", by_split.pop(taken))
    for split, found in sorted(by_split.items()):
        reason = (
            f"a file of another split ({split})" if split else "a file of no split beside those for training"
        )
        layout.left_out[reason] = LeftOut(len(found), os.path.basename(found[0]), lost=not split)
    others = ", ".join(f"{len(found):,} × {split or 'no split'}" for split, found in sorted(by_split.items()))
    warning = "warning: " if "" in by_split else ""
    layout.notes.append(
        f"{warning}In {where} the files {'for training' if taken else 'of no split'} are taken, "
        f"{len(layout.paths):,}; left out by their names: {others}"
    )
    return layout


def split_names(paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the shards by the splits in their names, "" for none."""
    from openslip.data.sources.huggingface import split_of

    if not any(map(_SPLIT.search, map(os.path.basename, paths))):
        return {"": list(paths)}
    by_split: dict[str, list[str]] = {}
    for path in paths:
        name = re.sub(r"-\d+-of-\d+$", "", _stem(os.path.basename(path)).lower())
        by_split.setdefault(split_of(f"{name}.parquet"), []).append(path)
    return by_split


def pictures_below(folder: str, most: int) -> list[str]:
    """Return some pictures in a folder or below, `most` of them at most; looks at ENTRIES files at most."""
    found: list[str] = []
    looked = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        found += [
            os.path.join(parent, name)
            for name in sorted(files)
            if not _hidden(name) and _extension(name) in EXTENSIONS
        ]
        looked += len(files) + len(folders)
        if len(found) >= most or looked > ENTRIES:
            break
    return found[:most]


def _files_below(folder: str, most: float = math.inf) -> list[str]:
    """Return the files in a folder and below, without hidden ones; links to folders are not followed. The walk ends
    once `most` files and folders were seen."""
    found: list[str] = []
    looked = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        found += [os.path.join(parent, name) for name in sorted(files) if not _hidden(name)]
        looked += len(files) + len(folders)
        if looked > most:
            break
    return found


def _count_deeper(layout: Layout, folder: str, folders: Sequence[str], ending: str) -> Layout:
    """Count the shards in subfolders, which are left out: only the folder's own shards are taken."""
    below = [file for name in folders for file in _files_below(os.path.join(folder, name), ENTRIES)]
    if deeper := _ends(below, ending):
        reason = f"a {ending} file in a subfolder: '{folder}/**/*{ending}' takes these as well"
        layout.left_out[reason] = LeftOut(len(deeper), os.path.relpath(deeper[0], folder))
    return layout


def refuse_mixed(folder: str, shards: Sequence[str]) -> None:
    """Raise DataError for a folder of which either the shards or the pictures may be meant."""
    pictures = pictures_below(folder, ENTRIES)
    endings = sorted({os.path.splitext(picture)[1] for picture in pictures})
    deep = "" if all(os.path.dirname(picture) == folder for picture in pictures) else "**/"
    names = endings[0][1:] if len(endings) == 1 else f"{{{','.join(ending[1:] for ending in endings)}}}"
    ending = os.path.splitext(shards[0])[1]
    count = f"{len(pictures):,}{' or more' * (len(pictures) == ENTRIES)}"
    raise DataError(
        f"The folder holds {ending} files and pictures, and only one kind can be meant",
        got=f"{folder}: {len(shards):,} × {ending} ({os.path.basename(shards[0])}), {count} pictures "
        f"({os.path.relpath(pictures[0], folder)})",
        fix=f"For the {ending} files write '{folder}/*{ending}', for the pictures '{folder}/{deep}*.{names}'",
    )


def _shards(folder: str, tars: Sequence[str]) -> Layout:
    paths = [os.path.join(folder, name) for name in tars]
    pictures = pictures_below(folder, len(tars) + 1)
    if len(pictures) > len(tars):
        refuse_mixed(folder, paths)
    layout = choose_split(paths, folder)
    if pictures:
        example = os.path.relpath(pictures[0], folder)
        layout.left_out["a picture beside the shards"] = LeftOut(len(pictures), example)
    return layout


def _with_notes(layout: Layout, folder: str, tables: set[str]) -> Layout:
    """Add notes on the table that is taken, and on tables that are not read."""
    if layout.kind == "table":
        layout.notes.append(
            f"From {folder} the table {os.path.basename(layout.paths[0])} and the pictures it names are taken"
        )
    if tables:
        names = ", ".join(sorted(tables)[:5]) + (f" and {len(tables) - 5} more" if len(tables) > 5 else "")
        layout.notes.append(f"Tables in {folder} that are not read: {names}")
        layout.left_out["a table beside what is taken"] = LeftOut(len(tables), min(tables), lost=False)
    return layout


def _one_of_subfolders(folder: str, folders: Sequence[str], files: Sequence[str]) -> Layout | None:
    """Return what is taken of a folder with subfolders for splits and `files`; None for another folder."""
    from openslip.data.sources.huggingface import split_of

    splits = {name: split_of(f"{name.lower()}/0.parquet") for name in folders if _SPLIT.match(name)}
    splits = {name: split for name, split in splits.items() if split and "." not in name}
    if len(set(splits.values())) < 2:
        return None
    taken = [name for name, split in splits.items() if split == "train"]
    others = sorted(set(folders) - {*taken})
    if len(taken) != 1:
        raise DataError(
            "The folder holds several splits, and none or several for training",
            got=f"{folder}: {', '.join(splits)}",
            fix=f"Name the folder that you mean, for example {os.path.join(folder, min(splits))}",
        )
    layout = lay_out(os.path.join(folder, taken[0]))
    inside = [file for other in others for file in _files_below(os.path.join(folder, other))]
    if inside:
        reason = "a file in a folder beside that for training"
        layout.left_out[reason] = LeftOut(len(inside), os.path.relpath(inside[0], folder), lost=False)
    pictures = [name for name in files if _extension(name) in EXTENSIONS]
    if pictures:
        layout.left_out["a picture beside the folders"] = LeftOut(len(pictures), pictures[0])
    layout.notes.insert(
        0,
        f"In {folder} the folder {taken[0]} is taken; left out: {', '.join(others[:10])}. Name one to take it instead",
    )
    return layout


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the files and of the folders in a folder, sorted, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir()) for entry in entries if not _hidden(entry.name))
    except OSError as error:
        raise DataError("The folder cannot be listed", got=folder, cause=str(error.strerror)) from None
    return [name for name, is_folder in names if not is_folder], [
        name for name, is_folder in names if is_folder
    ]


def _names_pictures(path: str) -> bool:
    """Whether a file is the table of a folder of pictures as data hubs have it; others may name only some pictures."""
    if os.path.basename(path).lower() not in ("metadata.csv", "metadata.tsv", "metadata.jsonl"):
        return False
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return re.match(rb"[^\n\r]*\bfile_name\b", head) is not None


def _is_of_img2dataset(folder: str, parquets: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether img2dataset wrote picture files there: 00000/*.jpg, and a 00000.parquet with the outcome of each."""
    from openslip.data.containers.row_groups import open_file

    beside = [name for name in parquets if _stem(name) in folders]
    if not beside:
        return False
    columns = open_file(os.path.join(folder, beside[0])).schema_arrow.names
    return {"url", "key", "status"} <= {*columns}


def _saved_splits(folder: str) -> list[str]:
    try:
        saved = json.loads(read_whole(os.path.join(folder, "dataset_dict.json"), HEAD))
        return [str(split) for split in saved["splits"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _ends(files: Sequence[str], ending: str) -> list[str]:
    return [name for name in files if name.lower().endswith(ending)]


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _extension(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _stem(name: str) -> str:
    return Path(name).stem


def _said(path: str) -> str:
    """Return the word in a name that tells its split."""
    found = re.search(r"train(ing)?|val(id(ation)?)?|dev|test(ing)?", os.path.basename(path), re.IGNORECASE)
    return found[0] if found else ""
