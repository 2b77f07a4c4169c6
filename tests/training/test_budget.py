import io
import os
import signal
from collections.abc import Generator
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from openslip.data.record import Batch
from openslip.errors import ConfigError
from openslip.training import trainer
from openslip.training.budget import (
    RESERVE,
    TIMED,
    WARM_UP,
    Budget,
    Forecast,
    Rehearsal,
    duration,
    parse_budget,
)
from openslip.training.plan_summary import length
from openslip.training.saving import checkpoint
from openslip.training.saving.run import read_lines
from openslip.training.signals import Interrupted
from openslip.training.train import train
from openslip.training.trainer import Trainer
from openslip.training.transfer import _ahead
from toys import make_tiny_config, plan_of

QUIET = Console(quiet=True)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("", Budget()),
        ("2h", Budget(seconds=7200)),
        ("90m", Budget(seconds=5400)),
        ("1h30m", Budget(seconds=5400)),
        ("1h 30m", Budget(seconds=5400)),
        ("1.5d", Budget(seconds=129_600)),
        ("45s", Budget(seconds=45)),
        ("12M samples", Budget(samples=12_000_000)),
        ("0.3M samples", Budget(samples=300_000)),
        ("500k samples", Budget(samples=500_000)),
        ("500,000 samples", Budget(samples=500_000)),
        ("1 sample", Budget(samples=1)),
        ("6 minutes", Budget(seconds=360)),
        ("6 min", Budget(seconds=360)),
        ("1.5 hours", Budget(seconds=5400)),
        ("90 s", Budget(seconds=90)),
        ("2 Days", Budget(seconds=172_800)),
        ("1 week", Budget(seconds=604_800)),
        ("1 hour and 30 minutes", Budget(seconds=5400)),
        ("1 hr, 30 min", Budget(seconds=5400)),
        ("1h30", Budget(seconds=5400)),
        ("01:30:00", Budget(seconds=5400)),
        ("1,500 s", Budget(seconds=1500)),
        ("5k samples", Budget(samples=5000)),
        ("5K samples", Budget(samples=5000)),
        ("1_000_000samples", Budget(samples=1_000_000)),
        ("1 000 000 samples", Budget(samples=1_000_000)),
        ("1e6 images", Budget(samples=1_000_000)),
        ("1.5 million pairs", Budget(samples=1_500_000)),
        ("10 epochs", Budget(epochs=10)),
        ("0.5 epoch", Budget(epochs=0.5)),
        ("2000 steps", Budget(steps=2000)),
        ("1.001k samples", Budget(samples=1001)),  # 1000.9999999999999 in binary fractions
        ("12MSamples", Budget(samples=12_000_000)),
    ],
)
def test_budgets_as_people_write_them(text, budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "h",
        "0h",
        "0 samples",
        "30m1h",
        "a day",
        "1.5 samples",
        "1.000.000 samples",
        "2h 10 epochs",
        "2h,",
        "1e99 samples",
    ],
)
def test_anything_else_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="Write --training.budget 2h.*'12M samples'.*'10 epochs'"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("2", "A number alone may be hours"),
        ("12M", "It does not say what the number counts"),
        ("12 m samples", "M for millions"),
        ("1,5 h", "write 1.5 for one and a half"),
        ("-1h", "below zero"),
        ("1:30", "hours and minutes, or minutes and seconds"),
        ("2 hours 5", "last number has no unit"),
        ("1h 30m 20", "last number has no unit"),
    ],
)
def test_what_is_not_clear_is_said(text, cause) -> None:
    with pytest.raises(ConfigError, match=cause):
        parse_budget(text)


@pytest.mark.parametrize("text", ["1 month", "500 ms", "500ms"])
def test_a_unit_that_begins_with_an_m_is_not_taken_for_millions(text) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_budget(text)
    assert "millions" not in str(refused.value)


def test_epochs_and_steps_are_budgets_too() -> None:
    assert plan_of(make_tiny_config(budget="2.5 epochs"), 64).steps == 20
    assert plan_of(make_tiny_config(budget="7 steps"), 64).steps == 7
    with pytest.raises(ConfigError, match="smaller than a batch of 8"):
        plan_of(make_tiny_config(budget="0.1 epochs"), 64)


def test_a_budget_of_less_than_an_epoch_is_warned_of(tmp_path, toy_source) -> None:
    assert not plan_of(make_tiny_config(budget="64 samples"), 70).part_of_an_epoch
    assert not plan_of(make_tiny_config(epochs=0.5), 64).part_of_an_epoch  # as one has asked
    said = io.StringIO()
    config = make_tiny_config(budget="5 steps")
    train(config, toy_source, tmp_path / "run", console=Console(file=said, width=300))
    assert "WARNING" in said.getvalue()
    assert "before all data are seen once: 40 of 64 samples, 0.62 of an epoch" in said.getvalue()


