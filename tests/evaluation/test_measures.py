from __future__ import annotations

import math

import pytest

from openslip.evaluation.measures import MEASURES, lower_is_better, measure


@pytest.mark.parametrize("metric", [*MEASURES, "text_recall@10", "image_median_rank"])
def test_a_key_and_a_name_are_the_same(metric: str) -> None:
    assert measure(f"knn:birds/{metric}") == measure(metric)


def test_recalls_and_ranks_are_told_by_their_names() -> None:
    assert measure("text_recall@10").title == "picture → text recall@10"
    assert measure("image_median_rank").title == "text → picture median rank"
    assert measure("image_median_rank").bounds == (1.0, math.inf)
    assert [name for name in ("top1", "ece", "text_median_rank") if lower_is_better(name)] == [
        "ece",
        "text_median_rank",
    ]


def test_what_nobody_knows_is_a_share() -> None:
    assert measure("my_own").with_unit(0.5) == "50.0%"


def test_no_number_has_no_unit() -> None:
    assert measure("top1").with_unit(math.nan) == measure("top1").with_unit(math.nan, math.nan) == "–"
    assert measure("top1").with_unit(0.5, 0.0123) == "50.0% ± 1.2"
    assert measure("top1").spread(None) == measure("top1").spread(math.nan) == ""


def test_values_and_differences_in_their_units() -> None:
    assert measure("top1").text(0.123, sign=True) == "+12.3"
    assert measure("text_median_rank").text(-3.0, sign=True) == "-3.0"
    assert measure("modality_gap").with_unit(0.98765) == "0.988"
    # As many digits each, so that the ends of an interval look alike.
    numbers = [measure("image_uniformity").text(value) for value in (-2.74, -2.6, 25, 109, 1234)]
    assert numbers == ["-2.74", "-2.60", "25.0", "109", "1.23e+03"]
