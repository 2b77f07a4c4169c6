"""Labelled images in tar shards."""

from __future__ import annotations

import json
import pickle

import pytest

from labelled_forms import tar
from openslip.data.labelled import open_labelled
from openslip.errors import DataError


def test_classes_beside_the_pictures(tmp_path):
    members = [("1.jpg", b"one"), ("1.cls", b"3\n"), ("2.jpg", b"two"), ("2.cls", b"5"), ("3.jpg", b"three")]
    tar(tmp_path / "birds.tar", members)
    found = open_labelled(str(tmp_path / "birds.tar"))
    assert (found.name, found.class_names, found.named) == ("birds", ("3", "5"), False)
    assert list(found.splits["all"].images) == [b"one", b"two"]
    assert "1 of 3 images has no label" in " ".join(found.notes)
    assert list(pickle.loads(pickle.dumps(found.splits["all"])).images) == [b"one", b"two"]
    (tmp_path / "classnames.txt").write_text("a\nb\nc\nred fox\nd\nbee\n")
    found = open_labelled(str(tmp_path / "birds.tar"))
    assert [found.class_names[i] for i in found.splits["all"].labels] == ["red fox", "bee"]
    assert "Class names from classnames.txt" in found.notes


def test_a_key_of_the_json_along_dots(tmp_path):
    for split in ("train", "val"):
        about = [{"meta": {"species": "fox"}, "place": "a"}, {"meta": {"species": "bee"}, "place": "b"}]
        members = [
            (f"{i}.{end}", data)
            for i, one in enumerate(about)
            for end, data in (("jpg", b"x"), ("json", json.dumps(one).encode()))
        ]
        tar(tmp_path / f"set-{split}-000.tar", members)
    found = open_labelled(str(tmp_path), label_column="meta.species")
    assert (found.class_names, list(found.splits)) == (("bee", "fox"), ["train", "val"])
    with pytest.raises(DataError, match=r"no key 'meta.genus'.*Did you mean 'meta.species'"):
        open_labelled(str(tmp_path), label_column="meta.genus")
    with pytest.raises(DataError, match=r"have no class.*meta.species, place.*--data.label-column"):
        open_labelled(str(tmp_path))


def test_captions_are_no_classes_unless_asked_for(tmp_path):
    members = [
        (f"00000/{i}.{end}", data) for i in range(4) for end, data in (("jpg", b"x"), ("txt", b"ab"[i % 2 :]))
    ]
    members += [(name.replace("00000", "00001"), data) for name, data in members]
    tar(tmp_path / "test.tar", members)
    with pytest.raises(DataError, match=r"have no class.*retrieval:"):
        open_labelled(str(tmp_path))
    assert open_labelled(str(tmp_path), label_column="txt").class_names == ("ab", "b")


def test_folders_in_a_shard(tmp_path):
    tar(
        tmp_path / "val.tar",
        [(f"set/val/{name}/{i}.jpg", b"x") for name in ("fox", "bee", "train") for i in range(2)],
    )
    found = open_labelled(str(tmp_path / "val.tar"))
    assert (found.class_names, list(found.splits)) == (("bee", "fox", "train"), ["val"])
    tar(tmp_path / "one/val.tar", [(f"val/fox/{i}.jpg", b"x") for i in range(2)])
    with pytest.raises(DataError, match="have no class"):
        open_labelled(str(tmp_path / "one"))


def test_a_label_that_is_no_text(tmp_path):
    tar(tmp_path / "test.tar", [("1.jpg", b"x"), ("1.cls", b"\xff\xfe")])
    with pytest.raises(DataError, match="no text"):
        open_labelled(str(tmp_path))


def test_pictures_in_folders_of_classes_go_before_a_tar_of_them(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / f"test/{name}").mkdir(parents=True)
        (tmp_path / f"test/{name}/1.png").write_bytes(b"x")
    tar(tmp_path / "test/all.tar", [("1.jpg", b"x"), ("1.cls", b"3")])
    assert open_labelled(str(tmp_path)).class_names == ("cat", "dog")


def test_prompts_beside_shards_come_along(tmp_path):
    tar(tmp_path / "test/0.tar", [("1.jpg", b"x"), ("1.cls", b"0"), ("2.jpg", b"y"), ("2.cls", b"1")])
    (tmp_path / "classnames.txt").write_text("fox\nbee\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\nthe {c}\n\n")
    found = open_labelled(str(tmp_path))
    assert (found.class_names, found.templates) == (("fox", "bee"), ("a photo of a {}", "the {}"))
    assert "2 prompts from zeroshot_classification_templates.txt" in found.notes
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo\n")
    found = open_labelled(str(tmp_path))
    assert found.templates == ()
    assert "zeroshot_classification_templates.txt is not used: A prompt" in " ".join(found.notes)
