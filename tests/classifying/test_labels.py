"""Every picture has a label, in order, whatever the batch; those that cannot be used say why."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import openslip
from openslip.classifying.labels import Names, Rule, label_pictures
from openslip.data.sources import open_source
from openslip.errors import ConfigError, EvaluationError
from toys import ToySource, make_tiny_config


@pytest.fixture(scope="module")
def classify():
    torch.manual_seed(0)
    return openslip.ZeroShotClassifier(openslip.create(make_tiny_config()), ["cat", "dog", "a house"])


def labelled(classify, source, rule=None, **options):
    return [one for batch in label_pictures(classify, source, rule, **options) for one in batch]


def test_labels_are_the_classifiers_answers(classify) -> None:
    source = ToySource(count=11)
    found = labelled(classify, source, top=2, batch=4)
    expected = classify([source[i].image for i in range(11)])
    order = expected.argsort(dim=1, descending=True)
    assert [label.picture for label, _ in found] == [f"toy/{i:03d}" for i in range(11)]
    assert [label.index for label, _ in found] == list(range(11))
    for (label, image), row, best in zip(found, expected, order.tolist()):
        assert image is None
        assert label.answer == label.top[0][0] == classify.names[best[0]]
        assert [name for name, _ in label.top] == [classify.names[i] for i in best[:2]]
        np.testing.assert_allclose([p for _, p in label.top], row[best[:2]], rtol=1e-5)


def test_nothing_depends_on_threads_or_batches(classify) -> None:
    source = ToySource(count=11, broken=frozenset({0, 5}))
    one = labelled(classify, source, batch=1, workers=0)
    for batch, workers in ((3, 2), (64, -1)):
        other = labelled(classify, source, batch=batch, workers=workers)
        assert [label._replace(top=()) for label, _ in other] == [label._replace(top=()) for label, _ in one]
        torch.testing.assert_close(
            *(torch.tensor([[p for _, p in l.top] for l, _ in x if l.top]) for x in (one, other))
        )


def test_those_that_cannot_be_used_say_why(classify) -> None:
    found = labelled(classify, ToySource(count=4, broken=frozenset({1, 2})), batch=2)
    assert [bool(label.error) for label, _ in found] == [False, True, True, False]
    label = found[1][0]
    assert (label.answer, label.top) == ("", ())
    assert label.error.startswith("The image is damaged")


def test_a_threshold_and_a_temperature(classify) -> None:
    source = ToySource(count=6)
    best = [label.top[0][1] for label, _ in labelled(classify, source)]
    middle = sorted(best)[3]
    found = labelled(classify, source, Rule(threshold=middle, none="else"))
    assert [label.answer == "else" for label, _ in found] == [p < middle for p in best]
    assert [label.top[0][1] for label, _ in found] == best
    hot = labelled(classify, source, Rule(temperature=1e6))
    assert all(abs(p - 1 / 3) < 1e-3 for label, _ in hot for _, p in label.top)


def test_equal_classes_come_in_their_order(classify) -> None:
    blank = openslip.ZeroShotClassifier(classify.model, ["b", "a", "c"])
    blank.weights = torch.zeros_like(blank.weights)
    assert [name for name, _ in labelled(blank, ToySource(count=1))[0][0].top] == ["b", "a", "c"]


def test_what_is_not_finite_is_no_answer(classify) -> None:
    broken = openslip.ZeroShotClassifier(classify.model, ["a", "b"])
    broken.weights = broken.weights * float("nan")
    with pytest.raises(EvaluationError, match="not finite"):
        labelled(broken, ToySource(count=1))


def save(path, size=(20, 20)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 99, 199)).save(path)
    return path.read_bytes()


def test_files_are_called_by_their_paths(classify, tmp_path, monkeypatch) -> None:
    content = save(tmp_path / "photos" / "b" / "one.png")
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    for spec, home in (("photos", "photos/"), (str(tmp_path / "photos"), f"{tmp_path}/photos/")):
        found = labelled(classify, open_source(spec, captions_required=False), spec=spec, images=True)
        assert [label.picture for label, _ in found] == [f"{home}a.jpg", f"{home}b/one.png"]
        assert found[1][1] == content
    for spec in ("photos/b/one.png", "photos/**/*.png"):
        found = labelled(classify, open_source(spec, captions_required=False), spec=spec)
        assert [label.picture for label, _ in found] == ["photos/b/one.png"]
    (tmp_path / "=1.png").write_bytes(content)
    assert (
        labelled(classify, open_source("=1.png", captions_required=False), spec="=1.png")[0][0].picture
        == "./=1.png"
    )


def test_pictures_in_shards_are_called_by_their_keys(classify, tmp_path) -> None:
    content = save(tmp_path / "one.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("x/1.png", content), ("2.jpg", b"broken"), ("3.png", content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = open_source(str(tmp_path / "a.tar"), captions_required=False)
    found = [label for label, _ in labelled(classify, source)]
    assert [(label.picture, bool(label.error)) for label in found] == [
        ("x/1", False),
        ("2", True),
        ("3", False),
    ]


def test_a_record_that_cannot_be_read_has_a_name(tmp_path) -> None:
    assert Names(ToySource(broken=frozenset({3})))(3) == "record 3 of toy"
    save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("image\na.png\ngone.png\n")
    called = Names(open_source(str(tmp_path / "list.csv"), captions_required=False), str(tmp_path))
    assert called(1) == os.path.join(tmp_path, "gone.png")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"threshold": -0.1}, "A threshold is a probability"),
        ({"threshold": 1.1}, "A threshold is a probability"),
        ({"temperature": 0}, "A temperature is a number above 0"),
        ({"temperature": float("nan")}, "A temperature is a number above 0"),
        ({"none": " "}, "Pictures of no class need a name"),
    ],
)
def test_rules_that_make_no_sense(values, told) -> None:
    with pytest.raises(ConfigError, match=told):
        Rule(**values)
