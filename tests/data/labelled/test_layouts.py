"""However the folders of a labelled set lie: an encoder that is always right gets 100 %, or the set is refused."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.labelled import imagenet, open_labelled
from openslip.errors import DataError, EvaluationError
from oracle import knn, put, zeroshot
from published_sets import paths

NAMES = ["cat", "golden retriever", "owl", "train", "crème brûlée", "oak tree", "images of war", "T-shirt"]


@dataclass(frozen=True)
class Case:
    """A drawn layout. splits: the split → what its folder is called; {} for a set without."""

    classes: list[str]
    splits: dict[str, str]
    wrappers: list[str]
    inside: list[str]
    spelling: str
    extras: list[str]

    def folder(self, number: int, split: str) -> str:
        name = self.classes[number]
        other = split == "test"  # spelled otherwise than in the first split
        return {
            "plain": name,
            "underscores": name.replace(" ", "_"),
            "numbered": f"{number + 1:03d}.{name.replace(' ', '_')}",
            "counted": f"{number}_{name}",
            "numbers": str(number),
            "padded": f"{number:04d}",
            "labels": f"class_{number}",
            "ids": imagenet._ids()[number * 37],
            "case": name.title() if other else name.lower(),
            "hyphens": name.replace(" ", "-" if other else "_"),
            "unicode": unicodedata.normalize("NFD" if other else "NFC", name),
            "spaces": f"{name} " if other else name,
        }[self.spelling]

    @property
    def words(self) -> list[str]:
        return (
            [imagenet.clip_names()[i * 37] for i in range(len(self.classes))]
            if self.spelling == "ids"
            else self.classes
        )


SPLITS = {
    "train": [
        "train",
        "Train",
        "TRAINING",
        "training_set",
        "train_images",
        "train2017",
        "seg_train",
        "TrainSet",
    ],
    "val": ["val", "Validation", "valid", "val2017", "validation_data", "dev"],
    "test": ["test", "TEST", "Testing", "test_set", "test-images", "seg_test", "evaluation"],
}


@st.composite
def cases(draw):
    classes = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True))
    chosen = draw(st.sampled_from([(), ("train", "test"), ("train", "val"), ("train", "val", "test")]))
    return Case(
        classes,
        {split: draw(st.sampled_from(SPLITS[split])) for split in chosen},
        draw(st.lists(st.sampled_from(["birds", "data", "images", "archive (1)", "Data"]), max_size=2)),
        draw(st.sampled_from([[], ["images"], ["batch 1"]])),
        draw(
            st.sampled_from(
                [
                    *("plain", "underscores", "numbered", "counted", "numbers", "padded", "labels", "ids"),
                    *("case", "hyphens", "unicode", "spaces"),
                ]
            )
        ),
        draw(st.lists(st.sampled_from(EXTRAS), unique=True)),
    )


EXTRAS = ["junk", "bare", "stray", "texts", "other folder", "unlabelled test"]


def write(case: Case, root) -> str:
    """Lay out the pictures of a case; return what to measure on."""
    top = root.joinpath("set", *case.wrappers)
    for split, called in (case.splits or {"all": ""}).items():
        for number in range(len(case.classes)):
            for i in range(6):
                put(top.joinpath(called, case.folder(number, split), *case.inside, f"{i}.png"), number)
    first = top / next(iter(case.splits.values()), "")
    if "junk" in case.extras:
        for junk in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN"):
            put(top / junk / "x.png", 999)
            put(first / junk / "._x.png", 999)
        put(first / case.folder(0, "train") / ".hidden.png", 999)
    if "bare" in case.extras:
        (first / "nothing here" / "nor here").mkdir(parents=True)
    if "stray" in case.extras:
        put(top / "overview.png", 999)
        put(first / "sample.png", 999)
    if "texts" in case.extras:
        (first / case.folder(0, "train") / "boxes.txt").write_text("0 0 1 1")
        (top / "README").write_text("Pictures")
    if "other folder" in case.extras and len(case.splits) > 1:
        put(top / "single_prediction" / "a.png", 999)
    if "unlabelled test" in case.extras and case.splits and "test" not in case.splits:
        put(top / "test" / "images" / "1.png", 999)
    return str(root / "set")


@settings(max_examples=80)
@given(case=cases())
def test_an_encoder_that_is_always_right_gets_everything(case, tmp_path_factory):
    spec = write(case, tmp_path_factory.mktemp("drawn"))
    measures = [knn] if case.spelling in ("numbers", "padded", "labels") else [knn, zeroshot]
    for measure in measures:
        assert measure(spec, case.words) == 1.0
    data = open_labelled(spec)
    assert len(data.class_names) == len(case.classes)
    assert list(data.splits) == (list(case.splits) or ["all"])
    assert "\n" not in data.describe()
    if case.spelling in ("numbers", "padded", "labels"):
        assert not data.named
        with pytest.raises(EvaluationError, match="have no names"):
            zeroshot(spec, case.words)
    expected = {"stray": "sample.png"}
    if len(case.splits) > 1:
        expected["other folder"] = "single_prediction"
    if case.splits and "test" not in case.splits:
        expected["unlabelled test"] = "left out"
    for extra, said in expected.items():
        assert extra not in case.extras or any(said in note for note in data.notes)


PARTS = [
    "train",
    "val",
    "Test_Set",
    "images",
    "masks",
    "cat",
    "dog",
    "owl",
    "train",
    "n01440764",
    "1",
    "2",
    "labels",
]
TREES = st.lists(st.lists(st.sampled_from(PARTS), max_size=4), min_size=1, max_size=12)


@settings(max_examples=150)
@given(TREES)
def test_no_picture_is_lost_without_a_word(tmp_path_factory, trees):
    root = tmp_path_factory.mktemp("drawn") / "set"
    places = {root.joinpath(*parts) for parts in trees}
    for place in places:
        put(place / "1.png", 0)
    data, refused = None, ""
    try:
        data = open_labelled(str(root))
    except DataError as error:
        refused = str(error)
    if data is None:
        assert re.search("no class folders|fewer than two classes|unclear|two folders for", refused)
        return
    used = sum(len(part) for part in data.splits.values())
    out = [
        int(found[1])
        for note in data.notes
        if (found := re.search(r"(\d+) pictures? (left out|in no class)", note))
    ]
    assert used + sum(out) == len(places)
    assert len({path for split in data.splits for path in paths(data, split)}) == used
