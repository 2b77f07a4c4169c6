"""Layouts of folders that people have: what is made of each, or in which words it is refused."""

from __future__ import annotations

import os

import pytest

from openslip.data.labelled import load_labelled, open_labelled
from openslip.errors import DataError
from oracle import coloured, knn, put, zeroshot

CAT, DOG, OWL = range(3)
NAMES = ["cat", "dog", "owl"]


def lay(root, *folders: str, count: int = 3):
    """Write `count` pictures into each folder, of the class that its path names; return the root as text."""
    for folder in folders:
        number = next((i for i, name in enumerate(NAMES) if name in folder.lower()), 999)
        for i in range(count):
            put(root / folder / f"{i}.png", number)
    return str(root)


def said(spec: str) -> str:
    return " ".join(open_labelled(spec).notes)


def classes(spec: str) -> tuple[str, ...]:
    """Return the classes, having seen that a perfect model gets everything."""
    assert zeroshot(spec, NAMES) == 1.0
    if {"train", "test", "val"} & set(open_labelled(spec).splits) != {"train"}:
        assert knn(spec, NAMES) == 1.0
    return open_labelled(spec).class_names


class TestSplits:
    @pytest.mark.parametrize(
        "folders",
        [
            ["training_set/{}", "test_set/{}"],
            ["Train/{}", "TEST/{}"],
            ["train2017/{}", "val2017/{}"],
            ["dataset/train/{}", "dataset/test/{}"],
            ["birds/birds/train/{}", "birds/birds/valid/{}"],
            ["images/train/{}", "images/val/{}"],
            ["train/images/{}", "test/images/{}"],
            ["seg_train/seg_train/{}", "seg_test/seg_test/{}"],
            ["{}/train", "{}/test"],
            ["{}/images/train", "{}/images/test"],
            ["archive/{}/Training", "archive/{}/Validation"],
            ["my_birds_train/{}", "my_birds_test/{}"],
            ["Final_Training/Images/{}", "Final_Test/Images/{}"],
        ],
    )
    def test_understood(self, tmp_path, folders):
        spec = lay(tmp_path, *(folder.format(name) for folder in folders for name in NAMES))
        data = open_labelled(spec)
        assert classes(spec) == ("cat", "dog", "owl")
        assert sorted(data.splits) in (["test", "train"], ["train", "val"])
        assert [len(part) for part in data.splits.values()] == [9, 9]
        assert data.notes == ()

    def test_what_stands_for_the_test_split_is_said(self, tmp_path, caplog):
        spec = lay(tmp_path / "s", "train/cat", "train/dog", "val/cat", "val/dog", "test/images")
        assert load_labelled(spec).split == "val"
        assert "The test split (test) is left out: 3 pictures in no class folders" in said(spec)
        assert "s has no labelled test split: its val split is measured" in caplog.text

    def test_an_unlabelled_test_split_is_the_cause(self, tmp_path):
        spec = lay(tmp_path, "train/cat", "train/dog", "test")
        with pytest.raises(DataError, match=r"no labelled test split.*3 pictures in no class folders"):
            load_labelled(spec)

    def test_an_empty_split_is_said(self, tmp_path):
        (tmp_path / "test/cat").mkdir(parents=True)
        assert "The test split (test) holds no pictures" in said(
            lay(tmp_path, "train/cat", "train/dog", "val/cat")
        )

    def test_folders_beside_splits_are_left_out_and_said(self, tmp_path):
        spec = lay(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "unlabeled", "masks/x")
        assert classes(spec) == ("cat", "dog")
        assert (
            "6 pictures left out, in folders that are neither splits nor classes: masks, unlabeled"
            in said(spec)
        )

    def test_two_folders_for_a_split_are_refused(self, tmp_path):
        spec = lay(tmp_path, "train/cat", "train/dog", "training_set/cat", "test/cat", "test/dog")
        with pytest.raises(DataError, match=r"two folders for its train split.*train, training_set"):
            open_labelled(spec)

    @pytest.mark.parametrize(
        "folders",
        [
            ["train/cat", "train/dog", "bus"],
            ["train/cat", "train/dog", "bus/a", "bus/b"],
            ["train", "test", "bus"],
            ["trainA", "trainB", "testA", "testB"],
            ["train/train/cat", "train/train/dog", "train/val/cat", "train/val/dog", "test/cat", "test/dog"],
        ],
    )
    def test_unclear_whether_splits_or_classes(self, tmp_path, folders):
        with pytest.raises(DataError, match=r"(?i)unclear whether .*train"):
            open_labelled(lay(tmp_path, *folders))

    def test_a_class_may_be_called_as_a_split(self, tmp_path):
        spec = lay(tmp_path / "flat", "train", "car", "boat")
        assert open_labelled(spec).class_names == ("boat", "car", "train")
        assert "The folder train is taken for a class" in said(spec)
        spec = lay(tmp_path / "deep", "train/train", "train/test", "test/train", "test/test")
        data = open_labelled(spec)
        assert (data.class_names, list(data.splits)) == (("test", "train"), ["train", "test"])
        spec = lay(tmp_path / "batches", "train/batch 1", "car/batch 1", "boat/batch 1")
        assert open_labelled(spec).class_names == ("boat", "car", "train")


