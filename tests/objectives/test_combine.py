"""The text an objective is written as, and the sum it stands for."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from objectives.cases import DIMS, features_for
from openslip import toml
from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError, TrainingError
from openslip.needs import IMAGE, LOGIT_SCALE, SSL_VIEWS, TEXT, Need, View, joined
from openslip.objectives import REGISTRY, At, Clip, LogitScale, Loss, SimClr, Sum, combine, complete, parse
from toys import small_loss


def read(text: str, **options: dict) -> Loss:
    return parse(ObjectiveConfig(loss=text, options=options))


def build(text: str, **options) -> Sum:
    torch.manual_seed(0)
    return small_loss(text, **options).build(DIMS).double().train()


def batch(module: Sum, n: int = 12, ssl: int = 0) -> dict[str, dict[Need, Tensor]]:
    """Return each term's features, of N rows; of scheduled views, of `ssl` rows."""
    features = features_for(module.written.needs, n)
    for need in features:
        if ssl and need.view.startswith("ssl"):
            features[need] = features[need].detach()[:ssl].requires_grad_()
    return {
        term.kind.name: {need: features[need] for need in term.kind.needs_for(term.config)}
        for term in module.written.terms
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip", [(1, Clip)]),
        ("simclr", [(1, SimClr)]),
        ("1 * clip", [(1, Clip)]),
        ("clip + 1.0 * simclr", [(1, Clip), (1, SimClr)]),
        ("0.5*clip+2*simclr", [(0.5, Clip), (2, SimClr)]),
        (" simclr +\n1e-1 * clip ", [(1, SimClr), (0.1, Clip)]),
        ("1e+1*clip + .5*simclr", [(10, Clip), (0.5, SimClr)]),
        ("2 * clip", [(2, Clip)]),
    ],
)
def test_parse(text: str, expected: list) -> None:
    assert [(term.weight, term.kind) for term in read(text).terms] == expected


def test_options_reach_the_term_that_they_are_named_after() -> None:
    loss = read("clip + simclr", clip={"block": 7}, simclr={"temperature": 0.2}, siglip={"bias": -3.0})
    assert [term.config for term in loss.terms] == [Clip.Config(block=7), SimClr.Config(temperature=0.2)]
    clip, simclr = loss.build(DIMS).objectives
    assert (clip.config.block, simclr.config.temperature) == (7, 0.2)


def test_options_of_an_objective_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"section 'objective\.simcrl'.*Did you mean .*'simclr'"):
        read("clip", simcrl={"width": 3})


