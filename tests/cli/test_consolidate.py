import tracemalloc

import torch
from safetensors.torch import load_file

from openslip import interop, toml
from openslip.cli import main
from openslip.encoder import Encoder
from openslip.training.saving import checkpoint
from toys import make_tiny_config


def test_one_file_of_a_run(tmp_path, capsys) -> None:
    config = make_tiny_config()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(toml.dumps(config))
    weights = []
    for step, score in ((1, 0.9), (2, 0.1)):
        torch.manual_seed(step)
        weights.append(Encoder.from_config(config).model.state_dict())
        checkpoint.save(tmp_path / "run" / "checkpoints", step, weights[-1], {}, {"score": score})
    for which, expected in (("best", weights[0]), ("latest", weights[1])):
        out = tmp_path / "new" / f"{which}.safetensors"
        assert main(["consolidate", str(tmp_path / "run"), "--out", str(out), "--which", which]) == 0
        found = load_file(out)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert str(out) in capsys.readouterr().out


def test_what_cannot_be_written_or_read_is_said(tmp_path, capsys) -> None:
    assert main(["consolidate", str(tmp_path / "nothing")]) == 1
    config = make_tiny_config()
    (tmp_path / "config.toml").write_text(toml.dumps(config))
    checkpoint.save(tmp_path / "checkpoints", 1, Encoder.from_config(config).model.state_dict(), {}, {})
    assert main(["consolidate", str(tmp_path), "--out", str(tmp_path / "config.toml" / "no folder")]) == 1
    assert "could not be written" in capsys.readouterr().err


def test_a_checkpoint_is_not_written_into(tmp_path, capsys, monkeypatch) -> None:
    config = make_tiny_config()
    (tmp_path / "config.toml").write_text(toml.dumps(config))
    path = checkpoint.save(
        tmp_path / "checkpoints", 1, Encoder.from_config(config).model.state_dict(), {}, {}
    )
    monkeypatch.chdir(path)
    assert main(["consolidate", "."]) == 1
    assert "into a checkpoint" in capsys.readouterr().err
    checkpoint.verify(path)
    assert len(list(path.iterdir())) == 3
    assert main(["consolidate", ".", "--out", str(tmp_path / "mine.safetensors")]) == 0


def test_weights_are_in_memory_once_while_they_are_written(tmp_path, monkeypatch) -> None:
    encoder = Encoder.from_config(make_tiny_config())
    encoder.model.image_projection = torch.nn.Parameter(torch.ones(2048, 1024))  # 8 MiB
    monkeypatch.setattr(interop, "load", lambda path, which: encoder)
    tracemalloc.start()
    try:
        assert main(["consolidate", str(tmp_path), "--out", str(tmp_path / "mine.safetensors")]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22 < (tmp_path / "mine.safetensors").stat().st_size
