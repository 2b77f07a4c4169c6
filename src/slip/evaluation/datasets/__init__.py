"""Labelled images: scenes, Parquet as data hubs store it, and folders of one folder a class.

Images stay where they are until asked for: `Labelled.images[i]` reads the i-th one, as encoded bytes or as an array.
"""

from __future__ import annotations

import difflib
import os
import re

from slip.addresses import shown
from slip.errors import DataError, did_you_mean
from slip.evaluation.datasets import splits
from slip.evaluation.datasets.labelled import Image, Labelled, LabelledSet
from slip.files import expand

__all__ = ["Image", "Labelled", "LabelledSet", "dataset_name", "load_labelled", "open_labelled"]


def load_labelled(spec: str, split: str = "test") -> Labelled:
    """Open one split (`train`, `test` or `val`) of the labelled images that `spec` names (see `open_labelled`)."""
    split = splits.asked_for(split)
    return open_labelled(spec).split(split)


def open_labelled(spec: str) -> LabelledSet:
    """Open the labelled images that `spec` names.

    spec: `scenes[:test|heldout|val[:count]]` (`val` to choose settings by, the others to report); a folder or file of
    Parquet as hubs store it (`train-*.parquet`, an image column, a label column, class names in the schema or in
    `classes.json` beside it); or a folder of images, `<split>/<class>/*` or `<class>/*`. Data without splits are split
    by a hash of each image's name: 20 % of every class for `test`, the rest for `train`, the same each time.

    Raises DataError for data that cannot be used.
    """
    name = dataset_name(spec)
    if spec.split(":")[0] == "scenes":
        from slip.evaluation.datasets.scenes import open_scenes

        return open_scenes(spec, name)
    path = expand(spec)
    if not os.path.exists(path):
        siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
        close = difflib.get_close_matches(path.name, siblings)
        raise DataError(
            "There are no labelled images at this place",
            got=spec,
            fix=did_you_mean(path.name, close) if close else "Check the path.",
        )
    if not path.is_dir() and not (path.is_file() and path.suffix == ".parquet"):
        raise DataError(
            "Labelled images come from a folder or a .parquet file",
            got=spec,
            fix="Give the folder that holds it.",
        )
    try:
        if not path.is_dir() or any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
            from slip.evaluation.datasets.parquet import open_parquet

            return open_parquet(path, name)
        from slip.evaluation.datasets.folder import open_folder

        return open_folder(path, name)
    except OSError as error:
        raise DataError("The labelled images cannot be listed", got=spec, cause=str(error)) from None


def dataset_name(spec: str) -> str:
    """Return the short name of labelled or captioned data, from what was given to open them (nothing is read)."""
    if spec.split(":")[0] == "scenes":
        kind = spec.partition(":")[2].partition(":")[0]
        return f"scenes:{kind}" if kind in ("heldout", "val") else "scenes"
    path = expand(shown(spec)).absolute()
    names = "|".join(splits.aliases())
    while re.match(rf"(({names})\b.*\.parquet|{names}|data|images)$", path.name) and path.parent.name:
        path = path.parent
    stem = re.sub(r"[*?\[{].*$|\.(parquet|tar|csv|tsv|jsonl?)$", "", path.name)
    return stem.rstrip("-_. ") or path.parent.name or spec
