"""Choose the reader that opens labelled images, by the files found and the endings of their names."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from openslip.addresses import is_url, shown
from openslip.data.labelled.data_files import Asked, DataFiles, find
from openslip.data.labelled.labelled_set import Labelled, LabelledSet
from openslip.data.labelled.scenes import open_scenes
from openslip.data.labelled.splits import split_aliases, split_asked_for
from openslip.errors import DataError
from openslip.files import expand


def load_labelled(spec: str, split: str = "test", **columns: Any) -> Labelled:
    """Open one split (`train`, `test` or `val`) of the labelled images that `spec` names (see `open_labelled`)."""
    split = split_asked_for(split)
    return open_labelled(spec, **columns).split(split)


def open_labelled(
    spec: str,
    *,
    image_column: str = "",
    label_column: str = "",
    image_root: str = "",
    several: bool = False,
) -> LabelledSet:
    """Open the labelled images that `spec` names.

    - `scenes[:test|heldout|val[:count]]` (`val` for choosing settings, the others for reporting)
    - a folder, pattern or file of Parquet as hubs store it (`train-*.parquet`, an image column, a label column, class
      names in the schema or in `classes.json` beside it), also at a URL
    - `.csv`, `.tsv`, `.jsonl`, `.xlsx`: a table of image files and classes, perhaps with a column `split`
    - WebDataset shards (`.tar`), or a folder or pattern of them: the class in `.cls`, `.json`, or the folder's name
    - a folder of images, `<split>/<class>/*` or `<class>/*`
    - a folder with a published set in the layout of its archive (see `openslip.data.labelled.published`)

    Data without splits are split by a hash of each image's name: 20 % of every class for `test`, the rest for `train`,
    the same each time. image_column, label_column: of tables and Parquet files; for tar shards the endings of members,
    or a key of the `.json`. image_root: the folder that paths in a table are relative to. Each is guessed if empty.
    If `spec` names a test set alone, training files beside the test set are opened too. several: whether an image may
    have several labels.

    Raises DataError for data that cannot be used.
    """
    found = _open(spec, Asked(image_column, label_column, image_root), beside=True)
    if not several:
        found.require_single()
    return found


def open_named(
    spec: str, *, image_column: str = "", label_column: str = "", image_root: str = ""
) -> LabelledSet:
    """Open the labelled images that `spec` names, as `open_labelled` does, but no files beside them."""
    found = _open(spec, Asked(image_column, label_column, image_root), beside=False)
    found.require_single()
    return found


def _open(spec: str, asked: Asked, *, beside: bool) -> LabelledSet:
    name = dataset_name(spec)
    if spec.split(":")[0] == "scenes":
        return open_scenes(spec, name)
    path = expand(spec)
    try:
        if not (asked.image or asked.label) and (path.is_dir() or path.is_file()):
            from openslip.data.labelled.published import open_published

            if published := open_published(path, name):
                return published
        files = find(spec)
        if files and files.beside and not beside:
            files = _without_training(files, [])
        if files:
            where = shown(spec) if is_url(spec) else os.path.realpath(path)
            # With another column it is another set.
            where += f" ({asked.label})" if asked.label else ""
            try:
                return _open_files(files, name, where, asked)
            except DataError:
                # A metadata.csv may hold captions alone, while the folders beside it are classes.
                if not (files.kind == "table" and path.is_dir()) or asked.label:
                    raise
        from openslip.data.labelled.folder import open_folder

        found = open_folder(path, name)
        if asked.label:
            said = f"{name} has its classes in folders, and --data.label-column {asked.label} is not used"
            found = replace(found, notes=(*found.notes, said))
        return found
    except OSError as error:
        raise DataError("The labelled images cannot be listed", got=spec, cause=str(error)) from None


def _open_files(files: DataFiles, name: str, where: str, asked: Asked) -> LabelledSet:
    match files.kind:
        case "parquet":
            from openslip.data.labelled.parquet import open_parquet as open_files
        case "table":
            from openslip.data.labelled.table import open_table as open_files
        case "tar":
            from openslip.data.labelled.tar import open_tar as open_files
    try:
        return open_files(files, name, where, asked)
    except DataError as error:
        if not files.beside:
            raise
        # The named files may be measured without the training files beside them.
        said = f"The training files beside it cannot be used: {error}"
        return open_files(_without_training(files, [said]), name, where, asked)


def _without_training(files: DataFiles, notes: list[str]) -> DataFiles:
    splits = {split: some for split, some in files.splits.items() if split != "train"}
    return replace(files, splits=splits, notes=notes, beside=False)


def dataset_name(spec: str) -> str:
    """Return the short name of labelled or captioned data, from their spec. Nothing is read."""
    if spec.split(":")[0] == "scenes":
        kind = spec.partition(":")[2].partition(":")[0]
        return f"scenes:{kind}" if kind in ("heldout", "val") else "scenes"
    if of_split := re.fullmatch(r"(.+\.json):(\w+)", spec, re.DOTALL):  # of a file of Karpathy's
        name = dataset_name(of_split[1])
        return name if of_split[2] == "test" else f"{name}:{of_split[2]}"
    path = Path(os.path.abspath(expand(shown(spec))))
    names = "|".join(split_aliases())
    file = r"\.(parquet|tar|tgz|csv|tsv|txt|xlsx|jsonl?|ndjson)(\.gz)?$"
    while path.parent.name and re.match(rf"({names})(\b.*{file}|$)|(data|images)$", path.name):
        path = path.parent  # the name of a split does not tell what the data are
    stem = re.sub(rf"[*?\[{{].*$|{file}", "", path.name)
    return stem.rstrip("-_. ") or path.parent.name or spec
