"""A perfect encoder gets every picture of every form right, or the set is refused in words."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelled_forms import FORMS, NAMELESS, World
from openslip.data.labelled import open_labelled
from openslip.errors import EvaluationError
from openslip.evaluation.knn import Knn
from openslip.evaluation.zeroshot import ZeroShot
from oracle import Oracle

NAMES = [
    "Cat",
    "great_white_shark",
    "house",
    "7 up",
    "boeing 747",
    "zebra",
    "Äpfel",
    "bus_2",
    "n_o_body",
    "ox",
]

worlds = st.builds(
    World.make, st.lists(st.sampled_from(NAMES), min_size=2, max_size=6, unique=True), st.integers(0, 2**16)
)


def top1(results):
    return next(result.value for result in results if result.metric == "top1")


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(world=worlds)
def test_a_perfect_encoder_is_right(name, world):
    with tempfile.TemporaryDirectory() as folder:
        spec = FORMS[name](Path(folder), world)
        encoder: Any = Oracle(world.names)
        assert top1(ZeroShot(spec).evaluate(encoder)) == 1
        assert top1(Knn(spec, k=1).evaluate(encoder)) == 1
        said = open_labelled(spec)
        names = {name.replace("_", " ") for name in world.names}
        assert names <= set(said.class_names) <= {*names, "never seen"}


@pytest.mark.parametrize("name", NAMELESS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(world=worlds)
def test_numbers_are_classes_without_names(name, world):
    with tempfile.TemporaryDirectory() as folder:
        spec = NAMELESS[name](Path(folder), world)
        encoder: Any = Oracle(world.names)
        with pytest.raises(EvaluationError, match="have no names"):
            ZeroShot(spec).evaluate(encoder)
        assert top1(Knn(spec, k=1).evaluate(encoder)) == 1
