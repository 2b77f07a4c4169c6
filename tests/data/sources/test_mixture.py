from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from openslip.data.order import Order, Part
from openslip.data.record import Record, Source
from openslip.data.sources.mixture import Mixture, split_mixture
from openslip.errors import DataError


@dataclass(eq=False)
class Letters(Source):
    name: str
    count: int
    block: int = 1
    note: str = ""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Record(b"", (), f"{self.name}{index}", self.name)


def make(*weights: float) -> Mixture:
    return Mixture([Letters("a", 4), Letters("b", 3, block=2), Letters("c", 5)], weights)


def test_records_follow_each_other() -> None:
    mixture = pickle.loads(pickle.dumps(make(1, 1, 1)))
    assert len(mixture) == 12
    assert mixture.name == "a + b + c"
    keys = [mixture[i].key for i in range(12)]
    assert keys == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "c0", "c1", "c2", "c3", "c4"]
    assert mixture[-1].key == "c4"
    assert mixture.origin(5) == (mixture.sources[1], 1)
    with pytest.raises(IndexError):
        mixture[12]


def test_weights_are_passes_an_epoch() -> None:
    mixture = make(2, 1, 0.4)
    assert mixture.parts == (Part(4, 8, 1), Part(3, 3, 2), Part(5, 2, 1))
    order = Order(mixture.parts, 0)
    keys = [mixture[order.locate(p)[1]].key for p in range(5 * order.length)]
    assert order.length == 13
    assert [keys.count(key) for key in ("a0", "b2", "c3")] == [10, 5, 2]
    assert make(0.01, 1, 1).parts[0].share == 1  # never left out altogether


def test_mixtures_of_mixtures() -> None:
    mixture = Mixture([make(2, 1, 0.4), Letters("d", 10)], [0.5, 1])
    assert [part.share for part in mixture.parts] == [4, 2, 1, 10]
    assert mixture[13].key == "d1"


def test_says_what_there_is() -> None:
    note = Mixture([Letters("a", 4, note="Columns: guessed"), Letters("b", 3)], [1, 0.5]).note
    assert note.splitlines() == ["4 records × 1 from a", "3 records × 0.5 from b", "Columns: guessed"]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_must_be_above_zero(weight: float) -> None:
    with pytest.raises(DataError, match="above 0"):
        make(1, weight, 1)


@pytest.mark.parametrize(
    ("spec", "terms"),
    [
        ("a.tar", [(1, "a.tar")]),
        (" a b.csv ", [(1, "a b.csv")]),
        ("c++/a-*.tar", [(1, "c++/a-*.tar")]),
        ("a*b.tar", [(1, "a*b.tar")]),
        ("a.tar + b.csv", [(1, "a.tar"), (1, "b.csv")]),
        ("2 * a-*.tar + 0.5 * scenes:train:9 + c", [(2, "a-*.tar"), (0.5, "scenes:train:9"), (1, "c")]),
        (".5 * a", [(0.5, "a")]),
        ("0.5 *a", [(1, "0.5 *a")]),
        ("", [(1, "")]),
    ],
)
def test_split(spec: str, terms: list) -> None:
    assert split_mixture(spec) == terms


def test_names_that_exist_are_not_split(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("C + D", "2 * x", "x", "e"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a + 1.tar").touch()
    assert split_mixture("C + D/*.tar") == [(1, "C + D/*.tar")]
    assert split_mixture("C + D/*.tar + e/b.csv") == [(1, "C + D/*.tar"), (1, "e/b.csv")]
    assert split_mixture("b.csv + C + D + e") == [(1, "b.csv"), (1, "C + D"), (1, "e")]
    assert split_mixture("0.5 * C + D/*.tar + 2 * x/*.tar") == [(0.5, "C + D/*.tar"), (1, "2 * x/*.tar")]
    assert split_mixture("2 * x") == [(1, "2 * x")]
    assert split_mixture("2 * e/*.tar") == [(2, "e/*.tar")]
    assert split_mixture("e/a + *.tar") == [(1, "e/a + *.tar")]
    assert split_mixture("e/a + {1..3}.tar + x") == [(1, "e/a + {1..3}.tar"), (1, "x")]
    assert split_mixture(f"{tmp_path}/C + D/*.tar") == [(1, f"{tmp_path}/C + D/*.tar")]
    assert split_mixture("C/*.tar + D/*.tar") == [(1, "C/*.tar"), (1, "D/*.tar")]
    assert split_mixture("**/a + 1.tar") == [(1, "**/a"), (1, "1.tar")]


@pytest.mark.parametrize("spec", ["a + ", "+ a", "a + 2 * + b", "2 *", "a +  + b"])
def test_a_missing_source(spec: str) -> None:
    with pytest.raises(DataError, match="missing"):
        split_mixture(spec)


@dataclass(eq=False)
class Kinds(Letters):
    """Records that take turns in being of the classes `kinds`; every third is of none."""

    kinds: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.kinds

    def label(self, index: int) -> int | None:
        return index % len(self.kinds) if index % 3 else None


def test_classes_of_one_name_are_one_class() -> None:
    parts = [Kinds("a", 6, kinds=("cat", "dog")), Letters("b", 2), Kinds("c", 6, kinds=("owl", "Dog", "cat"))]
    mixture = Mixture(parts, [1, 1, 1])
    assert mixture.class_names == ("cat", "dog", "owl")
    called = [None if (label := mixture.label(i)) is None else mixture.class_names[label] for i in range(14)]
    assert called == [
        *(None, "dog", "cat", None, "cat", "dog"), None, None, *(None, "dog", "cat", None, "dog", "cat")
    ]  # fmt: skip
    assert not mixture.captions_name_classes
    assert Mixture([Letters("b", 2)], [1]).class_names == ()


def test_names_that_one_source_tells_apart_by_capitals_stay_apart() -> None:
    mixture = Mixture([Kinds("a", 3, kinds=("polish", "Polish")), Kinds("b", 3, kinds=("Polish",))], [1, 1])
    assert mixture.class_names == ("polish", "Polish")
    assert [mixture.label(i) for i in (1, 2, 4, 5)] == [1, 0, 1, 1]
