"""From a batch to the next state: what a step does with records, losses and views that are not there."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from openslip.config import Config
from openslip.errors import TrainingError
from openslip.objectives import Clip, parse
from openslip.training import state, trainer
from openslip.training.saving import checkpoint
from openslip.training.saving.run import read_lines
from openslip.training.signals import Interrupted
from openslip.training.train import train
from toys import LOSSES, ToySource, make_tiny_config, with_loss, with_saved_teacher
from training.runs import QUIET, TIMING, interrupt_after, same, weights


def test_unusable_records_are_replaced_and_listed(tmp_path, tiny_config) -> None:
    source = ToySource(64, broken=frozenset({3, 40}), silent=frozenset({9}))
    config = replace(tiny_config, data=replace(tiny_config.data, max_skipped=0.2))
    run = train(config, source, tmp_path / "run", console=QUIET)
    listed = read_lines(run.path / "skipped.jsonl")
    assert {line["index"] for line in listed} == {3, 9, 40}
    assert {line["key"] for line in listed} >= {"toy/009"}
    lines = read_lines(run.path / "metrics.jsonl")
    assert lines[-1]["skipped"] == len(listed) >= 6


def test_too_many_unusable_records_stop_the_run(tmp_path) -> None:
    source = ToySource(64, broken=frozenset(range(0, 64, 8)))
    with pytest.raises(
        TrainingError, match=r"could not be used, more than the 5\.0% allowed.*skipped\.jsonl"
    ):
        train(make_tiny_config(epochs=20), source, tmp_path / "run", console=QUIET)


def test_non_finite_losses_are_skipped_then_stop_the_run(
    tmp_path, toy_source, tiny_config, monkeypatch
) -> None:
    original, calls = trainer.backward, []

    def poisoned(parallel, *args, **options):
        losses = original(parallel, *args, **options)
        calls.append(1)
        if len(calls) == 3 or len(calls) > 8:
            losses["loss"] = torch.tensor(float("nan"))
            for parameter in parallel.student.parameters():
                parameter.grad = torch.full_like(parameter, float("nan"))
        return losses

    monkeypatch.setattr(trainer, "backward", poisoned)
    config = replace(tiny_config, training=replace(tiny_config.training, max_nonfinite=3))
    with pytest.raises(TrainingError, match=r"3 steps in a row, the last of them step 11.*records toy/"):
        train(config, toy_source, tmp_path / "run", console=QUIET)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[1]["nonfinite"] == 1
    counts = json.loads((tmp_path / "run" / "counts.json").read_text())
    assert (counts["nonfinite_steps"], counts["nonfinite_samples"]) in [(1, 8), (3, 24)]
    stored = checkpoint.load(checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1])[0]
    assert all(torch.isfinite(w).all() for w in stored.values())


SUMS = [loss for loss in LOSSES if "+" in loss]
"""Losses some of whose terms are scheduled."""


def cheap(config: Config) -> Config:
    """Return the configuration with everything that makes self-supervision cheaper."""
    ssl = replace(config.views.ssl, size=24, drop_tokens=0.5)
    return replace(
        config,
        views=replace(config.views, image=replace(config.views.image, drop_tokens=0.25), ssl=ssl),
        objective=replace(config.objective, ssl_every=2, ssl_share=0.5),
    )


@pytest.mark.parametrize(
    ("micro_batch", "loss"),
    [(3, loss) for loss in (*SUMS, "clip + distil", "clip + preserve")]
    + [pytest.param(0, loss, marks=pytest.mark.slow) for loss in (*SUMS, "clip + distil", "clip + preserve")],
)
def test_cheaper_self_supervision_resumes_exactly(
    tmp_path, toy_source, monkeypatch, loss, micro_batch
) -> None:
    options = {
        "views": "ssl",
        "pictures": "other",
        "text": False,
    }  # of self-supervised views, where there is a choice
    config = with_loss(cheap(make_tiny_config(micro_batch=micro_batch)), loss, **options)
    config = with_saved_teacher(config, tmp_path / "teacher")
    pictures = ToySource(13, silent=frozenset(range(13)), broken=frozenset({5}), name="pictures")
    said = io.StringIO()
    console = Console(file=said, width=200)
    whole = train(config, toy_source, tmp_path / "whole", ssl=pictures, console=console)
    interrupt_after(monkeypatch, 7)  # steps 0, 2, 4, … have self-supervision
    with pytest.raises(Interrupted, match="after step 7 of 16"):
        train(config, toy_source, tmp_path / "parts", ssl=pictures, console=QUIET)
    parts = train(config, toy_source, tmp_path / "parts", ssl=pictures, resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))
    lines = [
        [
            {k: v for k, v in line.items() if k not in TIMING and not k.startswith("time_")}
            for line in read_lines(run.path / "metrics.jsonl")
        ]
        for run in (whole, parts)
    ]
    assert lines[0] == lines[1]
    # 16 steps of 8 pairs; 8 steps with 4 pictures, which are 2 epochs of 13 and a half.
    assert "160 records read" in said.getvalue()
    skipped = [line["key"] for line in read_lines(whole.path / "skipped.jsonl")]
    assert skipped.count("#5") in (2, 3)


@pytest.mark.parametrize("loss", ["clip + simclr", "clip + dino"])
@pytest.mark.parametrize("steps", [5, 11])
def test_self_supervision_that_begins_late_resumes_exactly(
    tmp_path, toy_source, monkeypatch, loss, steps
) -> None:
    config = with_loss(make_tiny_config(log_every=1), loss)
    config = replace(config, objective=replace(config.objective, ssl_from=0.5))
    pictures = ToySource(13, silent=frozenset(range(13)), name="pictures")
    whole = train(config, toy_source, tmp_path / "whole", ssl=pictures, console=QUIET)
    interrupt_after(monkeypatch, steps)
    with pytest.raises(Interrupted, match=f"after step {steps} of 16"):
        train(config, toy_source, tmp_path / "parts", ssl=pictures, console=QUIET)
    parts = train(config, toy_source, tmp_path / "parts", ssl=pictures, resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))
    logged = [f"{loss.split()[-1]}_loss" in line for line in read_lines(parts.path / "metrics.jsonl")]
    assert logged == [False] * 8 + [True] * 8


@pytest.mark.parametrize("loss", SUMS)
def test_steps_without_self_supervision_run_and_log_none(tmp_path, toy_source, monkeypatch, loss) -> None:
    config = with_loss(cheap(make_tiny_config(log_every=1)), loss)
    original, views = trainer.backward, []

    def watched(parallel, inputs, at, **options):
        views.append({name: tuple(view.shape) for name, view in inputs.views.items()})
        return original(parallel, inputs, at, **options)

    monkeypatch.setattr(trainer, "backward", watched)
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    image, sizes = {"image": (8, 3, 16, 16)}, {"ssl": 24, "local": 16}
    few = {v.name: (4, 3, sizes[v.kind], sizes[v.kind]) for v in parse(config.objective).views if v.scheduled}
    assert views == [image | few, image] * 8
    lines = read_lines(run.path / "metrics.jsonl")
    curves = parse(config.objective).curves
    logged = [[curve.key in line for curve in curves] for line in lines]
    assert logged == [[True] * len(curves), [curve in Clip.curves for curve in curves]] * 8


def test_means_are_over_the_steps_that_have_a_value(tmp_path, toy_source) -> None:
    each, all_steps = (
        read_lines(
            train(cheap(make_tiny_config(log_every=n)), toy_source, tmp_path / str(n), console=QUIET).path
            / "metrics.jsonl"
        )
        for n in (1, 16)
    )
    for name, count in (("simclr_loss", 8), ("clip_loss", 16), ("loss", 16)):
        values = [line[name] for line in each if name in line]
        assert len(values) == count
        assert all_steps[0][name] == pytest.approx(sum(values) / count)


def test_the_trained_model_takes_images_of_views_size(tmp_path, toy_source, tiny_config) -> None:
    import openslip

    run = train(cheap(tiny_config), toy_source, tmp_path / "run", console=QUIET)
    encoder = openslip.load(run.path)
    assert encoder.size == 16
    assert encoder.encode_image(toy_source[0].image).shape == (1, 8)


def scale_losses(monkeypatch, **options) -> None:
    """Let fp32 runs on a CPU scale their losses as fp16 ones on a GPU do."""
    monkeypatch.setattr(state, "loss_scaler", lambda *_: torch.amp.GradScaler("cpu", **options))


@pytest.mark.parametrize("loss", SUMS)
def test_a_scaled_loss_trains_the_same_and_resumes_exactly(
    tmp_path, toy_source, tiny_config, monkeypatch, loss
) -> None:
    tiny_config = with_loss(tiny_config, loss)
    plain = train(tiny_config, toy_source, tmp_path / "plain", console=QUIET)
    # Grows at steps 5, 10 and 15, so that both the scale and the steps since it grew have to be restored.
    scale_losses(monkeypatch, init_scale=2.0**8, growth_interval=5)
    whole = train(tiny_config, toy_source, tmp_path / "whole", console=QUIET)
    assert same(weights(plain), weights(whole))  # powers of two: bit for bit
    interrupt_after(monkeypatch, 7)
    with pytest.raises(Interrupted):
        train(tiny_config, toy_source, tmp_path / "parts", console=QUIET)
    parts = train(tiny_config, toy_source, tmp_path / "parts", resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))
    states = [
        checkpoint.read_state(checkpoint.list_checkpoints(run.checkpoints)[-1]) for run in (whole, parts)
    ]
    assert states[0] == states[1]
    assert states[0]["scaler"]["scale"] == 2.0**11
    assert states[0]["scaler"]["_growth_tracker"] == 1


def test_overflow_lowers_the_scale_and_is_no_strike(tmp_path, toy_source, tiny_config, monkeypatch) -> None:
    """The loss stays finite and its gradient does not: four times too high a scale, then something else."""
    original, calls = trainer.backward, []

    def too_high(parallel, *args, scaler, **options):
        losses = original(parallel, *args, scaler=scaler, **options)
        calls.append(scaler.get_scale())
        if scaler.get_scale() > 0.5 or len(calls) > 10:
            parallel.student.model.logit_scale.grad.fill_(float("inf"))
        return losses

    monkeypatch.setattr(trainer, "backward", too_high)
    scale_losses(monkeypatch, init_scale=8.0, growth_interval=1000)
    config = replace(tiny_config, training=replace(tiny_config.training, max_nonfinite=3))
    with pytest.raises(TrainingError, match="3 steps in a row, the last of them step 13"):
        train(config, toy_source, tmp_path / "run", console=QUIET)
    # Numbers are read every third step here, so the run learns of the strikes two steps late.
    assert calls[:13] == [8, 4, 2, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.125]
    assert len(calls) == 15
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [(line["overflow"], line["nonfinite"]) for line in lines] == [(3, 0), (4, 0), (4, 0), (4, 2)]


def test_runs_in_other_precisions_count_no_overflow(tmp_path, toy_source, tiny_config) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    assert not any("overflow" in line for line in read_lines(run.path / "metrics.jsonl"))


def test_the_largest_seed_trains(tmp_path, toy_source) -> None:
    train(make_tiny_config(epochs=0.25, seed=2**63 - 1), toy_source, tmp_path / "run", console=QUIET)
