"""The text an objective is written as, and the sum it stands for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from openslip.config import EMBEDDINGS, ObjectiveConfig
from openslip.errors import ConfigError
from openslip.objectives import REGISTRY, Clip, SimClr, Sum, parse


def batch(n: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = {name: torch.randn(n, 6, dtype=torch.float64, generator=generator) for name in EMBEDDINGS}
    embeddings["logit_scale"] = torch.tensor(10.0, dtype=torch.float64)
    return {name: tensor.requires_grad_() for name, tensor in embeddings.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip", Clip()),
        ("simclr", SimClr()),
        ("1 * clip", Clip()),
        ("clip + 1.0 * simclr", Sum(((1.0, Clip()), (1.0, SimClr())))),
        ("0.5*clip+2*simclr", Sum(((0.5, Clip()), (2.0, SimClr())))),
        (" simclr +\n1e-1 * clip ", Sum(((1.0, SimClr()), (0.1, Clip())))),
        ("1e+1*clip + .5*simclr", Sum(((10.0, Clip()), (0.5, SimClr())))),
        ("2 * clip", Sum(((2.0, Clip()),))),
    ],
)
def test_parse(text: str, expected: object) -> None:
    assert parse(text) == expected


def test_options_reach_the_terms_that_have_them() -> None:
    assert parse("clip + simclr", temperature=0.2, block=7) == Sum(((1.0, Clip(7)), (1.0, SimClr(0.2, 7))))


def test_defaults_are_the_configuration_s() -> None:
    config = ObjectiveConfig()
    expected = Sum(((1.0, Clip(config.block)), (1.0, SimClr(config.temperature, config.block))))
    assert (
        parse(config.loss)
        == parse(config.loss, temperature=config.temperature, block=config.block)
        == expected
    )


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
    objective = parse(text)
    assert parse(str(objective)) == objective


@given(st.text(st.sampled_from("clipsmr+*.0123 e-()'\"_\n"), max_size=20) | st.text(max_size=10))
def test_any_text_gives_an_objective_or_a_clear_error(text: str) -> None:
    try:
        objective = parse(text)
    except ConfigError:  # any other exception fails the test
        return
    assert parse(str(objective)) == objective


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
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip + simclear", "Unknown objective 'simclear'.*Did you mean 'simclr'"),
        ("CLIP", "Unknown objective 'CLIP'.*Did you mean 'clip'"),
        ("byolish", "Known: clip, simclr"),
        ("clip + 2 * clip", "appears twice"),
        ("1e999 * clip", "too large"),
    ],
)
def test_bad_terms_teach(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("clip", ("image", "text")),
        ("simclr", ("ssl_1", "ssl_2")),
        ("simclr + clip", ("image", "text", "ssl_1", "ssl_2")),
        ("3 * simclr", ("ssl_1", "ssl_2")),
    ],
)
def test_needs_in_canonical_order(text: str, needs: tuple[str, ...]) -> None:
    assert parse(text).needs == needs


def test_every_registered_objective_keeps_the_contract() -> None:
    for name in REGISTRY:
        objective = parse(name)
        assert objective.name == str(objective) == name
        assert set(objective.needs) <= set(EMBEDDINGS)
        # It reads nothing but what it needs, and names its values after itself.
        given = {k: v for k, v in batch().items() if k in (*objective.needs, "logit_scale")}
        result = objective(given)
        assert result["loss"].requires_grad
        for key, value in result.items():
            assert value.shape == ()
            assert key == "loss" or (key.startswith(f"{name}_") and not value.requires_grad)


def test_sum_weighs_losses_and_gradients_and_keeps_named_values() -> None:
    embeddings = batch()
    inputs = list(embeddings.values())
    result = parse("0.5 * clip + 3 * simclr", block=5)(embeddings)
    clip, simclr = Clip()(embeddings), SimClr()(embeddings)
    expected = 0.5 * clip["loss"] + 3 * simclr["loss"]
    torch.testing.assert_close(result["loss"], expected)
    assert set(result) == {"loss", "clip_loss", "clip_acc", "simclr_loss", "simclr_acc"}
    torch.testing.assert_close(result["simclr_loss"], simclr["loss"].detach())
    for one, other in zip(torch.autograd.grad(result["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other)


def test_a_term_without_its_embeddings_takes_no_part() -> None:
    embeddings = {name: value for name, value in batch().items() if not name.startswith("ssl")}
    result = parse("2 * clip + simclr")(embeddings)
    clip = Clip()(embeddings)
    assert set(result) == {"loss", "clip_loss", "clip_acc"}
    torch.testing.assert_close(result["loss"], 2 * clip["loss"])
    with pytest.raises(ConfigError, match=r"Nothing is left of clip \+ simclr.*logit_scale"):
        parse("clip + simclr")({"logit_scale": embeddings["logit_scale"]})


def test_terms_may_be_of_different_numbers_of_rows() -> None:
    embeddings = {name: value[:5] if name.startswith("ssl") else value for name, value in batch().items()}
    result = parse("clip + simclr")(embeddings)
    torch.testing.assert_close(result["loss"], Clip()(embeddings)["loss"] + SimClr()(embeddings)["loss"])