class TestNoClasses:
    def refused(self, spec: str, words: str):
        with pytest.raises(DataError, match=words):
            open_labelled(spec)

    def test_a_folder_of_pictures(self, tmp_path):
        self.refused(lay(tmp_path, "."), "in no class folders.*3 pictures")
        self.refused(lay(tmp_path / "one", "images"), "in no class folders")
        self.refused(lay(tmp_path / "celeba", "img_align/img_align"), "in no class folders")
        self.refused(lay(tmp_path / "unzipped", "train/train", "test1/test1"), "in no class folders")

    def test_detection(self, tmp_path):
        spec = lay(tmp_path / "yolo", "images/train", "images/val")
        for split in ("train", "val"):
            (tmp_path / "yolo/labels" / split).mkdir(parents=True)
            (tmp_path / "yolo/labels" / split / "0.txt").write_text("0 .5 .5 1 1")
        self.refused(spec, "in no class folders.*'labels' usually say where things are")
        spec = lay(tmp_path / "robo", "train/images", "valid/images")
        (tmp_path / "robo/train/labels").mkdir()
        self.refused(spec, "in no class folders.*'labels' usually say where things are")
        self.refused(
            lay(tmp_path / "coco", "train2017", "val2017"), "3 pictures in val2017|3 pictures in train2017"
        )

    def test_masks(self, tmp_path):
        self.refused(
            lay(tmp_path / "voc", "JPEGImages", "SegmentationClass", "SegmentationObject"), "no class folders"
        )
        self.refused(lay(tmp_path / "pets", "images", "annotations/trimaps"), "no class folders")
        self.refused(
            lay(tmp_path / "split", "train/images", "train/masks", "test/images", "test/masks"), "no class f"
        )

    def test_classes_in_names_of_files(self, tmp_path):
        for name in ("cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg"):
            put(tmp_path / "train" / name, CAT)
        put(tmp_path / "test1" / "cat.7.jpg", CAT)
        self.refused(str(tmp_path), r"names of files seem to say the class: cat, dog\. Sort")

    def test_a_table_beside_is_named(self, tmp_path):
        spec = lay(tmp_path, "train")
        (tmp_path / "train/labels.csv").write_text("file,label")
        self.refused(spec, r"or give labels\.csv if it holds")

    def test_one_class(self, tmp_path):
        self.refused(lay(tmp_path, "cat"), "fewer than two classes.*'cat'")

    def test_pictures_that_are_not_read(self, tmp_path):
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat/1.HEIC").touch()
        self.refused(str(tmp_path), r"holds no labelled images.*1 file left out \(1: \.heic is not read")