def test_options_left_out_are_the_defaults() -> None:
    assert [term.config for term in read("clip + simclr").terms] == [Clip.Config(), SimClr.Config()]
    assert complete(ObjectiveConfig(loss="clip", options={"simclr": {"block": 3}})).options == {
        "clip": toml.to_dict(Clip.Config())
    }
    assert (
        toml.to_dict(Clip.Config()).items()
        >= {"block": 1024, "gradient": "exact", "positives": "pairs"}.items()
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simclr", {"temprature": 1.0}, r"objective\.simclr\.temprature.*Did you mean .*temperature"),
        ("simclr", {"temperature": "warm"}, r"objective\.simclr\.temperature.*float"),
        *(
            ("simclr", {"temperature": value}, r"simclr\.temperature must be above 0")
            for value in (0.0, -0.1, math.inf, math.nan)
        ),
        *(
            (name, {"block": -1}, rf"{name}\.block must be at least 0")
            for name in ("clip", "simclr", "siglip")
        ),
        *(
            ("byol", {"momentum": value}, r"byol\.momentum must be from 0 to 1")
            for value in (-0.1, 1.1, math.nan)
        ),
        *((name, {option: 0}, "at least 1") for name in ("simclr", "byol") for option in ("width", "dim")),
        ("siglip", {"bias": math.inf}, "finite"),
        ("simclear", {"width": 3}, r"section 'objective\.simclear'.*Did you mean .*simclr"),
    ],
)
def test_bad_options_teach(name, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read(name if name in REGISTRY else "clip", **{name: options})


@given(
    st.lists(
        st.tuples(st.floats(0, allow_infinity=False, allow_nan=False), st.sampled_from(sorted(REGISTRY))),
        min_size=1,
        unique_by=lambda term: term[1],
    ),
    st.sampled_from(["", " ", "  \n"]),
)
def test_text_round_trips(terms: list[tuple[float, str]], space: str) -> None:
    text = f"{space}+{space}".join(f"{weight!r}{space}*{space}{name}" for weight, name in terms)
    loss = read(text)
    assert [(term.weight, term.kind.name) for term in loss.terms] == terms
    assert read(str(loss)) == loss


@given(st.text(st.sampled_from("clipsmr+*.0123 e-()'\"_\n"), max_size=20) | st.text(max_size=10))
def test_any_text_gives_an_objective_or_a_clear_error(text: str) -> None:
    try:
        loss = read(text)
    except ConfigError:  # any other exception fails the test
        return
    assert read(str(loss)) == loss


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "+ clip", "clip +", "clip ++ simclr", "clip simclr", "clip - simclr", "clip; simclr"),
        *("2 clip", "clip * 2", "2 * 3 * clip", "-1 * clip", "nan * clip", "1_0 * clip", "(clip)"),
        "__import__('os')",
    ],
)
def test_bad_syntax_teaches(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be understood.*clip \+ 1\.0 \* simclr"):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip + simclear", "Unknown objective 'simclear'.*Did you mean 'simclr'"),
        ("CLIP", "Unknown objective 'CLIP'.*Did you mean 'clip'"),
        ("mystery", f"Known: {', '.join(sorted(REGISTRY))}"),
        ("clip + 2 * clip", "appears twice"),
        ("1e999 * clip", "too large"),
    ],
)
def test_bad_terms_teach(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_what_people_call_it() -> None:
    titles = {
        "clip": "CLIP",
        "clip + 1.0 * simclr": "SLIP",
        "simclr + 2 * clip": "SLIP",
        "2 * clip": "2.0 * clip",
    }
    assert {text: read(text).title for text in titles} == titles


SSL_NEEDS = tuple(Need(view.name) for view in SSL_VIEWS)


@pytest.mark.parametrize(
    ("text", "views", "needs"),
    [
        ("clip", (IMAGE,), Clip.needs),
        ("simclr", SSL_VIEWS, SSL_NEEDS),
        ("simclr + clip", (IMAGE, *SSL_VIEWS), (*SSL_NEEDS, *Clip.needs)),
        ("3 * simclr", SSL_VIEWS, SSL_NEEDS),
    ],
)
def test_views_and_needs_are_those_of_the_terms(text: str, views, needs) -> None:
    loss = read(text)
    assert loss.views == views
    assert loss.needs == needs
    assert loss.captioned is loss.shared_space is ("clip" in text)


def test_views_of_one_name_are_shared_or_refused() -> None:
    assert joined([*SSL_VIEWS, IMAGE, *SSL_VIEWS]) == (IMAGE, *SSL_VIEWS)
    with pytest.raises(ConfigError, match="'ssl_1' in different ways.*another name"):
        joined([*SSL_VIEWS, View("ssl_1", kind="image")])


def test_terms_share_the_logit_scale_or_are_refused(monkeypatch) -> None:
    class Hotter(Clip):
        name = "hotter"

        @classmethod
        def logit_scale_for(cls, config):
            return LogitScale(20, 1, 100)

    class Equal(Clip):
        name = "equal"

    monkeypatch.setattr(
        combine, "REGISTRY", {"clip": Clip, "hotter": Hotter, "equal": Equal, "simclr": SimClr}
    )
    assert read("simclr").logit_scale is None
    assert read("simclr + clip + equal").logit_scale == Clip.logit_scale
    with pytest.raises(ConfigError, match=r"clip \+ hotter.*clip starts it at 14\.3, hotter starts it at 20"):
        _ = read("clip + hotter").logit_scale


def test_weights_are_named_after_their_term() -> None:
    module = build("clip + 1.0 * simclr")
    assert {name.split(".")[0] for name in module.state_dict()} == {"simclr"}
    assert "simclr.head.layer1.weight" in module.state_dict()


def test_sum_weighs_losses_and_gradients_and_keeps_named_values() -> None:
    module = build("0.5 * clip + 3 * simclr", block=5)
    features = batch(module)
    result = module(features, At())
    clip, simclr = (module[name](features[name], At()) for name in ("clip", "simclr"))
    expected = 0.5 * clip["loss"] + 3 * simclr["loss"]
    torch.testing.assert_close(result["loss"], expected)
    assert set(result) == {"loss", "clip_loss", "clip_acc", "simclr_loss", "simclr_acc"}
    torch.testing.assert_close(result["simclr_loss"], simclr["loss"].detach())
    inputs = [x for given in features.values() for x in given.values()] + list(module.parameters())
    for one, other in zip(torch.autograd.grad(result["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other)


def test_a_term_takes_part_when_its_views_are_drawn() -> None:
    module, without = build("2 * clip + simclr"), At(scheduled=False)
    features = batch(module)
    result = module(features, without)
    assert set(result) == {"loss", "clip_loss", "clip_acc"}
    torch.testing.assert_close(result["loss"], 2 * module["clip"](features["clip"], At())["loss"])
    assert module.needs(without) == Clip.needs
    assert module.needs(At()) == (*Clip.needs, *SSL_NEEDS)
    alone = build("simclr")
    with pytest.raises(ConfigError, match="Nothing is left of simclr at step 7"):
        alone(batch(alone), At(step=7, scheduled=False))


def test_a_missing_feature_is_an_error_whatever_the_schedule() -> None:
    module = build("clip + simclr")
    features = batch(module)
    del features["simclr"][SSL_NEEDS[1]]
    with pytest.raises(ConfigError, match="simclr lacks a feature.*ssl_2"):
        module(features, At())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"simclr_loss": torch.ones(())}, "simclr returns no `loss`. Got: .simclr_loss"),
        (torch.ones(()), "no `loss`. Got: .Tensor"),
        ({"loss": torch.ones(3, requires_grad=True)}, r"`loss`, which is not one number. Got: .shape \(3,\)"),
        ({"loss": 1.0}, "`loss`, which is no tensor. Got: .float"),
        ({"loss": torch.ones(())}, "`loss` without gradient"),
        (
            {"loss": torch.ones((), requires_grad=True), "clip_loss": torch.ones(())},
            "does not begin with `simclr_`",
        ),
    ],
)
def test_what_an_objective_returns_is_checked(monkeypatch, result, message) -> None:
    module = build("clip + simclr")
    monkeypatch.setattr(module["simclr"], "loss", lambda embeddings, at: result)
    with pytest.raises(TrainingError, match=message):
        module(batch(module), At())


