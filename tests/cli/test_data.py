"""`slip data` end to end, on a table of small pictures."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from check_fakes import ODD, PLAIN, Odds, encoded, pixels
from openslip import recipes
from openslip.cli import main
from openslip.data.contents import Contents
from openslip.data.sources import open_source
from openslip.data.sources.yfcc import read_metadata


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Write the plain pictures and, as the last two, damaged ones."""
    rows = []
    for k, (image, captions) in enumerate([*PLAIN, ODD[3], ODD[4]]):
        assert isinstance(image, bytes)
        (tmp_path / f"{k:02d}.jpg").write_bytes(image)
        rows.append((f"{k:02d}.jpg", captions[0]))
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "title"), *rows])
    return str(tmp_path / "pairs.csv")


@pytest.fixture(autouse=True)
def small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that can be trained on a few pictures."""
    recipe = recipes.get("small-data")
    few = replace(recipe, training=replace(recipe.training, batch=16))
    get = recipes.get
    monkeypatch.setattr(recipes, "get", lambda name: few if name == "small-data" else get(name))


def test_convert(table: str, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "shards"
    command = [
        "data",
        "convert",
        table,
        str(folder),
        "--shard-size",
        "20",
        "--processes",
        "1",
        "--short-side",
        "30",
    ]
    assert main(command) == 0
    said = capsys.readouterr()
    out = said.out
    assert "30 of 32 records in 2 shards" in out
    assert "2 left out" in out
    assert "(guessed)" in said.err
    assert "1 × The JPEG is damaged or truncated" in out
    source = open_source(str(folder))
    assert len(source) == 30
    assert source[29].captions == PLAIN[29][1]
    assert len((folder / "skipped.jsonl").read_text().splitlines()) == 2
    assert main(command) == 0
    assert capsys.readouterr().out == out
    assert main([*command, "--quality", "50"]) == 1
    assert "quality was 92 and is 50" in capsys.readouterr().err
    assert (
        main(["data", "convert", table, str(tmp_path / "b"), "--shard-mb", "0.02", "--processes", "1"]) == 0
    )
    assert len(list((tmp_path / "b").glob("*.tar"))) > 4


def test_convert_with_nothing_to_convert(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    assert main(["data", "convert", str(tmp_path), str(tmp_path / "out"), "--processes", "1"]) == 1
    assert "No record could be written" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "skipped.jsonl").read_text())["key"] == "a.jpg"


def test_show(table: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "sheet.png"
    assert main(["data", "show", table, "--count", "3", "--out", str(out)]) == 0
    assert Image.open(out).size[0] > 1000
    said = capsys.readouterr()
    assert "wrote" in said.out
    assert "(guessed)" in said.err
    assert main(["data", "show", table, "--recipe", "small-dat"]) == 1
    assert "Did you mean 'small-data'" in capsys.readouterr().err


def test_check(table: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "check.html"
    assert (
        main(["data", "check", table, "--processes", "1", "--out", str(out)]) == 1
    )  # 2 of 32 are more than 5 %
    said = capsys.readouterr()
    assert "Damaged images: 2 (6.2 %)." in said.out
    verdict = "It cannot be trained on as it is: only 30 of 32"
    assert (said.out.count(verdict), said.err.count(verdict)) == (1, 0)
    assert "Columns of pairs.csv: image from 'path', caption from 'title' (guessed)\n" in said.err
    assert out.read_text().startswith("<!doctype html>")
    assert "; a view has 64<" in out.read_text()  # of small-data, whose batch the verdict is about
    assert main(["data", "check", table, "--processes", "1", "--limit", "8", "--out", str(out)]) == 0
    assert "It can be trained on: 8 of 8" in capsys.readouterr().out
    folder = [str(tmp_path), "--processes", "1", "--limit", "8", "--out", str(out)]
    assert main(["data", "check", *folder]) == 1
    assert main(["data", "check", *folder, "--captions-optional"]) == 0


def test_what_is_listed_can_be_left_out(table: str, tmp_path: Path, capsys) -> None:
    listed, folder = tmp_path / "odd.jsonl", tmp_path / "shards"
    options = ["--processes", "1"]
    assert (
        main(["data", "check", table, *options, "--list", str(listed), "--out", str(tmp_path / "c.html")])
        == 1
    )
    assert "odd.jsonl: 2 records" in capsys.readouterr().out
    assert main(["data", "convert", table, str(folder), *options, "--without", str(listed)]) == 0
    out = capsys.readouterr().out
    assert "30 of 30 records in 1 shard\n" in out
    assert f"2 left out as {listed} says" in out
    other = tmp_path / "other"
    head, first, *rest = Path(table).read_text().splitlines(keepends=True)
    Path(table).write_text("".join([head, *rest, first]))
    assert main(["data", "convert", table, str(other), *options, "--without", str(listed)]) == 1
    assert "The list names other records" in capsys.readouterr().err
    assert not other.exists()


def test_what_another_set_has_is_left_out(table: str, tmp_path: Path, capsys) -> None:
    """Three pictures of the other set: the same bytes, a near copy, an equal title alone."""
    other, listed, page = tmp_path / "test", tmp_path / "odd.jsonl", tmp_path / "c.html"
    other.mkdir()
    rows = [
        ("file", "caption"),
        ("a.jpg", "new"),
        ("b.jpg", "newer"),
        ("c.jpg", "A plain picture,  number 9"),
    ]
    for (name, _), image in zip(rows[1:], (PLAIN[3][0], ODD[2][0], encoded(pixels(90)))):
        (other / name).write_bytes(image)  # type: ignore[arg-type]
    with open(other / "test.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    options = ["--processes", "1", "--out", str(page)]
    against = ["--against", str(other / "test.csv"), "--image-column", "path"]
    assert main(["data", "check", table, *options, *against, "--list", str(listed)]) == 1  # of damaged images
    out = " ".join(capsys.readouterr().out.split())
    assert "byte by byte: 1 (3.1 %)" in out
    assert "'03.jpg' here and 'a.jpg' there" in out
    assert "near copy of one in" in out
    assert "'09.jpg' here and 'c.jpg' there" in out
    assert "In both sets" in page.read_text()
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(line["index"], line.get("of_other")) for line in lines] == [
        (3, "a.jpg"), (4, "b.jpg"), (9, "c.jpg"), (30, None), (31, None),
    ]  # fmt: skip
    folder = str(tmp_path / "shards")
    assert main(["data", "convert", table, folder, "--processes", "1", "--without", str(listed)]) == 0
    capsys.readouterr()
    assert main(["data", "check", folder, *options, "--against", str(other / "test.csv")]) == 0
    assert "Records that have something in common with" in capsys.readouterr().out


def test_only_what_is_asked_for_is_left_out(tmp_path: Path, capsys) -> None:
    """Five rows a picture lose no caption, near copies stay, exact ones go."""
    image, again = Image.open(io.BytesIO(PLAIN[4][0])), ODD[2][0]  # type: ignore[arg-type]
    files = {
        "a": PLAIN[0][0],
        "b": PLAIN[4][0],
        "b small": again,
        "a again": PLAIN[0][0],
        "a too": PLAIN[0][0],
    }
    assert image.size == (90, 60)
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)  # type: ignore[arg-type]
    rows = [
        ("path", "title"),
        *((f"{name}.jpg", f"caption {k} of {name}") for name in "ab" for k in range(5)),
    ]
    rows += [("b small.jpg", "small"), ("a again.jpg", "caption 3 of a"), ("a too.jpg", "another caption")]
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    table, listed = str(tmp_path / "pairs.csv"), str(tmp_path / "odd.jsonl")
    options = ["--processes", "1", "--list", listed, "--out", str(tmp_path / "c.html")]
    assert main(["data", "check", table, *options]) == 1  # less than a batch
    said = capsys.readouterr()
    assert "5 of 5 records are usable, and a step takes 16" in said.out
    assert "13 rows name 5 images" in said.err
    for near, kept in (([], 4), (["--near"], 3)):
        folder = tmp_path / f"shards{kept}"
        command = ["data", "convert", table, str(folder), "--processes", "1", "--without", listed, *near]
        assert main(command) == 0
        source = open_source(str(folder))
        captions = {caption for k in range(len(source)) for caption in source[k].captions}
        assert len(source) == kept
        assert captions == {title for _, title in rows[1:]} - ({"small"} if near else set())
    assert main(["data", "convert", table, str(tmp_path / "x"), "--near"]) == 1
    assert "--without" in capsys.readouterr().err


def test_two_ranks_find_and_write_what_one_process_does(table: str, tmp_path: Path) -> None:
    """Both tools as torchrun starts them, one after the other in each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    script = textwrap.dedent("""
        import sys
        from openslip.cli import main
        for words in ("check {} --out c.html --list odd.jsonl", "convert {} shards --shard-size 7 --prefix my-"):
            main(["data", *words.format(sys.argv[1]).split(), "--processes", "1"])
    """)

    def start(folder: str, rank: dict[str, str]) -> subprocess.Popen:
        (tmp_path / folder).mkdir(exist_ok=True)
        alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        return subprocess.Popen(
            [sys.executable, "-c", script, table],
            cwd=tmp_path / folder, env=alone | rank, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    started = [start("one", {}), *(start("two", place | {"RANK": str(rank)}) for rank in range(2))]
    one, first, second = (process.communicate(timeout=120)[0] for process in started)
    # Gloo of torch 2.10 writes of its connections to standard output.
    first, second = (
        "".join(line for line in said.splitlines(True) if not line.startswith("[Gloo]"))
        for said in (first, second)
    )
    assert (first, second) == (one, "")
    assert "Damaged images: 2 (6.2 %)." in one
    assert "30 of 32 records in 5 shards" in one
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 2 + 5 + 5 + 2  # page and list, shards, indexes, manifest and what was skipped
    for path in files:  # an index holds the time of its shard
        same = (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
        assert same or path.suffix == ".index"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["check", "nowhere.csv"], "no such file"),
        (["check", "scenes:test:4", "--against", "nowhere.csv"], "no such file"),
        (["check", "scenes", "--processes", "0"], "at least 1"),
        (["convert", "scenes:test:4", "out", "--shard-size", "0"], "at least 1"),
    ],
)
def test_wrong_calls_teach(argv, message, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *argv]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["check {}", "convert {} out", "show {}"])
def test_advice_can_be_followed(command, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """What an error names, `--data.image-root` as in `slip train`, the command that gives it understands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far/away/nowhere").mkdir(parents=True)
    Image.new("RGB", (70, 80), "teal").save("far/away/nowhere/1.jpg")
    Path("moved.csv").write_text("path,title\nnowhere/1.jpg,a caption\n")
    Path("odd.csv").write_text("this,that\nelsewhere,a caption\n")
    for table, option, value in (
        ("moved.csv", "--data.image-root", "far/away"),
        ("odd.csv", "--data.image-column", "this"),
    ):
        argv = ["data", *command.format(table).split()]
        assert main(argv) == 1
        assert f" {option}" in capsys.readouterr().err
        main([*argv, option, value])
        assert option not in capsys.readouterr().err
        main([*argv, option.replace("--data.", "--"), value])
        assert option not in capsys.readouterr().err


CONTENTS = Contents("members", 106)
CONTENTS.leave_out("the sample has no picture\x1b]0;", "b\x1b.txt", 50)
CONTENTS.leave_out("hidden file", "._a.jpg", 3, lost=False)


class Leaky(Odds):
    """Odds of which half of what lies there became no record."""

    contents = CONTENTS


def test_what_became_no_record_cannot_be_missed(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("openslip.data.sources.open_source", lambda *_, **__: Leaky(30))
    assert main(["data", "check", "leaky", "--processes", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "106 members, 53 used" in printed
    assert "! Members of odds that are not used: 50 (47 %). 50 × the sample has no picture" in printed
    assert "30 of 30 records are usable; but 50 of 106 members became no record" in printed
    assert "\x1b" not in printed
    page = Path("check.html").read_text()
    assert "106 members seen, 53 used" in page
    assert "._a.jpg" in page

    assert main(["data", "convert", "leaky", "out", "--processes", "1"]) == 0
    printed = capsys.readouterr()
    assert "106 members seen, 53 used; left out:\n  50 × the sample has no picture" in printed.out
    assert "50 of 106 members of odds are not used" in printed.err
    (contents,) = json.loads(Path("out/convert.json").read_text())["contents"]
    assert (contents["name"], contents["seen"], contents["used"]) == ("odds", 106, 53)


def test_help(capsys) -> None:
    assert main(["data"]) == main(["data", "--help"]) == 0
    assert "\n  convert " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["meta.pkl.gz", "my.PICKLE.bz2"])
def test_metadata_of_a_compressed_pickle(name, tmp_path, capsys) -> None:
    (tmp_path / name).write_bytes(gzip.compress(pickle.dumps([(3, "a title", "")])))
    assert main(["data", "metadata", str(tmp_path / name), str(tmp_path / "out.parquet")]) == 1
    assert "Unpack the pickle first" in capsys.readouterr().err


def test_metadata(tmp_path: Path, capsys) -> None:
    out = tmp_path / "yfcc.parquet"
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps([(3, "a%20title", ""), (9, "", "b")]))
    assert main(["data", "metadata", str(tmp_path / "meta.pkl"), str(out)]) == 0
    assert "2 images" in capsys.readouterr().out
    rows = [
        ["5"] + ["x"] * 7 + ["a+red%20cat", "<b>sits</b>"],
        ["6"] + ["x"] * 7 + ["", ""],
        ["7"] + ["x"] * 9,
    ]
    (tmp_path / "table.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (tmp_path / "only.tsv").write_text("5\n6\n")
    command = [
        "data",
        "metadata",
        str(tmp_path / "table.tsv"),
        str(out),
        "--only",
        str(tmp_path / "only.tsv"),
    ]
    assert main(command) == 0
    assert "1 images; 1 without a text" in capsys.readouterr().out
    assert list(read_metadata(out)) == [(5, "a red cat", "sits")]
    (tmp_path / "other.tsv").write_text("8\n")
    assert main([*command, str(tmp_path / "other.tsv")]) == 1
    assert "not one image" in capsys.readouterr().err
    assert list(read_metadata(out)) == [(5, "a red cat", "sits")]
    assert main(["data", "metadata", str(tmp_path / "none.pkl"), str(out)]) == 1
    assert main(["data", "metadata", str(tmp_path / "meta.pkl"), str(tmp_path / "out.pkl")]) == 1
    assert "OUT.parquet" in capsys.readouterr().err
    assert list(read_metadata(out)) == [(5, "a red cat", "sits")]


def test_broken_shards_are_all_named_and_may_be_left_out(tmp_path, capsys) -> None:
    for number in range(3):
        assert main(["data", "convert", "scenes:test:2", str(tmp_path / "a"), "--prefix", str(number)]) == 0
    for number in (0, 2):
        os.truncate(tmp_path / f"a/{number}000000.tar", 3000)
    capsys.readouterr()
    check = ["data", "check", str(tmp_path / "a"), "--out", str(tmp_path / "c.html"), "--processes", "1"]
    assert main(check) == 1
    printed = capsys.readouterr()
    assert "2 of its shards cannot be read" in " ".join(printed.out.split())
    assert printed.err.count("0000000.tar: The tar shard is cut off") == 1
    assert printed.err.count("2000000.tar: The tar shard is cut off") == 1
    convert = ["data", "convert", str(tmp_path / "a"), str(tmp_path / "b"), "--processes", "1"]
    assert main(convert) == 1
    assert "--data.leave-broken" in capsys.readouterr().err
    assert main([*convert, "--data.leave-broken"]) == 0
    assert "3 files seen, 1 used" in capsys.readouterr().out
