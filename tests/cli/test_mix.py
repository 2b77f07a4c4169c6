from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch

import openslip
from openslip import toml
from openslip.cli import main
from openslip.encoder import Encoder
from openslip.training.saving import checkpoint, metadata
from toys import make_tiny_config


@pytest.fixture
def run(tmp_path):
    """A run with two checkpoints: of the first the score is better."""
    config, run = make_tiny_config(), tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(toml.dumps(config))
    torch.manual_seed(0)
    weights = Encoder.from_config(config).model.state_dict()
    for step, score in ((1, 0.9), (2, 0.1)):
        weights = {n: t + 0.01 * step if t.is_floating_point() else t for n, t in weights.items()}
        checkpoint.save(run / "checkpoints", step, weights, {}, {"score": score})
    return run


def steps(run):
    return [str(run / f"checkpoints/step-0000000{step}") for step in (1, 2)]


def test_a_mixed_model_loads_and_says_what_it_is_of(run, tmp_path, capsys) -> None:
    out = tmp_path / "new" / "half.safetensors"
    first, second = steps(run)
    assert main(["mix", first, str(run), "--out", str(out)]) == 0
    assert f"to {out}: 0.5 of {first} and 0.5 of {run}" in capsys.readouterr().out
    expected = openslip.mix(first, second).model.state_dict()
    found = openslip.load(out)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())
    header = metadata.read_header(out)[1][metadata.KEY]
    digests = [
        hashlib.sha256((run / step / "model.safetensors").read_bytes()).hexdigest() for step in steps(run)
    ]
    assert "# alpha: 0.5\n" in header
    for name, digest in zip("ab", digests):
        assert f"# {name}: model.safetensors sha256:{digest}\n" in header
    assert str(tmp_path) not in header
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_equal_mixed_models_are_equal_files(run, tmp_path) -> None:
    outs = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for out in outs:
        assert main(["mix", *steps(run), "--out", str(out), "--alpha", "0.25"]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_several_alphas_have_a_file_each(run, tmp_path) -> None:
    out = tmp_path / "m.safetensors"
    assert main(["mix", *steps(run), "--alpha", "0", "0.25", "1", "--out", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "m-0.25.safetensors",
        "m-0.safetensors",
        "m-1.safetensors",
    ]
    for end, alpha in zip(steps(run), "01"):
        states = [
            openslip.load(path).model.state_dict() for path in (end, tmp_path / f"m-{alpha}.safetensors")
        ]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_best_checkpoint_of_a_run(run, tmp_path) -> None:
    out = tmp_path / "m.safetensors"
    assert main(["mix", steps(run)[1], str(run), "--which", "best", "--alpha", "1", "--out", str(out)]) == 0
    found, best = (openslip.load(path).model.state_dict() for path in (out, steps(run)[0]))
    assert torch.equal(found["image_projection"], best["image_projection"])


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["A"], "B", 2),
        (["A", "B", "--alpha", "1.5"], "from 0, which is the first model", 1),
        (["A", "B", "--alpha", "0.5", "0.50"], "Give each alpha once", 1),
        (["A", "B", "--alpha"], "Give each alpha once", 1),
        (["A", "nowhere"], "no such file or folder", 1),
        (["A", "B", "--out", "mixed.pt"], "--out mixed.pt.safetensors", 1),
        (["A", "B", "--out", "."], "--out mixed.safetensors", 1),
        (["A", "B", "--out", "there.safetensors"], "would take the place of something that is there", 1),
        (["A", "B", "--out", "A/mixed.safetensors"], "into a checkpoint", 1),
        (["A", "B", "--out", "there.safetensors/x.safetensors"], "could not be written", 1),
        (["A", "B", "--which", "best"], "--which has no effect here", 2),
    ],
)
def test_wrong_calls_teach(run, words, message, status, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.safetensors").write_text("mine")
    a, b = steps(run)
    try:
        found = main(
            [
                "mix",
                *(word.replace("A", a) if word[0] == "A" else b if word == "B" else word for word in words),
            ]
        )
    except SystemExit as end:
        found = end.code
    assert found == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert (tmp_path / "there.safetensors").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "there.safetensors"}
    assert len(list((run / "checkpoints/step-00000001").iterdir())) == 3


def test_several_files_are_refused_before_any_is_written(run, tmp_path, capsys) -> None:
    (tmp_path / "m-1.safetensors").touch()
    assert main(["mix", *steps(run), "--alpha", "0", "1", "--out", str(tmp_path / "m.safetensors")]) == 1
    assert "m-1.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "m-0.safetensors").exists()


def test_other_architectures_leave_no_file(run, tmp_path, capsys) -> None:
    config = make_tiny_config()
    wider = replace(config, model=replace(config.model, embed_dim=24))
    other = tmp_path / "other.safetensors"
    metadata.write_model(other, Encoder.from_config(wider).model.state_dict(), wider)
    out = tmp_path / "m.safetensors"
    assert main(["mix", str(run), str(other), "--out", str(out)]) == 1
    assert "model.embed_dim is" in capsys.readouterr().err
    assert not out.exists()