def test_a_term_gets_what_it_needs_and_no_more(monkeypatch) -> None:
    module, seen = build("clip + simclr"), []
    features, loss = batch(module), module["simclr"].forward
    monkeypatch.setattr(
        module["simclr"], "forward", lambda given, at: [seen.extend(given), loss(given, at)][1]
    )
    module(dict.fromkeys(features, features["clip"] | features["simclr"]), At())
    assert tuple(seen) == SSL_NEEDS


def test_terms_may_be_of_different_numbers_of_rows() -> None:
    module = build("clip + simclr")
    features = batch(module, ssl=5)
    result = module(features, At())
    clip, simclr = (module[name](features[name], At())["loss"] for name in ("clip", "simclr"))
    torch.testing.assert_close(result["loss"], clip + simclr)


def test_after_a_step_come_the_terms_that_took_part() -> None:
    scale = torch.nn.Parameter(torch.tensor(50.0))
    model: Any = SimpleNamespace(logit_scale=scale)
    build("simclr").after_step(model, At(), torch.tensor(True))
    assert scale.item() == 50
    build("clip + simclr").after_step(model, At(scheduled=False), torch.tensor(True))
    assert scale.exp().item() == pytest.approx(100)


def test_needs_of_a_sum_are_each_asked_for_once() -> None:
    assert LOGIT_SCALE in Clip.needs
    assert Need(TEXT, "embedding") in Clip.needs
    assert len(set(read("clip + simclr").needs)) == len(read("clip + simclr").needs) == 5
