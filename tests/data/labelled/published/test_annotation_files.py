"""Sets whose labels follow from what is annotated in a picture."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

import published_sets as sets
from openslip.data.labelled import open_labelled
from openslip.errors import DataError
from oracle import knn, zeroshot
from published_sets import ours, paths, theirs


def test_clevr_counts_are_torchvisions(tmp_path):
    folder = sets.clevr(tmp_path)
    found = open_labelled(str(folder))
    assert found.class_names == ("three", "four", "five", "six", "seven", "eight", "nine", "ten")
    for split in ("train", "val"):
        files = theirs(
            datasets.CLEVRClassification(str(tmp_path), split=split, download=False), "_image_files"
        )
        assert {path: label + 3 for path, label in ours(found, split).items()} == files
    assert "Pictures in images that no list names and that are left out: 1" in " ".join(found.notes)
    assert zeroshot(str(folder), list(found.class_names)) == 1


@pytest.mark.parametrize("videos", [0, 10])
def test_kitti_distances_are_vtabs(tmp_path, videos):
    folder = sets.kitti(tmp_path, videos)
    found = open_labelled(str(folder))
    assert found.class_names[3] == "no car"
    for split, part in found.splits.items():
        assert all(
            int(os.path.splitext(path)[0]) % 4 == label
            for path, label in zip(paths(found, split), part.labels)
        ), split
    assert set(found.splits) == ({"train", "val", "test"} if videos else {"all"})
    assert knn(str(folder), ["a", "b", "c", "d"]) == 1


def test_kitti_is_split_by_the_videos_that_were_drawn(tmp_path):
    found = open_labelled(str(sets.kitti(tmp_path, 20)))
    # By hand, as TensorFlow Datasets does: the i-th number is the line, from 1 on, of picture i.
    order = np.random.default_rng(0).permutation(40)
    video = {i: f"2011_09_26_drive_{line % 20:04d}_sync" for i, line in enumerate(order.tolist())}
    state = np.random.RandomState(123)
    every = sorted(set(video.values()))
    test = state.choice(every, 2, replace=False)
    val = state.choice(sorted(set(every) - set(test)), 1, replace=False)
    for split, chosen in (("test", test), ("val", val)):
        numbers = {int(path[:-4]) for path in paths(found, split)}
        assert numbers == {i for i, name in video.items() if name in chosen}


def test_hateful_memes(tmp_path):
    folder = sets.hateful_memes(tmp_path)
    found = open_labelled(str(folder))
    assert {split: part.labels.tolist() for split, part in found.splits.items()} == {
        "train": [0, 1, 0, 1],
        "val": [0, 1],
        "test": [0, 1],
    }
    assert found.class_names == ("meme", "hatespeech meme")
    assert "dev_unseen.jsonl is left out: the pictures of the seen lists are measured." in found.notes
    hidden = open_labelled(str(sets.hateful_memes(tmp_path / "hidden", labels=False)))
    assert set(hidden.splits) == {"train", "val"}
    assert "test_seen.jsonl, 2 pictures, has no labels and is left out." in hidden.notes


LABELS = "training/label_2/000001.txt"


@pytest.mark.parametrize(
    ("maker", "file", "line", "message"),
    [
        (sets.kitti, LABELS, "Car 0 0 1", r"000001\.txt has 4 of 15 entries"),
        (sets.kitti, LABELS, "Car 0 0 1 1 1 2 2 1 1 1 0 0 far 1", "'far' where a distance belongs"),
        (
            sets.clevr,
            "scenes/CLEVR_val_scenes.json",
            '{"scenes": [{"objects": 3}]}',
            "scenes of CLEVR cannot be read",
        ),
        (sets.hateful_memes, "train.jsonl", "[]", r"list of memes cannot be read.*train\.jsonl"),
    ],
)
def test_damaged_annotations_are_refused(tmp_path, maker, file, line, message):
    folder = maker(tmp_path)
    sets.write(folder / file, line)
    with pytest.raises(DataError, match=message):
        open_labelled(str(folder))


def test_voc_labels_are_those_of_its_lists(tmp_path):
    folder = sets.voc(tmp_path)
    found = open_labelled(str(tmp_path), several=True)
    assert found.class_names == ("cat", "dog", "person")
    for split, called in (("train", "trainval"), ("test", "test")):
        dataset = datasets.VOCDetection(str(tmp_path), year="2007", image_set=called, download=False)
        part = found.splits[split]
        files: Any = part.images
        assert [os.path.join(files.root, path) for path in files.paths] == list(map(str, dataset.images))
        for number, kind in enumerate(found.class_names):
            rows = (folder / f"ImageSets/Main/{kind}_{called}.txt").read_text().splitlines()
            official = {1: 1, -1: 0, 0: -1}
            assert part.labels[:, number].tolist() == [official[int(row.split()[1])] for row in rows]
    assert found.several
    assert "labels an image" in found.describe()
    with pytest.raises(DataError, match=r"several labels each \(multi-label\).*zeroshot: or linear:"):
        open_labelled(str(tmp_path))


def test_voc_without_test_set_or_annotations(tmp_path):
    names = list(sets.VOC)
    folder = sets.voc(tmp_path, {"train": names[:3], "val": names[3:]})
    (folder / "Annotations/000006.xml").unlink()
    found = open_labelled(str(folder), several=True)
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 3, "val": 2}
    assert "Pictures without a file in Annotations, which are left out: 1." in found.notes
    sets.write(folder / "Annotations/000001.xml", "<annotation><object>")
    with pytest.raises(DataError, match="An annotation cannot be read"):
        open_labelled(str(folder), several=True)


def test_a_development_kit_of_one_video_is_refused(tmp_path):
    with pytest.raises(DataError, match="KITTI cannot be read"):
        open_labelled(str(sets.kitti(tmp_path, videos=1)))


def test_lists_that_lead_elsewhere_find_nothing_there(tmp_path):
    folder = sets.voc(tmp_path)
    sets.write(tmp_path / "away.xml", "<annotation><object><name>cat</name></object></annotation>")
    sets.jpg(tmp_path / "away.jpg", 1)
    names = [*sets.VOC, "../../../away", str(tmp_path / "away"), "x" * 300]
    sets.write(folder / "ImageSets/Main/test.txt", *names)
    found = open_labelled(str(folder), several=True)
    assert len(found.split("test").images) == len(sets.VOC)
