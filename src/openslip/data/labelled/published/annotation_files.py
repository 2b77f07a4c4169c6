"""Sets whose labels follow from the annotations of each picture: CLEVR, KITTI, Hateful Memes, Pascal VOC."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from openslip.data.labelled.classes import Value
from openslip.data.labelled.folder import Files
from openslip.data.labelled.labelled_set import Part
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
    numbered,
)
from openslip.data.limits import TABLE_BYTES
from openslip.errors import DataError, shortened
from openslip.files import parse_json, read_json, read_whole

COUNTS = ("three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Numbers of objects in a picture of CLEVR."""
DISTANCES = numbered(("a car on my left or right side", "a car nearby", "a car in the distance", "no car"))
"""The distance of the nearest vehicle in a picture of KITTI, in the words of CLIP's prompts."""
NEAR, FAR = 8.0, 20.0
"""Limits between the distances, in metres: a vehicle up to the first, up to the second, and beyond."""
VEHICLES = ("Car", "Van", "Truck")
HATE = numbered(("meme", "hatespeech meme"))
"""The classes of Hateful Memes, in the words of CLIP's prompts."""


def _clevr(root: Path) -> Contents:
    """`scenes/CLEVR_val_scenes.json`: the objects in each picture. Their count is the class (VTAB's `count_all`)."""
    splits: Entries = {}
    for split in ("train", "val"):
        path = root / f"scenes/CLEVR_{split}_scenes.json"
        if not path.is_file():
            continue
        try:
            splits[split] = [
                (f"{split}/{scene['image_filename']}", len(scene["objects"]))
                for scene in read_json(path, TABLE_BYTES)["scenes"]
            ]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError("The scenes of CLEVR cannot be read", got=str(path), cause=str(error)) from None
    most = max((int(count) for some in splits.values() for _, count in some), default=0)
    few = min((int(count) for some in splits.values() for _, count in some), default=0)
    naming = numbered(COUNTS, 3) if few >= 3 and most <= 10 else None
    return listed(root / "images", splits, naming, ["The classes are the numbers of objects in a picture."])


def _kitti(root: Path) -> Contents:
    """`training/label_2/000000.txt`: an object a line, its type first and its distance in metres as the 14th entry.

    The classes are those of VTAB's task `closest_vehicle_distance`, which CLIP measured as "KITTI Distance": the
    nearest car, van or truck is up to 8 m away, up to 20 m, farther, or there is none. If the development kit has
    `mapping/train_mapping.txt` and `train_rand.txt`, the videos are split as TensorFlow Datasets does for VTAB.
    """
    labels = root / "training/label_2"
    known: dict[str, Value] = {}
    for name in sorted(os.listdir(labels)):
        if name.endswith(".txt"):
            known[name[:-4]] = _nearest(labels / name)
    if (mapping := first_of(root, _MAPPING)) is None:
        notes = ["Without mapping/train_mapping.txt of the development kit, the set has no splits."]
        return listed(root / "training/image_2", {"all": list(known.items())}, DISTANCES, notes)
    split_of = _kitti_splits(mapping.parent)
    splits: Entries = {"train": [], "val": [], "test": []}
    for name, value in known.items():
        if (number := as_number(name, labels)) >= len(split_of):
            raise DataError(f"{mapping.parent} does not tell the video of a picture", got=name)
        splits[split_of[number]].append((name, value))
    return listed(root / "training/image_2", splits, DISTANCES)


def _nearest(path: Path) -> int:
    """Return the class of a picture of KITTI, from its annotations."""
    distances = []
    for row in fields(path, 15):
        if row[0] in VEHICLES:
            try:
                distances.append(float(row[13]))
            except ValueError:
                raise DataError(f"{path} has {shortened(row[13], 40)!r} where a distance belongs") from None
    nearest = min(distances, default=None)
    return 3 if nearest is None else int(nearest > NEAR) + int(nearest > FAR)


