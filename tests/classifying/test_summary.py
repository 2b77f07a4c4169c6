"""A summary counts every picture once."""

from __future__ import annotations

from openslip.classifying.labels import Label, Rule
from openslip.classifying.summary import Summary


def test_every_picture_is_counted() -> None:
    summary = Summary(30, Rule(threshold=0.5))
    summary.add(Label(str(i), f"class {i % 25}") for i in range(50))
    summary.add([Label("x", "none")] * 4 + [Label("y", "class 0")])
    summary.add(Label(f"b{i}", "", error="broken") for i in range(7))
    lines = summary.lines()
    assert lines[0] == "62 pictures: 51 in 25 of 30 classes, 4 none (below 0.5), 7 cannot be used."
    assert lines[1].split() == ["3", "class", "0"]
    assert lines[21].split() == ["10", "in", "5", "other", "classes"]
    assert lines[22] == "  cannot be used: b0: broken"
    assert lines[27] == "  and 2 others, listed in the column `error`"
    assert (summary.usable, summary.unusable) == (55, 7)


def test_a_class_called_none_is_a_class() -> None:
    summary = Summary(2, Rule())
    summary.add([Label("x", "none"), Label("y", "cat")])
    assert summary.lines()[0] == "2 pictures: 2 in 2 of 2 classes."
