"""Sets whose pictures, labels or splits are in MAT-files: SVHN, Flowers-102, Stanford Cars, ImageNet's own archives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from openslip.data.containers.mat import read_mat
from openslip.data.labelled.array_images import ArrayImages, MemoryRows
from openslip.data.labelled.classes import Value
from openslip.data.labelled.published.archive import (
    Archive,
    Contents,
    Entries,
    Listing,
    as_number,
    in_order_of,
    lines,
    listed,
    part_of,
    there,
)
from openslip.data.labelled.published.binaries import DIGITS
from openslip.errors import DataError


def _svhn(root: Path) -> Contents:
    """`train_32x32.mat`: X, (32, 32, 3, N) pictures, and y, the digits, with 10 for 0."""
    parts, notes = {}, []
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        if not path.is_file():
            continue
        found = read_mat(path, "X", "y")
        pictures, digits = found["X"], np.ravel(found["y"]).astype(np.int64)
        if pictures.dtype != np.uint8 or pictures.shape != (32, 32, 3, len(digits)):
            raise DataError(f"{path} holds no pictures of 32 × 32 with a digit each", got=str(pictures.shape))
        rows = MemoryRows(pictures.T.reshape(len(digits), -1))  # columns, and channels, one after the other
        images = ArrayImages([rows], (3, 32, 32), (2, 1, 0), path.name)
        parts[split] = part_of(images, (digits % 10).tolist())
    if (root / "extra_32x32.mat").is_file():
        notes.append("extra_32x32.mat, which holds additional training pictures, is left out.")
    return Contents(parts, DIGITS, notes)


def _flowers(root: Path) -> Contents:
    """`imagelabels.mat`: labels, from 1 on, of `image_00001.jpg` and so on; `setid.mat`: trnid, valid and tstid."""
    labels = np.ravel(read_mat(root / "imagelabels.mat", "labels")["labels"]).astype(np.int64).tolist()
    ids = read_mat(root / "setid.mat", "trnid", "valid", "tstid")
    splits: Entries = {}
    for split, name in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        numbers = np.ravel(ids[name]).astype(np.int64).tolist()
        if numbers and not 1 <= min(numbers) <= max(numbers) <= len(labels):
            raise DataError(
                "setid.mat names pictures that have no label", got=f"{root}, {max(numbers)} of {len(labels)}"
            )
        splits[split] = [(f"image_{number:05d}.jpg", labels[number - 1]) for number in numbers]
    return listed(root / "jpg", splits)


def _cars(root: Path) -> Contents:
    """`cars_train_annos.mat`: annotations, each with fname and class, from 1 on; `cars_meta.mat`: class_names."""
    names = _texts(read_mat(root / "devkit/cars_meta.mat", "class_names")["class_names"], "cars_meta.mat")
    parts, notes = {}, []
    for split, path in (("train", root / "devkit/cars_train_annos.mat"), ("test", there(root, _CARS_TEST))):
        pictures = Listing(root / f"cars_{split}")
        rows = read_mat(path, "annotations")["annotations"]
        entries: list[tuple[str, Value]] = [(_cell(row, "fname"), _car(row, names, path)) for row in rows]
        parts |= pictures.parts({split: entries})
        notes += pictures.notes
    return Contents(parts, in_order_of(names), notes)


def _cars_together(root: Path) -> Contents:
    """`cars_annos.mat`: annotations of all pictures in `car_ims`, each with relative_im_path, class and test; and
    class_names."""
    path = root / "cars_annos.mat"
    found = read_mat(path, "annotations", "class_names")
    names = _texts(found["class_names"], path.name)
    splits: Entries = {"train": [], "test": []}
    for row in found["annotations"]:
        split = "test" if int(np.ravel(_cell(row, "test"))[0]) else "train"
        splits[split].append((os.path.basename(_cell(row, "relative_im_path")), _car(row, names, path)))
    return listed(root / "car_ims", splits, in_order_of(names))


def _imagenet(root: Path) -> Contents:
    """`val/ILSVRC2012_val_00000001.JPEG` and so on, all in one folder; perhaps folders of classes in `train`.

    The development kit's `ILSVRC2012_validation_ground_truth.txt` gives the class of each by its number in `meta.mat`.
    """
    kit = there(root, _KIT)
    rows = read_mat(kit / "data/meta.mat", "synsets")["synsets"]
    ids = {int(np.ravel(_cell(row, "ILSVRC2012_ID"))[0]): str(_cell(row, "WNID")) for row in rows}
    path = kit / "data/ILSVRC2012_validation_ground_truth.txt"
    numbers = [as_number(line, path) for line in lines(path)]
    if unknown := set(numbers) - ids.keys():
        raise DataError(f"{path} names classes that meta.mat does not", got=str(sorted(unknown)[:3]))
    known: list[tuple[str, Value]] = [
        (f"ILSVRC2012_val_{number:08d}.JPEG", ids[one]) for number, one in enumerate(numbers, 1)
    ]
    contents = listed(root / "val", {"val": known})
    if (root / "train").is_dir():
        train = Listing(root / "train")
        entries: list[tuple[str, Value]] = [
            (name, name.split(os.sep)[0]) for name in train.names if os.sep in name
        ]
        contents.parts |= train.parts({"train": entries})
        contents.notes += train.notes
    return contents


def _cell(row: Any, field: str) -> Any:
    """Return a field of a struct. Raises DataError if the struct has no such field."""
    if not isinstance(row, dict) or field not in row:
        raise DataError(f"An annotation in a MAT-file has no field {field!r}", got=str(list(row))[:100])
    return row[field]


def _texts(cells: Any, where: str) -> list[str]:
    """Return the texts in a cell array. Raises DataError for anything else."""
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
        raise DataError(f"The names of classes in {where} are not text")
    return cells


def _car(row: Any, names: list[str], path: Path) -> str:
    """Return the name of the class in an annotation of a car."""
    if "class" not in row:
        raise DataError(
            f"The pictures that {path.name} lists have no class",
            cause="The authors published annotations both with and without labels",
            fix="Fetch cars_test_annos_withlabels.mat, and put it beside cars_test.",
        )
    number = int(np.ravel(row["class"])[0])
    if not 1 <= number <= len(names):
        raise DataError(f"{path} has a class without a name", got=f"{number}; {len(names)} have names")
    return names[number - 1]


_CARS_TEST = (
    "cars_test_annos_withlabels.mat | devkit/cars_test_annos_withlabels.mat | devkit/cars_test_annos.mat"
)
_KIT = "ILSVRC2012_devkit_t12/ | devkit/"

ARCHIVES = (
    Archive("SVHN", ("test_32x32.mat",), _svhn),
    Archive("Flowers-102", ("jpg/", "imagelabels.mat", "setid.mat"), _flowers),
    Archive(
        "Stanford Cars",
        ("cars_train/", "cars_test/", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat", _CARS_TEST),
        _cars,
    ),
    Archive("Stanford Cars", ("car_ims/", "cars_annos.mat"), _cars_together),
    Archive(
        "ImageNet",
        (
            "val/ILSVRC2012_val_00000001.JPEG",
            _KIT.replace("/", "/data/meta.mat"),
            _KIT.replace("/", "/data/ILSVRC2012_validation_ground_truth.txt"),
        ),
        _imagenet,
    ),
)