def _kitti_splits(mapping: Path) -> list[str]:
    """Return the split of each picture of KITTI: a tenth of the videos for test, a twentieth for val, drawn by seed."""
    order = [
        as_number(number.strip(), mapping / "train_rand.txt") - 1
        for line in lines(mapping / "train_rand.txt")
        for number in line.split(",")
        if number.strip()
    ]
    rows = fields(mapping / "train_mapping.txt", 2)
    if order and not 0 <= min(order) <= max(order) < len(rows):
        raise DataError("The files of the development kit do not fit together", got=str(mapping))
    videos = [rows[number][1] for number in order]
    every = sorted(set(videos))
    random = np.random.RandomState(123)  # the generator that drew the published splits
    test = set(random.choice(every, max(1, len(every) // 10), replace=False).tolist())
    rest = sorted(set(every) - test)
    val = set(random.choice(rest, max(1, len(every) // 20), replace=False).tolist())
    return ["test" if video in test else "val" if video in val else "train" for video in videos]


def _memes(root: Path) -> Contents:
    """`train.jsonl`: {"id": 42953, "img": "img/42953.png", "label": 0, "text": "…"}; test sets may have no labels."""
    splits: Entries = {}
    notes = []
    for split, choices in (
        ("train", "train.jsonl"),
        ("val", "dev_seen.jsonl | dev.jsonl"),
        ("test", "test_seen.jsonl | test.jsonl"),
    ):
        path = first_of(root, choices)
        if path is None:
            continue
        try:
            rows = [parse_json(line) for line in lines(path)]
            named = [(os.path.relpath(row["img"], "img"), row) for row in rows]
            splits[split] = [(name, int(row["label"])) for name, row in named if "label" in row]
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise DataError("A list of memes cannot be read", got=str(path), cause=str(error)) from None
        if not splits[split]:
            del splits[split]
            notes.append(f"{path.name}, {len(rows):,} pictures, has no labels and is left out.")
    for name in ("dev_unseen.jsonl", "test_unseen.jsonl"):
        if (root / name).is_file():
            notes.append(f"{name} is left out: the pictures of the seen lists are measured.")
    return listed(root / "img", splits, HATE, notes)


def _voc(root: Path) -> Contents:
    """`ImageSets/Main/test.txt`: names of pictures; `Annotations/000001.xml`: the objects in each.

    A picture has the classes of its objects. If all of its objects of a class are marked as difficult, the picture does
    not count for this class, as in VOC's own measurements. If there is a test set, all other pictures are for training.
    """
    lists = {
        name: [line.split()[0] for line in lines(path)]
        for name in ("train", "val", "trainval", "test")
        if (path := root / f"ImageSets/Main/{name}.txt").is_file()
    }
    notes = []
    if "test" in lists and "trainval" in lists:
        splits = {"train": lists["trainval"], "test": lists["test"]}
        notes.append("All pictures of trainval.txt are for training.")
    else:
        splits = {name: lists[name] for name in ("train", "val", "test") if name in lists}
        splits = splits or {"all": lists.get("trainval", [])}
    pictures = Listing(root / "JPEGImages")
    found: dict[str, tuple[list[str], list[dict[str, int]]]] = {}
    bare = 0
    for split, names in splits.items():
        for name in names:
            path = root / f"Annotations/{name}.xml"
            if not os.path.isfile(path):
                bare += 1
            elif place := pictures.find(name, split):
                places, labels = found.setdefault(split, ([], []))
                places.append(place)
                labels.append(_objects(path))
    if not found:
        raise DataError(f"None of the pictures that {root} lists is there with its annotations")
    if bare:
        notes.append(f"Pictures without a file in Annotations, which are left out: {bare:,}.")
    classes = sorted({name for _, labels in found.values() for one in labels for name in one})
    parts: dict[str, Part] = {}
    for split, (places, labels) in found.items():
        has = np.array([[one.get(name, 0) for name in classes] for one in labels], np.int8)
        images = Files(os.fspath(pictures.folder), places)
        parts[split] = Part(images, list(classes), np.zeros(len(places), np.int64), places, has)
    return Contents(parts, in_order_of(classes), [*notes, *pictures.notes])


def _objects(path: Path) -> dict[str, int]:
    """Return the classes in an annotation of VOC: 1, or -1 if all objects of the class are difficult."""
    try:
        top = ElementTree.fromstring(read_whole(path, _ANNOTATION))
        found: dict[str, int] = {}
        for one in top.iter("object"):
            name = (one.findtext("name") or "").strip()
            if name:
                easy = (one.findtext("difficult") or "0").strip() != "1"
                found[name] = max(found.get(name, -1), 1 if easy else -1)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise DataError("An annotation cannot be read", got=str(path), cause=str(error)) from None
    return found


_ANNOTATION = 4 << 20
"""Most bytes of a picture's annotations."""
_MAPPING = " | ".join(
    f"{folder}mapping/train_mapping.txt" for folder in ("", "devkit_object/", "devkit/", "training/", "../")
)

_VOC = " | ".join(f"ImageSets/Main/{name}.txt" for name in ("test", "val", "trainval", "train"))

ARCHIVES = (
    Archive("CLEVR", ("images/", "scenes/CLEVR_val_scenes.json"), _clevr),
    Archive("KITTI", ("training/image_2/", "training/label_2/"), _kitti),
    Archive("Pascal VOC", ("Annotations/", "JPEGImages/", _VOC), _voc),
    Archive("Hateful Memes", ("img/", "train.jsonl", "dev_seen.jsonl | dev.jsonl"), _memes),
)
