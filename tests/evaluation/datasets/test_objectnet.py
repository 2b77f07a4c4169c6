"""Of ObjectNet those classes are measured that ImageNet has as well."""

from __future__ import annotations

import json

import pytest

import published_sets as sets
from evaluation_fakes import ColorEncoder, color_folder
from openslip.errors import DataError
from openslip.evaluation.datasets.objectnet import FOLDERS, SHARED
from openslip.evaluation.zeroshot import ZeroShot
from oracle import Oracle, coloured


def archive(tmp_path, shared):
    root = tmp_path / "objectnet-1.0"
    color_folder(root / "images", {"red": 2, "green": 3, "blue": 4}, splits=())
    (root / "mappings").mkdir()
    (root / "mappings" / FOLDERS).write_text(
        json.dumps({"red": "Red", "green": "Green thing", "blue": "Blue"})
    )
    (root / "mappings" / SHARED).write_text(json.dumps(shared))
    return root


def test_classes_that_imagenet_lacks_are_left_out(tmp_path):
    root = archive(tmp_path, {"Red": "tench; goldfish", "Blue": "crane"})
    task = ZeroShot(f"objectnet@{root}")
    task.check()
    data = task.opened()
    assert set(data.class_names) == {"red", "blue"}
    assert "2 of 3 classes of objectnet-1.0 are measured." in data.notes
    top1 = task.evaluate(ColorEncoder())[0]
    assert (top1.metric, top1.value, top1.count) == ("top1", 1.0, 6)
    assert task.about()["prompts"] == "imagenet"


@pytest.mark.parametrize("named", ["objectnet-1.0", "."])
def test_the_archive_as_it_unpacks(tmp_path, named):
    """With all four mappings, and classes that are several of ImageNet's; the folder, or that above."""
    sets.objectnet(tmp_path)
    task = ZeroShot(f"objectnet@{tmp_path / named}")
    task.check()
    data = task.opened()
    assert data.class_names == ("alarm clock", "backpack", "bicycle", "t-shirt")
    part = data.splits["all"]
    assert part.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [part.images[i] for i in range(8)] == [coloured(1 + label) for label in part.labels]
    names = [called for called, _ in sets.OBJECTNET.values()]
    assert task.evaluate(Oracle(names))[0].value == 1.0


def test_without_the_mappings_it_is_refused(tmp_path):
    root = archive(tmp_path, {"Red": "tench", "Blue": "crane"})
    (root / "mappings" / SHARED).unlink()
    with pytest.raises(DataError, match=r"which classes of ObjectNet are also in ImageNet.*mappings"):
        ZeroShot(f"objectnet@{root}").check()
    (root / "mappings" / SHARED).write_text("5")
    with pytest.raises(DataError, match="mappings of ObjectNet do not fit"):
        ZeroShot(f"objectnet@{root}").check()