def test_the_same_budget_written_otherwise_is_no_other(tmp_path, toy_source) -> None:
    run = train(make_tiny_config(budget="16 steps"), toy_source, tmp_path / "run", console=QUIET)
    train(make_tiny_config(budget="16  Steps"), toy_source, run.path, resume=True, console=QUIET)


def test_a_budget_that_is_overrun_by_half_is_warned_of(tmp_path, toy_source, monkeypatch) -> None:
    """Timed at 0.1 s, the steps come to take 0.3 s: said once on the way, and at the end, also of a resumed run."""
    original, slow = Trainer.step, 0.3

    def take_step(self, batches, **options):
        original(self, batches, **options)
        if self.state.step == 20 and not self.state.plan.seconds:
            os.kill(os.getpid(), signal.SIGTERM)
        return 0.1 if self.state.plan.seconds else slow

    monkeypatch.setattr(Trainer, "step", take_step)
    said = io.StringIO()
    console = Console(file=said, width=300)
    config = make_tiny_config(budget="3s")
    with pytest.raises(Interrupted, match="after step 20 of 24"):
        train(config, toy_source, tmp_path / "run", console=console)
    assert said.getvalue().count("of a budget of 3 s") == 1
    assert "steps have taken 4.7 s of a budget of 3 s" in said.getvalue()
    assert "they were timed. Steps left: 10. Their" in said.getvalue()
    train(config, toy_source, tmp_path / "run", resume=True, console=console)
    assert said.getvalue().count("they became slower after they were timed\n") == 1


def test_a_forecast_is_made_of_the_first_steps() -> None:
    forecast = Forecast()
    words = [forecast.add(seconds, 1000) for seconds in [60.0, 5.0, *[2.0] * 30]]
    (said,) = filter(None, words)
    assert words.index(said) == 11
    assert "about 33 min for 1,000 more steps" in said
    assert "2 s a step, mean of 10" in said
    slow = Forecast()
    assert [bool(slow.add(20.0, 1000)) for _ in range(8)] == [*[False] * 4, True, *[False] * 3]
    short = Forecast()
    assert not any(short.add(0.01, 100) for _ in range(50))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.25, "0.25 s"),
        (45, "45 s"),
        (89, "89 s"),
        (400, "7 min"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (190_000, "2 d 5 h"),
    ],
)
def test_durations_as_people_say_them(seconds, words) -> None:
    assert duration(seconds) == words


def test_samples_are_steps_and_the_warmup_keeps_its_share() -> None:
    config = make_tiny_config(epochs=10.0, budget="1k samples")
    plan = plan_of(config, 64)
    assert (plan.steps, plan.warmup, plan.seconds) == (125, 12, 0)
    assert length(plan) == "15.6 epochs = 1,000 samples = 125 steps of 8"
    with pytest.raises(ConfigError, match="smaller than a batch of 8"):
        plan_of(make_tiny_config(budget="7 samples"), 64)


def test_a_rehearsal_leaves_out_the_first_steps() -> None:
    rehearsal = Rehearsal(100_000)
    for seconds in (60.0, 9.0, 8.0, 7.0, 6.0):
        rehearsal.add(seconds)
    assert not rehearsal.timed
    while not rehearsal.done:
        rehearsal.add(1.0 + rehearsal.steps % 2)
    assert (rehearsal.steps, len(rehearsal.timed)) == (WARM_UP + TIMED, TIMED)
    assert rehearsal.step_seconds == 1.5
    left = 100_000 * (1 - RESERVE) - 90 - TIMED * 1.5
    assert rehearsal.fitting() == int(left / 1.5)


@pytest.mark.parametrize(("seconds", "steps"), [(10.0, 5), (100.0, 6), (1000.0, 31)])
def test_a_rehearsal_is_short_where_time_is(seconds, steps) -> None:
    rehearsal = Rehearsal(seconds)
    while not rehearsal.done:
        rehearsal.add(1.0)
    assert rehearsal.steps == steps
    assert rehearsal.spent <= 0.03 * seconds + 5
    assert rehearsal.spent + rehearsal.fitting() <= seconds


def test_a_budget_too_small_for_a_step_still_makes_one() -> None:
    rehearsal = Rehearsal(1.0)
    while not rehearsal.done:
        rehearsal.add(5.0)
    assert rehearsal.steps == 5
    assert rehearsal.fitting() == 1


