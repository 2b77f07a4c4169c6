"""The self-test does what it says, and fails where something is wrong."""

from __future__ import annotations

from openslip.doctor import selftest as module
from openslip.doctor.selftest import PICTURES, selftest


def test_all_of_it(tmp_path) -> None:
    told = list[str]()
    steps = selftest(tmp_path, told.append)
    assert [(step.name, step.error) for step in steps] == [(name, "") for name in told]
    assert len(steps) == 5
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == PICTURES
    assert (tmp_path / "vectors" / "index.json").is_file()


def test_what_fails_is_the_last_step(tmp_path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(module, "_train", broken)
    first, last = selftest(tmp_path)
    assert first.passed
    assert not last.passed
    assert (last.name, last.error) == ("train 6 steps", "RuntimeError: no kernel")
    assert not list(tmp_path.glob("run"))
