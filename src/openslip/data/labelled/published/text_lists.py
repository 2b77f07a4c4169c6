"""Pictures as files. Their names, or text files beside them, give the class and split of each picture."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from pathlib import Path

from openslip.data.labelled.classes import Naming, Value
from openslip.data.labelled.published.archive import (
    Archive,
    Contents,
    Entries,
    Listing,
    as_number,
    fields,
    first_of,
    in_order_of,
    lines,
    listed,
    there,
)
from openslip.errors import DataError
from openslip.files import read_json


def _by_folder(paths: list[str]) -> list[tuple[str, Value]]:
    """Return paths with the folder of each as its class."""
    return [(path, os.path.dirname(path)) for path in paths]


def _food101(root: Path) -> Contents:
    """`meta/train.txt`, or `.json`: `apple_pie/1005649` or {"apple_pie": ["apple_pie/1005649", …]}."""
    splits: Entries = {}
    for split in ("train", "test"):
        if (path := root / f"meta/{split}.txt").is_file():
            splits[split] = _by_folder(lines(path))
            continue
        try:
            found = read_json(root / f"meta/{split}.json", 64 << 20)
            splits[split] = [(str(name), str(value)) for value, names in found.items() for name in names]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                "A list of pictures cannot be read", got=f"{root}/meta/{split}.json", cause=str(error)
            ) from None
    return listed(root / "images", splits)


def _dtd(root: Path) -> Contents:
    """`labels/train1.txt`: `banded/banded_0002.jpg`. The first of ten partitions is the usual one."""
    splits: Entries = {
        split: _by_folder(lines(root / f"labels/{split}1.txt"))
        for split in ("train", "val", "test")
        if (root / f"labels/{split}1.txt").is_file()
    }
    return listed(root / "images", splits, notes=["The first of the partitions in labels/ is measured."])


def _pets(root: Path) -> Contents:
    """`annotations/trainval.txt`: `Abyssinian_100 1 1 1`, a name and the number of its breed."""
    splits: Entries = {}
    breeds: dict[int, str] = {}
    for split, file in (("train", "trainval"), ("test", "test")):
        path = root / f"annotations/{file}.txt"
        rows = [row for row in fields(path, 2) if not row[0].startswith("#")]
        splits[split] = [(name, name.rpartition("_")[0]) for name, *_ in rows]
        breeds |= {as_number(number, path): name.rpartition("_")[0] for name, number, *_ in rows}
    return listed(root / "images", splits, in_order_of(breeds[number] for number in sorted(breeds)))


def _aircraft(root: Path) -> Contents:
    """`images_variant_train.txt`: `1025794 707-320`. There are lists of families and manufacturers beside them."""
    splits: Entries = {
        split: [(name, value) for name, value in _pairs(root / f"images_variant_{split}.txt")]
        for split in ("train", "val", "test")
        if (root / f"images_variant_{split}.txt").is_file()
    }
    notes = ["The classes are the variants of aircraft, not the families or manufacturers."]
    return listed(root / "images", splits, in_order_of(lines(root / "variants.txt")), notes)


def _cub(root: Path) -> Contents:
    """`images.txt`, `image_class_labels.txt`, `train_test_split.txt` (1 for train), `classes.txt`: a number, a space,
    and the value of this number."""
    names, labels, trained, classes = (
        dict(_pairs(root / file))
        for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    )
    splits: Entries = {"train": [], "test": []}
    for number, path in names.items():
        if number not in labels or number not in trained or labels[number] not in classes:
            raise DataError(
                f"The lists of {root} do not fit together",
                got=f"picture {number}, {path}",
                fix="If a file was cut off, unpack the archive again.",
            )
        splits["train" if trained[number] == "1" else "test"].append((path, classes[labels[number]]))
    return listed(root / "images", splits, in_order_of(classes.values()))


def _sun397(root: Path) -> Contents:
    """`Training_01.txt` (of the archive Partitions): `/a/abbey/sun_aaalbzqrimafwbiv.jpg`. The first of ten partitions
    is the usual one. `ClassName.txt`: `/a/abbey`."""
    splits: Entries = {}
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        path = first_of(root, f"{file} | Partitions/{file} | ../Partitions/{file} | ../{file}")
        if path is not None:
            splits[split] = [(line.lstrip("/"), _sun_class(os.path.dirname(line))) for line in lines(path)]
    naming = in_order_of(map(_sun_class, lines(root / "ClassName.txt")))
    if len(splits) == 2:
        notes = ["The first of the ten partitions is measured; pictures that are not in it are left out."]
        return listed(root, splits, naming, notes)
    every = [(name, _sun_class(os.path.dirname(name))) for name in Listing(root).names]
    notes = ["Without Training_01.txt and Testing_01.txt (the archive Partitions), the set has no splits."]
    known = [(name, value) for name, value in every if value in naming.names]
    return listed(root, {"all": known}, naming, notes)


def _sun_class(folder: str) -> str:
    """Return the class in `/c/church/indoor`: `church indoor`."""
    return " ".join(folder.strip("/").split("/")[1:])


def _gtsrb(root: Path) -> Contents:
    """Folders of numbered classes to train on, and `GT-final_test.csv`: `Filename;…;ClassId` of the test pictures."""
    train, test, table = (there(root, one) for one in (_GTSRB_TRAIN, _GTSRB_TEST, _GTSRB_TABLE))
    try:
        rows = list(csv.DictReader(lines(table), delimiter=";", skipinitialspace=True))
    except csv.Error as error:
        raise DataError("A list of pictures cannot be read", got=str(table), cause=str(error)) from None
    if not rows or not {"Filename", "ClassId"} <= rows[0].keys():
        raise DataError(
            f"{table} has no columns Filename and ClassId", got=", ".join(map(str, rows[0])) if rows else ""
        )
    pictures, tested = Listing(train), Listing(test)
    names = [
        (name, as_number(os.path.dirname(name), train)) for name in pictures.names if os.path.dirname(name)
    ]
    parts = pictures.parts({"train": names})
    listed_ones: list[tuple[str, Value]] = [
        (row["Filename"] or "", as_number(row["ClassId"] or "", table)) for row in rows
    ]
    parts |= tested.parts({"test": listed_ones})
    return Contents(parts, None, [*pictures.notes, *tested.notes])


def _resisc45(root: Path) -> Contents:
    """`resisc45-train.txt`: `airplane_001.jpg`. The class is the part before the last underscore.

    The authors published no partition. These lists are those of Neumann et al. 2019, which torchgeo uses too.
    """
    splits: Entries = {
        split: [(f"{value}/{name}", value) for name in lines(path) if (value := name.rpartition("_")[0])]
        for split in ("train", "val", "test")
        if (path := root / f"resisc45-{split}.txt").is_file()
    }
    return listed(first_of(root, "NWPU-RESISC45/") or root, splits)


def _ucf101(root: Path) -> Contents:
    """`ucfTrainTestlist/trainlist01.txt`: `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`; the first of three
    partitions is the usual one. Without them `split_zhou_UCF101.json` splits the videos (Zhou et al. 2022, CoOp).

    A frame, or its folder, is named after its video. Of several frames the middle one is taken.
    """
    pictures = Listing(root)
    frames: dict[str, list[str]] = defaultdict(list)
    for path in pictures.names:
        frames[_video(path)].append(path)

    def frame(video: str, split: str) -> str:
        several = [path for path in frames.get(_video(video), ()) if pictures.find(path, split)]
        return several[len(several) // 2] if several else video

    rows, naming, note = _ucf101_lists(root)
    splits: Entries = {
        split: [(frame(video, split), value) for video, value in some] for split, some in rows.items()
    }
    parts = pictures.parts(splits)
    notes = [note]
    if any(len(some) > 1 for video, some in frames.items() if video):
        notes.append("The middle frame of each video is measured.")
    return Contents(parts, naming, [*notes, *pictures.notes])


def _ucf101_lists(root: Path) -> tuple[dict[str, list[tuple[str, str]]], Naming | None, str]:
    """Return by split the path and class of each video of UCF101, the order of the classes, and a note."""
    folder, zhou = root / "ucfTrainTestlist", root / _UCF101_ZHOU
    if folder.is_dir():
        rows = {
            split: [
                (video, os.path.dirname(video))
                for video, *_ in fields(there(folder, f"{split}list01.txt"), 1)
            ]
            for split in ("train", "test")
        }
        classes = folder / "classInd.txt"
        naming = in_order_of(name for _, name in _pairs(classes)) if classes.is_file() else None
        return rows, naming, "The first of the three partitions in ucfTrainTestlist/ is measured."
    try:
        found = read_json(zhou, 64 << 20)
        rows = {
            split: [(str(video), str(name)) for video, _, name in found[split]]
            for split in ("train", "val", "test")
        }
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DataError("A list of videos cannot be read", got=str(zhou), cause=str(error)) from None
    return rows, None, f"The splits are those of {_UCF101_ZHOU}."


def _video(path: str) -> str:
    """Return the UCF101 video of a frame, `v_yoyo_g01_c01`; "" for another picture."""
    found = re.search(r"v_[a-z]+_g\d+_c\d+", path.lower())
    return found[0] if found else ""


def _imagenet_samples(root: Path) -> Contents:
    """`n01440764_tench.JPEG`: a picture of each class, all in one folder. The class is the leading id."""
    names = [(name, found[0]) for name in Listing(root).names if (found := re.match(r"n\d{8}(?=_)", name))]
    return listed(root, {"all": names})


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return the first word of each line, and the rest of the line."""
    return [(first, rest) for first, rest in fields(path, 2, most=2)]


