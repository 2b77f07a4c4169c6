"""Every set with a card is read in the layout that it really has: a small made-up copy of each is opened as its card.

What each layout is, and that labels are those of others' readers, is tested where the layout is read; here, that no
card is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import published_arrays as arrays
import published_sets as sets
from openslip.evaluation.datasets import Card, cards
from openslip.evaluation.opened import OnLabelled
from openslip.evaluation.suite import parse_task
from oracle import coloured


def karpathy(name: str, pictures: str, folder: str = "") -> Callable[[Path], Path]:
    """Return what writes one of Karpathy's files, beside the pictures as their archive unpacks. folder: what the file
    says of each picture."""

    def make(root: Path) -> Path:
        entries = []
        for number, split in enumerate(("train", "val", "test", "test")):
            sets.jpg(root / pictures / f"{number:06d}.jpg", number)
            sentences = [{"tokens": [], "raw": f"caption {i} of {number}", "imgid": number} for i in range(5)]
            entry = {"filename": f"{number:06d}.jpg", "imgid": number, "split": split, "sentences": sentences}
            entries.append(entry | ({"filepath": folder} if folder else {}))
        sets.write(root / f"{name}.json", json.dumps({"images": entries, "dataset": name}))
        return root

    return make


def winoground(root: Path) -> Path:
    """As the hub has it."""
    row = {f"image_{i}": {"bytes": coloured(i), "path": None} for i in range(2)}
    row |= {"caption_0": "a cat on a dog", "caption_1": "a dog on a cat", "id": 0, "collapsed_tag": "Object"}
    (root / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), root / "data/test-00000-of-00001.parquet")
    return root


def sugarcrepe(root: Path) -> Path:
    sets.jpg(root / "coco/val2017/000000085329.jpg", 1)
    row = {"filename": "000000085329.jpg", "caption": "a cat on a dog", "negative_caption": "a dog on a cat"}
    sets.write(root / "sugar-crepe/data/swap_obj.json", json.dumps({"0": row}))
    (root / "sugar-crepe/data/val2017").symlink_to(root / "coco/val2017")
    return root / "sugar-crepe/data"


def voc_masks(root: Path) -> Path:
    folder = root / "VOCdevkit/VOC2012"
    (folder / "SegmentationClass").mkdir(parents=True)
    for name, split in (("2007_000032", "train"), ("2007_000033", "val")):
        sets.jpg(folder / f"JPEGImages/{name}.jpg", 1)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(folder / f"SegmentationClass/{name}.png")
        sets.write(folder / f"ImageSets/Segmentation/{split}.txt", name)
    return folder


def imagenet(root: Path) -> Path:
    return sets.imagenet(root, list(sets.WORDNET_IDS))


def pcam(root: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    folder, files = arrays.pcam(root)
    for name, content in files.items():
        with h5py.File(folder / name, "w") as file:
            for key, array in content.items():
                file.create_dataset(key, data=array)
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    **{"food101": sets.food101, "cifar10": arrays.cifar10, "cifar100": arrays.cifar100, "cub200": sets.cub},
    **{"sun397": sets.sun397, "cars": sets.cars, "aircraft": sets.aircraft, "dtd": sets.dtd, "pets": sets.pets},
    **{"caltech101": sets.caltech101, "flowers": sets.flowers, "mnist": arrays.mnist, "fer2013": arrays.fer2013},
    **{"stl10": arrays.stl10, "eurosat": sets.eurosat, "resisc45": sets.resisc45, "gtsrb": sets.gtsrb},
    **{"kitti_distance": sets.kitti, "country211": sets.country211, "patch_camelyon": pcam},
    **{"ucf101": sets.ucf101, "kinetics700": sets.kinetics700, "clevr_counts": sets.clevr},
    **{"hateful_memes": sets.hateful_memes, "rendered_sst2": sets.rendered_sst2, "imagenet": imagenet},
    **{"imagenetv2": sets.imagenetv2, "imagenet-a": sets.imagenet_relative},
    "imagenet-r": lambda root: sets.imagenet_relative(root, "imagenet-r"),
    "imagenet_sketch": lambda root: sets.imagenet_relative(root, "sketch"),
    **{"objectnet": sets.objectnet, "tiny_imagenet": sets.tiny_imagenet, "imagenet_sample": sets.imagenet_samples},
    **{"voc2007": sets.voc, "svhn": arrays.svhn},
    "coco": karpathy("dataset_coco", "val2014", "val2014"),
    "flickr30k": karpathy("dataset_flickr30k", "flickr30k-images"),
    "flickr8k": karpathy("dataset_flickr8k", "Flicker8k_Dataset"),
    **{"winoground": winoground, "sugarcrepe": sugarcrepe, "voc2012_masks": voc_masks},
}  # fmt: skip
"""What writes a small copy of each set, and returns its folder. The scenes are rendered, and lie nowhere."""
PROTOCOLS = {"classes": "zeroshot", "captions": "retrieval", "pairs": "pairs", "masks": "segmentation"}


@pytest.mark.parametrize(
    "card", [card for card in cards().values() if card.name != "scenes"], ids=lambda c: c.name
)
def test_every_card_is_read_in_its_own_layout(card: Card, tmp_path: Path) -> None:
    folder = LAYOUTS[card.name](tmp_path)
    task: Any = parse_task(f"{PROTOCOLS[card.kind]}:{card.name}@{folder}")
    if not isinstance(task, OnLabelled):
        task.check()
        assert task.lines()
        return
    data = task.keep()
    measured = data.untrained()
    assert len(measured)
    assert measured.split in ("test", "val", "all")
    assert measured.images[0] is not None
    assert task.card(data) is card
    assert task.name == f"zeroshot:{card.name}"
    assert data.several == (card.metric == "mean_average_precision")
    # A copy of few classes, which go by numbers, has names once it has all of them.
    if not data.named:
        assert card.called(range(card.classes)) is not None


def test_no_layout_is_of_a_set_without_a_card() -> None:
    assert {*LAYOUTS} == {*cards()} - {"scenes"}
