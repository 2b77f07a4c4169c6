"""What is installed, what is missing, and what else is called `slip`."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

from openslip.doctor import installed

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PRIVATE = {"dev", "docs"}
"""Extras for working on the project itself."""


def test_every_extra_for_users_says_what_it_is_for() -> None:
    assert installed.PURPOSES.keys() == PROJECT["optional-dependencies"].keys() - PRIVATE


def test_packages_are_those_that_are_required() -> None:
    found = {package.name.replace("_", "-").lower(): package for package in installed.packages()}
    for line in PROJECT["dependencies"]:
        name = line.split(">=")[0].split("[")[0].replace("_", "-").lower()
        assert found[name].version is not None
        assert found[name].required.startswith(">=")


def test_what_is_missing_comes_with_the_command_that_installs_it(monkeypatch) -> None:
    lines = [
        "torch>=2.10",
        'peft>=0.21; extra == "lora"',
        "h5py; extra == 'hdf5'",
        'fsspec[http]>=1; extra == "hdf5"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    versions = {"torch": "2.15.0", "fsspec": "1.2"}
    monkeypatch.setattr(installed, "version_of", versions.get)
    assert [(one.name, one.required, one.version) for one in installed.packages()] == [
        ("torch", ">=2.10", "2.15.0")
    ]
    lora, hdf5 = installed.extras()
    assert (lora.name, lora.missing, lora.install) == ("lora", ("peft",), "pip install 'openslip[lora]'")
    assert (hdf5.name, hdf5.missing) == ("hdf5", ("h5py",))


def script(name: str) -> metadata.EntryPoint:
    return SimpleNamespace(dist=SimpleNamespace(name=name))  # type: ignore[return-value]


def test_another_program_called_slip_is_named(tmp_path, monkeypatch) -> None:
    ours, other = tmp_path / "ours", tmp_path / "slip"
    ours.write_text("#!/usr/bin/python\nfrom openslip.__main__ import run\nrun()\n")
    other.write_text("#!/usr/bin/python\nfrom slipper import run\nrun()\n")
    monkeypatch.setattr(installed, "version_of", lambda name: None)
    assert installed.shadows(str(ours), [script("openslip")]) == []
    assert installed.shadows(None, []) == []
    (line,) = installed.shadows(str(other), [])
    assert str(other) in line
    (line,) = installed.shadows(str(ours), [script("openslip"), script("slipper")])
    assert "slipper" in line
    monkeypatch.setattr(installed, "version_of", {"slip": "20240420"}.get)
    (line,) = installed.shadows(str(ours), [script("openslip")])
    assert "another project" in line
