from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from openslip.evaluation import Result, suite


def result(task: str = "knn:birds", metric: str = "top1", **facts: Any) -> Result:
    return Result(task, metric, 0.5, 10, 0.2, 0.8, **facts)


def test_one_measurement_has_the_short_name():
    of_one = [
        result(metric=metric, data="/data/A/birds", split="test") for metric in ("top1", "mean_per_class")
    ]
    assert suite.distinct(of_one) == ["knn:birds", "knn:birds"]
    assert suite.keys(of_one) == ["knn:birds/top1", "knn:birds/mean_per_class"]
    assert suite.distinct([result(), result("zeroshot:birds")]) == ["knn:birds", "zeroshot:birds"]
    assert suite.distinct([]) == []


def test_sets_of_one_name_are_told_apart_by_the_end_of_their_path():
    places = ["/data/A/birds", "/data/B/birds"]
    assert suite.distinct([result(data=place) for place in places]) == ["knn:A/birds", "knn:B/birds"]
    below = ["/a/birds/test", "/b/birds/test"]
    assert suite.distinct([result(data=place) for place in below]) == ["knn:a/birds/test", "knn:b/birds/test"]


def test_a_name_that_was_given_stays():
    held_out, task = (result("retrieval:birds", data=f"/w/{name}") for name in ("own.csv", "birds.csv"))
    assert suite.distinct([held_out, task]) == ["retrieval:birds", "retrieval:birds.csv"]
    assert suite.distinct([task, held_out]) == ["retrieval:birds.csv", "retrieval:birds"]


def test_results_of_earlier_versions_keep_their_name():
    known = [result(data="/data/A/birds"), result(data="/data/B/birds")]
    assert suite.distinct([result(), *known]) == ["knn:birds", "knn:A/birds", "knn:B/birds"]
    assert suite.distinct([result(), known[0]]) == ["knn:birds", "knn:A/birds"]


def test_other_prompts_settings_and_checkpoints_are_said():
    zero = "zeroshot:birds"
    prompts = [result(zero, prompts="default"), result(zero, prompts="a photo of a {}.")]
    assert suite.distinct(prompts) == [f"{zero} [prompts default]", f"{zero} [prompts a photo of a {{}}.]"]
    assert suite.distinct([result(), result(settings="k=5")]) == ["knn:birds", "knn:birds [k=5]"]
    both = [
        result(data="/A/birds", checkpoint="step-4"),
        result(data="/A/birds", checkpoint="step-8"),
        result(data="/B/birds", checkpoint="step-8"),
    ]
    assert suite.distinct(both) == ["knn:A/birds [step-4]", "knn:A/birds [step-8]", "knn:B/birds"]
    assert suite.distinct([result(content="12ab"), result(content="34cd")]) == [
        "knn:birds [content 12ab]",
        "knn:birds [content 34cd]",
    ]


texts = st.sampled_from(
    ["", "a", "b", "a/b", "/x/a/b", "/y/a/b", "a [b]", "b" * 90 + "c", "b" * 90 + "d" + "b" * 30]
)
FACTS = ("data", "split", "prompts", "settings", "checkpoint", "content")


@given(
    st.lists(
        st.tuples(st.sampled_from(["knn:b", "knn:a/b", "knn:b [b]"]), *[texts] * len(FACTS)), max_size=12
    )
)
def test_names_are_equal_exactly_where_what_was_measured_is(drawn):
    results = [result(task, **dict(zip(FACTS, facts))) for task, *facts in drawn]
    names = suite.distinct(results)
    for (one, a), (other, b) in itertools.combinations(zip(results, names), 2):
        assert (one.identity == other.identity) == (a == b)
