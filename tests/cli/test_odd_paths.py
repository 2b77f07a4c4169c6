"""Names that no file can have, files that are none, and names that steer terminals: refused or printed in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openslip.cli import main
from openslip.data.sources import open_source
from openslip.errors import DataError

ESCAPE = "\x1b]0;pwn\x07"
COMMANDS = {
    "check": ["data", "check", "{}.csv"],
    "check shards": ["data", "check", "{}/*.tar"],
    "check by URL": ["data", "check", "file://{}"],
    "check hub": ["data", "check", "hf:{}"],
    "root": ["data", "check", "t.csv", "--image-root", "{}", "--processes", "1"],
    "list": ["data", "convert", "t.csv", "out", "--without", "{}"],
    "folder": ["data", "convert", "t.csv", "{}/x", "--processes", "1"],
    "show": ["data", "show", "{}"],
    "metadata": ["data", "metadata", "{}.pkl", "out.parquet"],
    "only": ["data", "metadata", "t.csv", "out.parquet", "--only", "{}"],
    "config": ["train", "--config", "{}"],
    "resume": ["train", "--resume", "--out", "{}"],
    "model": ["evaluate", "{}", "knn:scenes"],
    "report": ["report", "{}"],
    "consolidate": ["consolidate", "{}.pt"],
    "mix": ["mix", "{}.pt", "{}"],
    "against": ["evaluate", "t.csv", "knn:scenes", "--against", "{}"],
    "mixture": ["mix", "t.csv", "t.csv", "--out", "{}.safetensors"],
}


@pytest.fixture
def here(tmp_path, monkeypatch, jpeg: bytes) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(jpeg)
    Path("t.csv").write_text("image,caption\na.jpg,a b\n")
    os.symlink("loop", "loop")
    return tmp_path


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_names_that_cannot_be(here, capsys, command):
    for name in ("~nosuchuser/x", "a" * 300, "t.csv/x", "loop", "\udcff", "a\0b", f"{ESCAPE}"):
        words = [word.replace("{}", name) for word in COMMANDS[command]]
        if command == "folder" and name in (ESCAPE, "\udcff", "~nosuchuser/x"):
            continue  # these folders can be made
        if command == "check hub" and name.count("/") == 1:
            continue  # that could be the name of a set there
        assert main(words) == 1
        said = "".join(capsys.readouterr())
        assert "slip: " in said
        assert "\x1b]" not in said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "npy", "pkl", "parquet", "tar"])
def test_pipes_and_devices_are_not_read(here, ending):
    """A pipe would wait for ever, /dev/zero fill the memory."""
    os.mkfifo(f"pipe.{ending}")
    os.symlink("/dev/zero", f"zero.{ending}")
    os.makedirs("folder", exist_ok=True)
    os.symlink(here / f"pipe.{ending}", f"folder/a.{ending}")
    for spec in (f"pipe.{ending}", f"zero.{ending}", f"file://{here}/pipe.{ending}", f"folder/*.{ending}"):
        with pytest.raises(DataError, match=r"no regular file|no images"):
            open_source(spec)
    with pytest.raises(DataError, match="no regular file"):
        open_source(f"local://{here}/pipe.tar" if ending == "tar" else f"pipe.{ending}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_beside_shards_and_as_options(here, capsys, jpeg):
    import tarfile

    with tarfile.open("a.tar", "w") as tar:
        tar.add("a.jpg")
    os.mkdir(".openslip-index")
    os.mkfifo(".openslip-index/a.tar.index")
    assert len(open_source("a.tar")) == 1
    os.mkdir("out")
    os.mkfifo("out/convert.json")
    os.mkfifo("pipe")
    for command in (
        ["data", "convert", "t.csv", "out", "--processes", "1"],
        ["data", "convert", "t.csv", "other", "--without", "pipe"],
        ["train", "--config", "pipe"],
        ["data", "metadata", "t.csv", "o.parquet", "--only", "pipe"],
    ):
        assert main(command) == 1
        assert "no regular file" in "".join(capsys.readouterr())


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="no /proc here")
def test_what_the_kernel_makes_up_is_no_picture(here):
    Path("t.csv").write_text("image,caption\n/proc/version,a b\na.jpg,c d\n")
    source = open_source("t.csv")
    assert "1 of 2 paths lead out of the table's folder, such as /proc/version" in source.note
    with pytest.raises(DataError, match="no regular file"):
        source[0]


def test_data_do_not_steer_the_terminal(here, capsys, jpeg):
    """Names of columns and files, also such as are no text, are printed with their control characters spelled out."""
    os.mkdir(f"{ESCAPE}[b]\udcff")
    folder = Path(f"{ESCAPE}[b]\udcff")
    (folder / f"{ESCAPE}.jpg").write_bytes(jpeg)
    (folder / "b.jpg").write_text(ESCAPE)
    table = folder / "t.csv"
    table.write_text(f"image,caption\n{ESCAPE}.jpg,a b\nb.jpg,c d\n")
    for words in (
        ["check", str(folder), "--processes", "1", "--list", str(folder / "list"), "--captions-optional"],
        ["check", str(table), "--processes", "1", "--out", str(folder / "page.html")],
        ["check", str(table), "--caption-column", f"no{ESCAPE}"],
        ["convert", str(folder), str(folder / "shards"), "--processes", "1"],
        ["show", str(table), "--out", str(folder / "sheet.png")],
    ):
        main(["data", *words])
        said = capsys.readouterr()
        assert "\x1b]" not in said.out + said.err
        assert "\\x1b]0;pwn\\x07" in said.out + said.err
    assert (folder / "page.html").stat().st_size
    assert (folder / "shards/convert.json").stat().st_size