class TestClasses:
    def test_pictures_beside_classes_are_left_out_and_said(self, tmp_path):
        spec = lay(tmp_path, "cat", "dog", ".")
        assert classes(spec) == ("cat", "dog")
        assert "3 pictures left out, beside the folders of classes in" in said(spec)

    def test_folders_within_classes_are_said(self, tmp_path):
        spec = lay(tmp_path, "cats/cat a", "cats/cat b", "dogs/dog a", "dogs/dog b")
        assert classes(spec) == ("cats", "dogs")
        assert "The classes are the 2 folders cats, dogs: the 4 folders inside them" in said(spec)

    @pytest.mark.parametrize(
        "folders",
        [
            ["amazon/images/cup", "amazon/images/bike", "dslr/images/cup", "dslr/images/bike"],
            ["photo/cat", "photo/dog", "sketch/cat", "sketch/dog"],
            [
                "train/photo/cat",
                "train/photo/dog",
                "train/sketch/cat",
                "train/sketch/dog",
                "test/cat",
                "test/dog",
            ],
        ],
    )
    def test_the_same_folders_in_each_may_be_the_classes(self, tmp_path, folders):
        with pytest.raises(
            DataError, match="unclear which folders of .* are its classes.*give one of the outer"
        ):
            open_labelled(lay(tmp_path, *folders))

    def test_parts_of_classes_are_no_classes(self, tmp_path):
        spec = lay(tmp_path, "cat/day 1", "cat/day 2", "dog/day 1", "dog/day 2")
        assert classes(spec) == ("cat", "dog")

    def test_links_are_followed_but_not_in_circles(self, tmp_path):
        lay(tmp_path, "elsewhere/dog", "set/cat")
        os.symlink(tmp_path / "elsewhere/dog", tmp_path / "set/dog")
        os.symlink(tmp_path / "set", tmp_path / "set/cat/up")
        os.symlink(tmp_path / "moved away", tmp_path / "set/owl")
        assert classes(str(tmp_path / "set")) == ("cat", "dog")
        assert said(str(tmp_path / "set")) == "1 file left out (1: a link that leads nowhere)."

    def test_folders_without_pictures_are_no_classes_and_said(self, tmp_path):
        for split in ("train", "test"):
            for bare in ("fish", "annotations"):
                (tmp_path / split / bare).mkdir(parents=True)
        spec = lay(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
        assert classes(spec) == ("cat", "dog")
        assert "Folders without pictures in test do not count as classes: annotations, fish" in said(spec)

    def test_other_pictures_are_counted(self, tmp_path):
        spec = lay(tmp_path, "cat", "dog")
        for name in ("a.heic", "b.HEIC", "c.mp4", "Thumbs.db", "list.txt"):
            (tmp_path / "cat" / name).touch()
        (tmp_path / "cat/without-ending").write_bytes(coloured(1))
        assert "4 files left out (2: .heic is not read" in said(spec)
        assert "1: a name without an ending" in said(spec)

    def test_classes_that_a_split_lacks(self, tmp_path):
        spec = lay(tmp_path / "set", "train/cat", "train/dog", "test/cat", "test/owl")
        assert open_labelled(spec).describe() == (
            "set: 3 classes (cat, dog, owl), 6 train, 6 test; 1 class of test without a train picture (owl); "
            "1 class of train without a test picture (dog)"
        )

    def test_one_spelling_of_each_class(self, tmp_path):
        spec = lay(tmp_path, "train/Cat", "train/dog", "test/cat", "test/dog")
        assert classes(spec) == ("Cat", "dog")
        assert "taken for one: 'Cat' = 'cat'" in said(spec)

    def test_spellings_that_one_split_tells_apart_stay_classes(self, tmp_path):
        put(tmp_path / "train/A/1.png", 0)
        put(tmp_path / "train/a/1.png", 1)
        put(tmp_path / "test/A/1.png", 0)
        put(tmp_path / "test/a/1.png", 1)
        assert open_labelled(str(tmp_path)).class_names == ("A", "a")
        assert knn(str(tmp_path), ["A", "a"]) == 1.0

    @pytest.mark.parametrize(("one", "other"), [("-1", "1"), ("A-", "A"), ("-", "_"), ("A-", "A+")])
    def test_names_with_signs_are_not_spellings_of_each_other(self, tmp_path, one, other):
        for split, called in (("train", one), ("test", other)):
            put(tmp_path / split / called / "1.png", 0)
            put(tmp_path / split / "else" / "1.png", 1)
        assert len(open_labelled(str(tmp_path)).class_names) == 3

    def test_numbers_of_one_split_that_are_one_are_said(self, tmp_path):
        spec = lay(tmp_path, "train/7", "train/07", "train/1", "test/7", "test/001")
        assert open_labelled(spec).class_names == ("1", "7")
        assert "taken for one: '07' = '7'" in said(spec)


class TestTinyImageNet:
    def tiny(self, root):
        for number, name in enumerate(NAMES):
            put(root / f"train/{name}/images/{name}_0.JPEG", number)
            (root / f"train/{name}/{name}_boxes.txt").write_text("x_0.JPEG\t0\t0\t62\t57\n")
            put(root / f"val/images/val_{number}.JPEG", number)
            put(root / f"test/images/test_{number}.JPEG", number)
        lines = [f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n" for number, name in enumerate(NAMES)]
        (root / "val/val_annotations.txt").write_text("".join(lines))
        return root

    def test_classes_are_those_of_the_annotations(self, tmp_path):
        spec = str(self.tiny(tmp_path / "tiny-imagenet-200"))
        assert classes(spec) == ("cat", "dog", "owl")
        assert {split: len(part) for split, part in open_labelled(spec).splits.items()} == {
            "train": 3,
            "val": 3,
        }
        assert "The classes of 3 pictures in val are those in val_annotations.txt" in said(spec)

    def test_pictures_that_the_annotations_leave_out_are_said(self, tmp_path):
        put(self.tiny(tmp_path) / "val/images/more.JPEG", 0)
        assert "1 picture left out, which val_annotations.txt does not name" in said(str(tmp_path))

    def test_without_the_annotations_it_is_left_out(self, tmp_path):
        (self.tiny(tmp_path) / "val/val_annotations.txt").unlink()
        with pytest.raises(DataError, match="no labelled test split"):
            load_labelled(str(tmp_path))
        (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG\tsomething else\n")
        with pytest.raises(DataError, match="no labelled test split"):
            load_labelled(str(tmp_path))

    def test_annotations_of_another_split_say_nothing(self, tmp_path):
        root = self.tiny(tmp_path)
        put(root / "test/images/val_0.JPEG", 1)
        assert list(open_labelled(str(root)).splits) == ["train", "val"]
        (root / "val/val_annotations.txt").rename(root / "val_annotations.txt")
        assert list(open_labelled(str(root)).splits) == ["train", "val"]

    def test_the_validation_folder_alone(self, tmp_path):
        spec = str(self.tiny(tmp_path) / "val")
        assert zeroshot(spec, NAMES) == 1.0


def test_imagenet_as_kaggle_has_it(tmp_path):
    ids = ["n01440764", "n01443537"]
    place = tmp_path / "ILSVRC/Data/CLS-LOC"
    lines = ["ImageId,PredictionString"]
    for number, one in enumerate(ids):
        put(place / "train" / one / f"{one}_1.JPEG", number)
        put(place / f"val/ILSVRC2012_val_{number}.JPEG", number)
        put(place / f"test/ILSVRC2012_test_{number}.JPEG", number)
        lines.append(f"ILSVRC2012_val_{number},{one} 85 1 499 272 {one} 1 2 3 4 ")
    (tmp_path / "ILSVRC/Annotations/CLS-LOC").mkdir(parents=True)
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines))
    assert zeroshot(str(tmp_path), ["tench", "goldfish"]) == knn(str(tmp_path), ids) == 1.0
    assert "The classes of 2 pictures in val are those in LOC_val_solution.csv" in said(str(tmp_path))


def test_numbered_flowers_with_their_names(tmp_path):
    for split in ("train", "valid"):
        for number in (0, 1):
            put(tmp_path / split / str(number + 1) / "image_06734.jpg", number)
    (tmp_path / "cat_to_name.json").write_text(
        '{"21": "fire lily", "1": "pink primrose", "2": "hard-leaved orchid"}'
    )
    assert zeroshot(str(tmp_path), ["pink primrose", "hard-leaved orchid"]) == 1.0


def test_a_long_and_a_hostile_name_make_one_line(tmp_path):
    for name in ("x" * 200, "\x1b[31mred\nline", "[bold]b[/bold]"):
        put(tmp_path / "set" / name / "1.png", 0)
    line = open_labelled(str(tmp_path / "set")).describe()
    assert len(line) < 150
    assert line.isprintable()
    for i in range(1000):
        put(tmp_path / "many" / f"class of things {i}" / "1.png", 0)
    assert len(open_labelled(str(tmp_path / "many")).describe()) < 150