_GTSRB_TRAIN = "GTSRB/Training/ | GTSRB/Final_Training/Images/ | Final_Training/Images/ | Training/"
_GTSRB_TEST = "GTSRB/Final_Test/Images/ | Final_Test/Images/"
_GTSRB_TABLE = " | ".join(
    f"{folder}GT-final_test.csv"
    for folder in ("", "GTSRB/", "GTSRB/Final_Test/Images/", "Final_Test/Images/")
)

_UCF101_ZHOU = "split_zhou_UCF101.json"

ARCHIVES = (
    Archive(
        "Food-101",
        ("images/", "meta/train.txt | meta/train.json", "meta/test.txt | meta/test.json"),
        _food101,
    ),
    Archive("DTD", ("images/", "labels/train1.txt", "labels/test1.txt"), _dtd),
    Archive("Oxford-IIIT Pets", ("images/", "annotations/trainval.txt", "annotations/test.txt"), _pets),
    Archive("FGVC Aircraft", ("images/", "variants.txt", "images_variant_test.txt"), _aircraft),
    Archive("CUB-200", ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"), _cub),
    Archive("SUN397", ("ClassName.txt", "a/"), _sun397),
    Archive("RESISC45", ("resisc45-train.txt", "resisc45-test.txt"), _resisc45),
    Archive("UCF101 (frames)", (f"ucfTrainTestlist/testlist01.txt | {_UCF101_ZHOU}",), _ucf101),
    Archive("the ImageNet samples", ("n01440764_tench.JPEG",), _imagenet_samples),
    Archive("GTSRB", (_GTSRB_TRAIN, _GTSRB_TEST, _GTSRB_TABLE), _gtsrb),
)
