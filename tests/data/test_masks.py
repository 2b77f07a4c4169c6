"""Pictures with masks: the layouts they are had in, what a mask is, and how masks are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openslip.data.decode import decode
from openslip.data.masks import VOC_CLASSES, open_masks, read_mask
from openslip.data.views import center, center_labels
from openslip.errors import DataError

SHAPES = ((8, 12), (12, 8), (9, 9))


def palette(labels: np.ndarray) -> Image.Image:
    """A mask as VOC has it: indices into a palette of colours."""
    image = Image.fromarray(labels, "P")
    image.putpalette([value for i in range(256) for value in (i * 37 % 256, i * 59 % 256, 255 - i)])
    return image


def voc(folder: Path, splits: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    number = 0
    for split, count in splits.items():
        stems = [f"2007_{number + i:06d}" for i in range(count)]
        for i, stem in enumerate(stems):
            labels = rng.choice(np.array([0, 3, 15, 255], np.uint8), size=SHAPES[i % 3])
            palette(labels).save(folder / "SegmentationClass" / f"{stem}.png")
            Image.fromarray(np.stack([labels] * 3, -1)).save(folder / "JPEGImages" / f"{stem}.jpg")
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(reversed(stems)) + "\n")
        number += count
    return folder


@pytest.mark.parametrize("place", ["VOC2012", "here/VOCdevkit/VOC2012"])
def test_voc(tmp_path, place):
    voc(tmp_path / place, {"train": 4, "val": 3})
    root = tmp_path / place.split("/")[0]
    data = open_masks(str(root))
    assert data.class_names == VOC_CLASSES
    assert len(data.class_names) == 21
    assert {split: len(some) for split, some in data.splits.items()} == {"train": 4, "val": 3}
    assert data.test == "val"
    data.require_training()
    image, mask = data.splits["val"].read(1)
    with Image.open(tmp_path / place / "SegmentationClass" / "2007_000005.png") as stored:
        assert np.array_equal(mask, np.asarray(stored))
    assert decode(image).shape[:2] == mask.shape
    assert set(np.unique(mask)) <= {0, 3, 15, 255}


def folders(root: Path, splits=("train", "test"), masks="masks", count=2) -> Path:
    for split in splits:
        for i in range(count):
            for kind, ending in (("images", "jpg"), (masks, "png")):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 6), i % 2).save(root / kind / split / f"{i}.{ending}")
    (root / "classes.txt").write_text("sky\nground\n")
    return root


@pytest.mark.parametrize("masks", ["masks", "annotations"])
def test_folders_of_ones_own(tmp_path, masks):
    folders(tmp_path, ("training", "validation"), masks)
    (tmp_path / "images" / "training" / "alone.jpg").write_bytes(b"")
    data = open_masks(str(tmp_path))
    assert (list(data.splits), data.test, data.class_names) == (["train", "val"], "val", ("sky", "ground"))
    assert [len(some) for some in data.splits.values()] == [2, 2]
    assert any("train, without a mask, which are left out: 1" in line for line in data.notes)


def test_folders_without_splits(tmp_path):
    data = open_masks(str(folders(tmp_path, ("",))))
    assert (list(data.splits), data.test) == (["all"], "all")
    with pytest.raises(DataError, match="no split to train on.*zeroshot-segmentation"):
        data.require_training()


def test_scenes_are_what_they_always_were():
    data = open_masks("scenes:test:3")
    assert {split: len(some) for split, some in data.splits.items()} == {"train": 6, "test": 3}
    assert (len(data.class_names), data.class_names[0]) == (25, "background")
    test: Any = data.splits["test"]
    image, mask = test.read(0)
    scenes = test.scenes
    assert np.array_equal(image, scenes.picture(0))
    scene = scenes.describe(0)
    assert 1 + scene.label in mask
    assert (
        set(np.unique(mask)) <= {0, 1 + scene.label} | {1 + scenes.class_names.index(scene.second.name)}
        if (scene.second)
        else {0, 1 + scene.label}
    )


def test_masks_say_what_is_wrong_with_them(tmp_path):
    path = tmp_path / "mask.png"
    Image.new("L", (4, 3), 7).save(path)
    assert read_mask(str(path), 8).tolist() == [[7] * 4] * 3
    with pytest.raises(DataError, match="label that is not a class.*label 7, and there are 7 classes"):
        read_mask(str(path), 7)
    Image.new("L", (4, 3), 255).save(path)
    assert read_mask(str(path), 2).min() == 255
    Image.fromarray(np.full((3, 4), 300, np.uint16)).save(path)
    with pytest.raises(DataError, match="label that is not a class.*label 300"):
        read_mask(str(path), 7)
    Image.new("RGB", (4, 3)).save(path)
    with pytest.raises(DataError, match="colours in place of numbers"):
        read_mask(str(path), 7)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="not an image of a known format"):
        read_mask(str(path), 7)


def test_what_is_no_such_set(tmp_path):
    for spec, match in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "no pictures with masks"),
        ("scenes:tset", "Did you mean 'test'"),
        ("scenes:test:x", "Write scenes"),
    ):
        with pytest.raises(DataError, match=match):
            open_masks(str(spec))
    folder = folders(tmp_path / "one")
    (folder / "classes.txt").write_text("sky\n")
    with pytest.raises(DataError, match="2 to 255 classes"):
        open_masks(str(folder))
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match="classes.txt"):
        open_masks(str(folder))


def test_a_mask_of_the_models_size_maps_to_itself():
    labels = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    for fit in ("crop", "squash"):
        assert np.array_equal(center_labels(labels, 16, fit), labels)
    assert np.array_equal(center_labels(labels[:, 3:13], 10), labels[3:13, 3:13])


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (64, 64), (30, 41), (100, 33)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_masks_are_cut_as_pictures_are(shape, fit):
    """A picture that is its mask in black and white stays so, but for the pixels along the edges."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 2, (-(-shape[0] // 10), -(-shape[1] // 10))).astype(np.uint8)
    labels = np.kron(blocks, np.ones((10, 10), np.uint8))[: shape[0], : shape[1]]
    image = np.repeat(labels[..., None] * np.uint8(255), 3, axis=2)
    seen = center(image, 32, "bilinear", fit)[0]
    cut = center_labels(labels, 32, fit)
    assert set(np.unique(cut)) <= {0, 1}
    sure = (seen < 90) | (seen > 165)
    assert sure.mean() > 0.75
    assert np.array_equal(cut[sure], (seen > 128)[sure])


@pytest.mark.parametrize("name", ["../../away", "/etc/passwd", ".."])
def test_a_list_that_leads_elsewhere_is_refused(tmp_path, name):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text(f"{name}\n")
    with pytest.raises(DataError, match="outside of JPEGImages"):
        open_masks(str(tmp_path))
