"""Runs with frozen blocks, adapters and rates of their own: how they go on, and what is loaded of them."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from openslip import load, toml
from openslip.cli import main
from openslip.config import TowerRateConfig
from openslip.interop import read
from openslip.training.saving import checkpoint
from openslip.training.saving.run import read_lines
from openslip.training.signals import Interrupted
from openslip.training.train import train
from toys import ToySource, make_tiny_config, save_toy_model, tuned, with_loss
from training.runs import QUIET, FakeResult, interrupt_after, same, weights

pytest.importorskip("peft")
LORA = {"image": "1", "lora": (4, 2)}


@pytest.fixture
def config():
    config = with_loss(make_tiny_config(epochs=1.5, batch=8, log_every=1), "clip + byol")
    rates = replace(config.optimizer, text=TowerRateConfig(lr=1e-2, layer_decay=0.5))
    return tuned(replace(config, optimizer=rates), **LORA)


def test_a_run_with_adapters_goes_on_bit_for_bit(config, tmp_path, monkeypatch) -> None:
    whole = train(config, ToySource(), tmp_path / "whole", console=QUIET)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(Interrupted):
            train(config, ToySource(), tmp_path / "parts", console=QUIET)
    parts = train(config, ToySource(), tmp_path / "parts", resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))
    *_, last = (line for line in read_lines(whole.path / "metrics.jsonl") if "lr" in line)
    # The embeddings have no adapter: the highest rate of the tower is that of its last block, one below the norm.
    assert last["lr_text"] == pytest.approx(last["lr"] * 1e-2 / config.optimizer.lr * 0.5)
    assert "lr_image" not in last


def test_what_is_loaded_of_a_run_is_merged(config, tmp_path) -> None:
    """As measured while training, from the run and from one file; under the names that other models have."""
    pictures, measured = torch.randn(5, 3, 16, 16), {}

    def evaluate(encoder):
        measured["names"] = set(encoder.model.state_dict())
        measured["image"], measured["text"] = (
            encoder.encode_image(pictures),
            encoder.encode_text("a red square"),
        )
        return [FakeResult(1.0)]

    run = train(config, ToySource(), tmp_path / "run", evaluate=evaluate, console=QUIET)
    stored = weights(run)
    assert sum("lora_A" in name for name in stored) > 12  # the teacher has some, too
    assert not any("base_layer" in name for name in stored)
    file = tmp_path / "model.safetensors"
    main(["consolidate", str(run.path), "--out", str(file)])
    for path in (run.path, checkpoint.list_checkpoints(run.checkpoints)[-1], file):
        encoder = load(path)
        assert set(encoder.model.state_dict()) == measured["names"]
        torch.testing.assert_close(encoder.encode_image(pictures), measured["image"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            encoder.encode_text("a red square"), measured["text"], rtol=1e-5, atol=1e-6
        )
    assert not any("lora" in name for name in read(str(run.path)).weights)


def test_a_run_with_adapters_starts_from_another(config, tmp_path) -> None:
    """Whose adapters are part of its weights by then."""
    first = train(config, ToySource(), tmp_path / "first", console=QUIET)
    again = replace(config, init=str(first.path), optimizer=replace(config.optimizer, lr=0.0))
    again = replace(
        again, optimizer=replace(again.optimizer, lr_start=0.0, lr_end=0.0, text=TowerRateConfig())
    )
    second = train(again, ToySource(), tmp_path / "second", console=QUIET)
    a, b = read(str(first.path)).weights, read(str(second.path)).weights
    for name in (name for name in a if not name.startswith("objective.")):
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize(("rate", "slow"), [(1e-5, True), (3e-4, False)])
def test_adapters_at_the_rate_of_whole_towers_are_warned_of(config, tmp_path, rate, slow) -> None:
    rates = replace(config.optimizer, lr=1e-5, image=TowerRateConfig(lr=rate))
    told = io.StringIO()
    train(
        replace(config, optimizer=rates), ToySource(), tmp_path / "run", console=Console(file=told, width=500)
    )
    advised = "learn at 1e-05 (image tower), at which they change little" in told.getvalue()
    assert advised is slow
    assert ("--optimizer.image.lr 3e-4" in told.getvalue()) is slow
    assert "--optimizer.text.lr" not in told.getvalue()


def test_only_fresh_weights_learn_at_first(tmp_path) -> None:
    """In the first half of the run: the head that the weights lack. Interrupted there, it goes on the same."""
    spec = save_toy_model(tmp_path / "toy")
    config = with_loss(make_tiny_config(epochs=1, batch=8, log_every=1), "clip + 1.0 * simclr")
    model = toml.load(tmp_path / "toy" / "config.toml")
    config = replace(config, init=spec, model=model.model, views=replace(model.views, size=24))
    rates = replace(config.optimizer, fresh_epochs=0.5, warmup_epochs=0.25, weight_decay=0.5)
    config = replace(config, optimizer=rates, checkpoint=replace(config.checkpoint, every_steps=1, keep=99))
    run = train(config, ToySource(), tmp_path / "run", console=QUIET)
    steps = [checkpoint.load(path)[0] for path in checkpoint.list_checkpoints(run.checkpoints)]
    begun = read(spec).weights
    for state, learned in ((steps[3], False), (steps[5], True)):
        for name, weight in begun.items():
            if name != "logit_scale":
                assert torch.equal(state[name], weight) != learned, name
    head = [name for name in steps[0] if name.startswith("objective.simclr") and name.endswith("weight")]
    assert head
    assert all(not torch.equal(steps[3][name], steps[0][name]) for name in head)
    lines = [line for line in read_lines(run.path / "metrics.jsonl") if "lr" in line]
    assert [line["lr_image"] == 0 for line in lines] == [True] * 4 + [False] * 4
    assert lines[4]["lr_image"] == config.optimizer.lr_start  # of a warm-up of its own