@pytest.fixture
def _tenth_of_a_second(monkeypatch) -> None:
    """Let every step seem to take 0.1 s."""
    original = Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda self, batches, **options: original(self, batches, **options) and 0.1
    )


def weights(run):
    return checkpoint.load(checkpoint.list_checkpoints(run.checkpoints)[-1])[0]


@pytest.mark.usefixtures("_tenth_of_a_second")
def test_a_budget_of_time_trains_as_the_same_number_of_samples_does(tmp_path, toy_source) -> None:
    said = io.StringIO()
    timed = train(
        make_tiny_config(budget="3s"), toy_source, tmp_path / "timed", console=Console(file=said, width=300)
    )
    steps = read_lines(timed.path / "metrics.jsonl")[-1]["step"]
    assert steps == int((3 * (1 - RESERVE) - 0.5) / 0.1)
    assert "3 s of training, evaluation not counted" in said.getvalue()
    assert (
        f"{steps * 8} samples = {steps} steps of 8 (about 2.4 s: 0.1 s a step, mean of 3)" in said.getvalue()
    )
    counted = train(
        make_tiny_config(budget=f"{steps * 8} samples"), toy_source, tmp_path / "counted", console=QUIET
    )
    assert all(torch.equal(weights(timed)[name], value) for name, value in weights(counted).items())
    learned = [[line["loss"] for line in read_lines(r.path / "metrics.jsonl")] for r in (timed, counted)]
    assert learned[0] == learned[1]


@pytest.mark.usefixtures("_tenth_of_a_second")
def test_a_plan_once_made_outlives_interruptions(tmp_path, toy_source, monkeypatch) -> None:
    config = make_tiny_config(budget="3s")
    whole = train(config, toy_source, tmp_path / "whole", console=QUIET)
    original = Trainer._train_on

    def train_step(self, batch):
        original(self, batch)
        if self.state.step == 7 and not self.state.plan.seconds:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_train_on", train_step)
    with pytest.raises(Interrupted, match="after step 7 of 24"):
        train(config, toy_source, tmp_path / "parts", console=QUIET)
    monkeypatch.undo()  # steps are faster now, which changes nothing
    parts = train(config, toy_source, tmp_path / "parts", resume=True, console=QUIET)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(parts).items())


def test_a_rehearsal_that_is_interrupted_is_repeated(tmp_path, toy_source, monkeypatch) -> None:
    original = Trainer.step

    def next_step(self, batches, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batches, **options)

    config = make_tiny_config(budget="1h")
    monkeypatch.setattr(Trainer, "step", next_step)
    with pytest.raises(Interrupted, match="while the first steps were timed.*--resume"):
        train(config, toy_source, tmp_path / "run", console=QUIET)
    assert checkpoint.read_state(tmp_path / "run" / "checkpoints" / "step-00000000")["steps"] is None
    monkeypatch.setattr(
        Trainer, "step", lambda self, batches, **options: original(self, batches, **options) and 300.0
    )
    run = train(config, toy_source, tmp_path / "run", resume=True, console=QUIET)
    assert read_lines(run.path / "metrics.jsonl")[-1]["step"] == 6


def test_another_budget_is_another_run(tmp_path, toy_source) -> None:
    config = make_tiny_config(budget="80 samples")
    train(config, toy_source, tmp_path / "run", console=QUIET)
    longer = replace(config, training=replace(config.training, budget="160 samples"))
    with pytest.raises(ConfigError, match=r"training\.budget = '160 samples', was '80 samples'"):
        train(longer, toy_source, tmp_path / "run", resume=True, console=QUIET)


def test_what_starting_takes_does_not_shorten_the_rehearsal() -> None:
    rehearsal = Rehearsal(45.0)
    for seconds in (5.0, 1.3, 0.2, 0.2, 0.2):
        assert not rehearsal.done
        rehearsal.add(seconds)
    assert rehearsal.done
    assert rehearsal.step_seconds == pytest.approx(0.2)


def test_a_rehearsal_may_take_more_steps_than_the_plan_it_replaces(tmp_path, toy_source, monkeypatch) -> None:
    """Where a thread fetches batches ahead, as for a GPU, it must not end with the steps of the configured epochs."""

    def ahead(batches: Generator[Batch], device: torch.device, count: int) -> Generator[Batch]:
        return _ahead(batches, lambda source: next(source, None), lambda batch: None, count)

    monkeypatch.setattr(trainer, "on_device", ahead)
    config = make_tiny_config(epochs=0.25, budget="4s")  # of 2 steps
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    steps = [line["step"] for line in read_lines(run.path / "metrics.jsonl")]
    assert steps[-1] > 2
