"""Released files and others behind web addresses: fetched once, whole, checked, and used without a network."""

import hashlib
import json
import os

import pytest
import torch

import openslip
from interop.test_reference import _save, _state, _student
from openslip.data.storage import retry
from openslip.errors import CheckpointError
from openslip.interop import downloads, read, released

DATA = bytes(range(256)) * 400
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def served(server, monkeypatch):
    monkeypatch.setattr(downloads, "PART", 30_000)
    server.files["/a.pt"] = DATA
    return server


def kept(folder) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in (folder / "cache" / "weights").iterdir())


def test_a_file_is_fetched_once_and_noted(served, tmp_path, capsys) -> None:
    path = downloads.fetch(f"{served.url}/a.pt")
    assert path.read_bytes() == DATA
    assert kept(tmp_path) == ["a.pt", "a.pt.json"]
    noted = json.loads(path.with_name(path.name + ".json").read_text())
    assert (noted["sha256"], noted["size"], noted["url"]) == (SHA, len(DATA), f"{served.url}/a.pt")
    assert "fetching http://127.0.0.1" in capsys.readouterr().err
    asked = len(served.asked)
    served.files.clear()  # nothing is asked for again
    assert downloads.fetch(f"{served.url}/a.pt", sha=SHA, size=len(DATA)) == path
    assert len(served.asked) == asked


def test_a_file_that_was_cut_off_goes_on(served, tmp_path) -> None:
    served.faults["/a.pt"] = ["", "", *["reset"] * retry.TRIES]
    with pytest.raises(CheckpointError, match=r"Weights cannot be fetched.*Try again with a network"):
        downloads.fetch(f"{served.url}/a.pt")
    (part,) = (tmp_path / "cache" / "weights").glob("*.part-*")
    assert part.read_bytes() == DATA[:30_000]
    served.asked.clear()
    assert downloads.fetch(f"{served.url}/a.pt").read_bytes() == DATA
    assert served.asked[1] == ("/a.pt", "bytes=30000-59999")
    assert kept(tmp_path) == ["a.pt", "a.pt.json"]


def test_a_part_of_another_version_is_not_gone_on_with(served, tmp_path) -> None:
    served.faults["/a.pt"] = ["", "", *["reset"] * retry.TRIES]
    with pytest.raises(CheckpointError):
        downloads.fetch(f"{served.url}/a.pt")
    served.files["/a.pt"], served.etags["/a.pt"] = DATA[::-1], '"2"'
    assert downloads.fetch(f"{served.url}/a.pt").read_bytes() == DATA[::-1]


def test_a_server_that_serves_no_parts(served) -> None:
    served.ranges = False
    assert downloads.fetch(f"{served.url}/a.pt").read_bytes() == DATA


def test_a_file_that_is_another_is_not_kept(served, tmp_path) -> None:
    url = f"{served.url}/a.pt"
    with pytest.raises(
        CheckpointError, match=r"not the one that slip knows.*102,400 bytes, instead of 5 bytes"
    ):
        downloads.fetch(url, size=5)
    with pytest.raises(CheckpointError, match=rf"SHA-256 {SHA}, instead of SHA-256 0123…"):
        downloads.fetch(url, sha="0123")
    assert kept(tmp_path) == []
    assert downloads.fetch(url, sha=SHA[:8], size=len(DATA)).read_bytes() == DATA


def test_a_file_that_has_changed_in_the_cache_is_said(served) -> None:
    path = downloads.fetch(f"{served.url}/a.pt")
    os.utime(path, ns=(1, 1))
    assert downloads.fetch(f"{served.url}/a.pt") == path  # touched alone
    path.write_bytes(DATA[:-1] + b"!")
    os.utime(path, ns=(2, 2))
    with pytest.raises(
        CheckpointError, match=r"not those that were fetched.*noted when it was fetched.*Remove"
    ):
        downloads.fetch(f"{served.url}/a.pt")


@pytest.mark.parametrize("fault", [404, 403])
def test_a_file_that_is_not_there(served, fault) -> None:
    served.faults["/a.pt"] = [fault, "always"]
    with pytest.raises(
        CheckpointError, match=r"Weights cannot be fetched: (there is no such|the server does not)"
    ):
        downloads.fetch(f"{served.url}/a.pt")


def test_a_server_that_is_away(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retry, "_given_up", {})
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"Weights cannot be fetched.*fetch the file by other means"):
        downloads.fetch("http://127.0.0.1:9/a.pt")


def test_a_cache_that_cannot_be_written(served, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENSLIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot be kept in the cache folder.*OPENSLIP_CACHE"):
        downloads.fetch(f"{served.url}/a.pt")


def test_a_released_model_by_name(server, monkeypatch, tmp_path) -> None:
    student = _student("SLIP", width=12, dim=5)
    server.files["/slip_base_25ep.pt"] = _save(tmp_path / "a.pt", _state(student)).read_bytes()
    name = "slip-vit-b16-yfcc15m-25ep"
    monkeypatch.setitem(released.ADDRESSES, name, f"{server.url}/slip_base_25ep.pt")
    found = read(name)
    assert (found.origin.spec, found.origin.format) == (name, "a released SLIP checkpoint")
    assert [*found.origin.files.values()] == [hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()]
    server.files.clear()
    loaded = openslip.load(name).model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in student.model.state_dict().items())


def test_the_names_of_released_models() -> None:
    assert len(released.ADDRESSES) == 19
    assert released.ADDRESSES["slip-vit-b16-yfcc15m-25ep"].endswith("/slip_base_25ep.pt")
    assert released.ADDRESSES["clip-vit-b16-cc12m-35ep"].endswith("/clip_base_cc12m_35ep.pt")
    assert released.ADDRESSES["simclr-vit-l16-yfcc15m-25ep"].endswith("/simclr_large_25ep.pt")
    with pytest.raises(CheckpointError, match="released no model of this name.*slip-vit-b16-yfcc15m-25ep"):
        read("slip-vit-b16-yfcc15m-26ep")
