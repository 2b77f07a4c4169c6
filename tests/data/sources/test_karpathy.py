"""Karpathy's splits: which images each has, where they are, and files that are something else."""

from __future__ import annotations

import json
import pickle

import pytest

from openslip.data.labelled import dataset_name
from openslip.data.sources import open_source
from openslip.data.sources.karpathy import KarpathySplit, is_karpathy, split_of, with_split
from openslip.errors import DataError
from openslip.evaluation.opened import location
from openslip.evaluation.retrieval import Retrieval

SPLITS = ("train", "restval", "val", "test", "test", "restval")


def entry(number: int, split: str, folder: str) -> dict:
    raws = [f"caption {k} of {number}" for k in range(6 if number == 0 else 5)]
    return {
        **({"filepath": folder} if folder else {}),
        "sentids": list(range(len(raws))),
        "filename": f"{number}.jpg",
        "imgid": number,
        "split": split,
        "sentences": [{"tokens": raw.split(), "raw": f"{raw} ", "imgid": number} for raw in raws],
        "cocoid": 100 + number,
    }


@pytest.fixture
def karpathy(tmp_path, jpeg):
    """Write such a file, and its images into `place`; `folder`: what the file says of each image."""

    def write(place="images/val2014", folder="val2014", name="dataset_coco.json"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for number in range(len(SPLITS)):
            (tmp_path / place / f"{number}.jpg").write_bytes(jpeg)
        images = [entry(number, split, folder) for number, split in enumerate(SPLITS)]
        path = tmp_path / name
        path.write_text(json.dumps({"images": images, "dataset": "coco"}))
        return path

    return write


def numbers(source) -> list[int]:
    return [int(record.captions[0].split()[-1]) for record in source]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        *[("", [0, 1, 5]), (":train", [0, 1, 5]), (":restval", [1, 5])],
        *[(":val", [2]), (":test", [3, 4]), (":all", [0, 1, 2, 3, 4, 5])],
    ],
)
def test_splits(karpathy, spec, wanted, jpeg):
    source = pickle.loads(pickle.dumps(open_source(f"{karpathy()}{spec}")))
    assert numbers(source) == wanted
    assert source[0].image == jpeg
    assert len(source[0].captions) == 5 + (wanted[0] == 0)
    assert source.contents.seen == 6
    assert sum(left.count for left in source.contents.left_out.values()) == 6 - len(wanted)
    assert not any(left.lost for left in source.contents.left_out.values())


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        *[("val2014", "val2014"), ("images/val2014", "val2014"), ("images", "val2014"), (".", "val2014")],
        *[("flickr30k-images", ""), ("Flicker8k_Dataset", ""), ("images", "")],
    ],
)
def test_finds_the_images(karpathy, place, folder):
    assert len([record.image for record in open_source(f"{karpathy(place, folder)}:test")]) == 2


def test_image_root_and_images_that_are_nowhere(karpathy, tmp_path):
    path = karpathy("elsewhere/val2014")
    source = open_source(str(path), image_root=str(tmp_path / "elsewhere"))
    assert len([record.image for record in source]) == 3
    with pytest.raises(DataError, match="--data.image-root"):
        open_source(str(path))


def test_each_purpose_has_its_split(karpathy):
    path = str(karpathy())
    assert numbers(open_source(path, split="val")) == [2]
    assert numbers(open_source(f"{path}:test", split="val")) == [3, 4]
    assert numbers(open_source(f"{path}:val + {path}:test")) == [2, 3, 4]
    task = Retrieval(path)
    assert numbers(task.open()) == [3, 4]
    assert task.about()["data"] == f"{path}:test" == location(open_source(f"{path}:test"))
    assert "left out: train 1, restval 2, val 1" in "\n".join(task.lines())


def test_names(karpathy):
    path = str(karpathy())
    names = [dataset_name(f"{path}{split}") for split in ("", ":test", ":val")]
    assert names == ["dataset_coco", "dataset_coco", "dataset_coco:val"]
    assert split_of("a/b.csv:test") == ("a/b.csv:test", "")
    assert with_split("nowhere.json", "test") == "nowhere.json"


def test_own_columns(karpathy):
    source = open_source(f"{karpathy()}:test")
    table = source.columns([0, 1])
    assert table is not None
    assert table.to_pylist() == [
        {"imgid": 3, "split": "test", "cocoid": 103},
        {"imgid": 4, "split": "test", "cocoid": 104},
    ]


def test_other_files(karpathy, tmp_path):
    path = karpathy()
    with pytest.raises(
        DataError, match=r"has no split 'tset'[^?]*train, restval, val, test.*Did you mean .*test"
    ):
        open_source(f"{path}:tset")
    coco = tmp_path / "captions.json"
    coco.write_text(json.dumps({"images": [{"id": 1, "file_name": "0.jpg"}], "annotations": []}))
    assert not is_karpathy(coco)
    with pytest.raises(DataError, match="The file has no splits"):
        open_source(f"{coco}:test")
    with pytest.raises(DataError, match="no such file"):
        open_source(f"{tmp_path / 'nowhere.json'}:test")


def test_entries_that_cannot_be_used_are_counted(karpathy, tmp_path):
    path = karpathy()
    data = json.loads(path.read_text())
    del data["images"][3]["filename"]
    data["images"].append(entry(9, "test", "val2014") | {"sentences": None})
    data["images"].append(entry(9, "test", "val2014") | {"split": ["test"]})
    path.write_text(json.dumps(data))
    source = KarpathySplit(path, "test")
    assert source.contents is not None
    assert source.contents.left_out["the image has no usable 'filename'"].count == 1
    assert source.contents.left_out["the image has no usable 'filename'"].lost
    assert source.contents.left_out["the split ['test']"].count == 1
    assert [len(source._texts(index)) for index in range(len(source))] == [5, 0]
