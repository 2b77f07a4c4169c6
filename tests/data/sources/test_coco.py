"""COCO captions: grouping, order, where the images are, and files that are something else."""

from __future__ import annotations

import json
import pickle

import pytest

from slip.data.sources.coco import CocoCaptions
from slip.errors import DataError

IMAGES = [{"id": 9, "file_name": "000009.jpg"}, {"id": 4, "file_name": "000004.jpg"}]
ANNOTATIONS = [
    {"id": 12, "image_id": 4, "caption": "third"},
    {"id": 2, "image_id": 9, "caption": "a dog "},
    {"id": 11, "image_id": 4, "caption": "second"},
    {"id": 10, "image_id": 4, "caption": "first"},
    {"id": 1, "image_id": 77, "caption": "of an image left out"},
]


@pytest.fixture
def coco(tmp_path, jpeg):
    """Write an annotation file, and its two images into `folder`."""

    def write(folder="train2017", data=None, name="annotations/captions_train2017.json"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for image in IMAGES:
            (tmp_path / folder / image["file_name"]).write_bytes(jpeg)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        data = {"images": IMAGES, "annotations": ANNOTATIONS} if data is None else data
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path

    return write


def test_all_captions_by_annotation_id(coco, jpeg, tmp_path):
    source = pickle.loads(pickle.dumps(CocoCaptions(coco())))
    assert [(r.key, r.captions) for r in source] == [
        ("000009.jpg", ("a dog",)),
        ("000004.jpg", ("first", "second", "third")),
    ]
    assert source[1].image == jpeg
    assert source.root == str(tmp_path / "train2017")


@pytest.mark.parametrize(
    "folder", ["train2017", "images/train2017", "annotations", "annotations/train2017", "images", "."]
)
def test_finds_the_images(coco, folder):
    assert len([record.image for record in CocoCaptions(coco(folder))]) == 2


@pytest.mark.parametrize("root", ["elsewhere", "elsewhere/train2017"])
def test_image_root(coco, tmp_path, root):
    path = coco("elsewhere/train2017")
    assert CocoCaptions(path, image_root=str(tmp_path / root)).root == str(
        tmp_path / "elsewhere" / "train2017"
    )


def test_relative_path(coco, monkeypatch):
    monkeypatch.chdir(coco().parent)
    assert CocoCaptions("captions_train2017.json")[0].captions == ("a dog",)


def test_images_nowhere(coco, tmp_path):
    path = coco("unheard/of")
    with pytest.raises(DataError, match=r"train2017/000009\.jpg.*--data\.image-root"):
        CocoCaptions(path)
    with pytest.raises(DataError, match=r"wrong/000009\.jpg"):
        CocoCaptions(path, image_root=str(tmp_path / "wrong"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"images": [{"id": 1, "file_na', "not valid JSON.*cut off"),
        ('{"image": "a.jpg"}\n{"image": "b.jpg"}', r"not valid JSON.*\.jsonl"),
        ([{"image": "a.jpg"}], r"not a COCO captions file.*\.jsonl"),
        ({"info": {}, "images": IMAGES}, "not a COCO captions file.*keys info, images"),
        ({"images": [], "annotations": ANNOTATIONS}, "lists no images"),
        (
            {"images": IMAGES, "annotations": [{"id": 1, "image_id": 4, "bbox": []}]},
            "no captions.*captions_….json",
        ),
        ({"images": IMAGES, "annotations": []}, "no captions"),
        ({"images": IMAGES, "annotations": ANNOTATIONS[-1:]}, "Not one annotation"),
        ({"images": [{"id": 1}], "annotations": ANNOTATIONS}, "no usable 'file_name'.*'id': 1"),
        (
            {"images": IMAGES, "annotations": [*ANNOTATIONS, {"id": 5, "caption": "x"}]},
            "no usable 'image_id'",
        ),
        ({"images": IMAGES, "annotations": [*ANNOTATIONS, 5]}, "no usable 'caption'"),
        ({"images": ["a.jpg"], "annotations": ANNOTATIONS}, "no usable 'id'"),
    ],
)
def test_something_else(coco, data, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        CocoCaptions(coco(data=data))
