"""COCO captions: grouping, order, where the images are, and files that are something else."""

from __future__ import annotations

import json
import pickle

import pytest

from openslip.data.sources.coco import CocoCaptions
from openslip.errors import DataError

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
        (
            {"images": IMAGES, "annotations": [{"image_id": 9, "caption": None}, *ANNOTATIONS[-1:]]},
            "Not one annotation.*image_id 77.*ids 9, 4",
        ),
        ({"images": [{"id": 1}], "annotations": ANNOTATIONS}, "no usable 'file_name'.*'id': 1"),
        ({"images": IMAGES, "annotations": [{"id": 5, "caption": "x"}]}, "no usable 'image_id'"),
        ({"images": IMAGES, "annotations": [5, 5, {"image_id": 4, "caption": "x"}]}, "no usable 'image_id'"),
        (
            {"images": [{"id": 1e400, "file_name": "a.jpg"}], "annotations": ANNOTATIONS},
            "no usable 'id'.*inf",
        ),
        ("[" * 100_000, "not valid JSON"),
        (f'{{"images": [{{"id": {"9" * 5000}, "file_name": "a"}}], "annotations": []}}', "not valid JSON"),
        ('{"images": [], "annotations": [], "images": []}', "'images' is twice"),
        ({"images": IMAGES, "annotations": [{"image_id": 4, "caption": None}]}, "Not one caption.*1 × "),
        ([{"image": "a.jpg", "conversations": []}], "keys image, conversations.*jq -c"),
        ({"images": ["a.jpg"], "annotations": ANNOTATIONS}, "no usable 'id'"),
    ],
)
def test_something_else(coco, data, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        CocoCaptions(coco(data=data))


def test_what_is_not_used_is_said(coco):
    annotations = [
        *ANNOTATIONS,
        {"id": 20, "image_id": 9, "caption": None},
        {"id": 21, "image_id": 9},
        {"id": 22, "image_id": 9, "caption": " \n"},
        {"id": 23, "image_id": 9, "caption": 5},
        {"id": 24, "caption": "of no image"},
    ]
    images = [*IMAGES, IMAGES[0], {"id": 5}]
    source = CocoCaptions(coco(data={"images": images, "annotations": annotations}))
    assert [record.captions for record in source] == [("a dog",), ("first", "second", "third")]
    assert source.contents is not None
    assert (source.contents.things, source.contents.seen, source.contents.used) == ("annotations", 12, 4)
    assert {reason: (left.count, left.lost) for reason, left in source.contents.left_out.items()} == {
        "the image is listed before, with the same file name": (1, False),
        "the image has no usable 'id' and 'file_name'": (1, True),
        "the file does not list its image": (1, True),
        "the annotation has no caption": (2, True),
        "the caption is blank": (1, True),
        "the caption is no text": (1, True),
        "the annotation has no usable 'image_id'": (1, True),
    }
    assert source.contents.left_out["the file does not list its image"].example == "image_id 77"


def test_an_image_without_annotations_is_a_record_without_caption(coco):
    source = CocoCaptions(coco(data={"images": IMAGES, "annotations": ANNOTATIONS[:1]}))
    assert [record.captions for record in source] == [(), ("third",)]


@pytest.mark.parametrize("other", [9, "9", 9.0])
def test_an_id_of_two_files_is_an_error(coco, other):
    images = [*IMAGES, {"id": other, "file_name": "b.jpg"}]
    with pytest.raises(DataError, match=r"id 9 .*two files.*000009\.jpg and b\.jpg.*overlapping ids"):
        CocoCaptions(coco(data={"images": images, "annotations": ANNOTATIONS}))


def test_a_file_of_two_ids_is_one_record(coco):
    images = [*IMAGES, {"id": 77, "file_name": "000004.jpg"}]
    source = CocoCaptions(coco(data={"images": images, "annotations": ANNOTATIONS}))
    assert [record.captions for record in source][1] == ("first", "second", "third", "of an image left out")
    assert "3 image ids of captions_train2017.json name 2 files" in source.note


def test_ids_as_spreadsheets_leave_them(coco):
    annotations = [
        {"id": "b", "image_id": "4", "caption": "last"},
        {"id": 7, "image_id": 4.0, "caption": ["one", "two"]},
        {"image_id": "9", "caption": "x"},
    ]
    source = CocoCaptions(coco(data={"images": IMAGES, "annotations": annotations}))
    assert [record.captions for record in source] == [("x",), ("one", "two", "last")]
    assert source.contents is not None
    assert not source.contents.left_out
