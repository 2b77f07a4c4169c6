"""`slip doctor` says what there is, ends with 1 where something does not work, and tells scripts the same."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from openslip.cli import main
from openslip.doctor import installed, machine, selftest
from openslip.doctor.selftest import Step


@pytest.fixture
def steps(monkeypatch) -> list[Step]:
    """What the self-test finds, which is not run."""
    found = [Step("train 6 steps", 1.5, "")]
    monkeypatch.setattr(selftest, "selftest", lambda on_step: found)
    return found


def test_everything_works(steps, capsys) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for words in (
        "Packages\n",
        "torch",
        "Extras\n",
        "Machine\n",
        "device",
        "passed, 1.5 s",
        "Everything works.",
    ):
        assert words in out


def test_json(steps, capsys) -> None:
    assert main(["doctor", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["works"] is True
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["selftest"] == [{"name": "train 6 steps", "seconds": 1.5, "error": "", "passed": True}]
    assert found["machine"]["cores"] >= 1
    assert "Everything works." in printed.err


def test_a_test_that_fails(steps, capsys) -> None:
    steps.append(Step("load the checkpoint", 0.1, "OSError: no"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAILED, 0.1 s" in out
    assert "The self-test failed to load the checkpoint: OSError: no" in out
    assert "Everything works" not in out


def test_a_package_that_is_missing(steps, capsys, monkeypatch) -> None:
    real = installed.version_of
    monkeypatch.setattr(installed, "version_of", lambda name: None if name.lower() == "timm" else real(name))
    assert main(["doctor", "--quick"]) == 1
    assert "timm is required and missing: pip install openslip" in capsys.readouterr().out


def test_torch_that_cannot_be_imported(steps, capsys, monkeypatch) -> None:
    def broken(folder: object) -> None:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(machine, "look", broken)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "torch cannot be used: ImportError: libcudart.so.13" in out
    assert "Self-test" not in out


def test_without_the_test(capsys) -> None:
    assert main(["doctor", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["selftest"] == []
