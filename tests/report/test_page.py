from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from openslip.errors import CheckpointError, ConfigError
from openslip.report import load_run, write_report
from openslip.report.page import choose_colours
from openslip.report.rows import Row, rows
from openslip.report.runs import Run
from openslip.report.table import columns
from report_fakes import CLASSES, FakeEncoder, Pictures, make_config, result, write_run

VOID = {"meta", "link", "img", "input", "path", "br", "hr"}


class Checked(HTMLParser):
    """Collects tags, attributes and text, and fails when tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID - {"path"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def three_runs(folder: Path) -> list[Run]:
    both = ["zeroshot:scenes/top1", "knn:scenes/top1"]
    values = {"clip": (0.4, 0.5), "simclr": (None, 0.45), "slip": (0.41, 0.6)}
    losses = {"clip": "clip", "simclr": "simclr", "slip": "clip + 1.0 * simclr"}
    runs = []
    for name, loss in losses.items():
        results = [result(key, value) for key, value in zip(both, values[name]) if value is not None]
        runs.append(load_run(write_run(folder / name, loss, results)))
    return runs


def write(path: Path, runs: list[Run], **options: object) -> str:
    arguments = {
        "title": "Three ways",
        "encoder": FakeEncoder(),
        "pictures": Pictures(),
        "class_names": CLASSES,
    } | options
    return write_report(path, runs, **arguments).read_text()  # type: ignore[arg-type]


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    text = write(
        tmp_path / "r.html", three_runs(tmp_path), commands=[("Train", "slip train 'a b' > log && echo")]
    )
    page = Checked(text)
    assert not {"script", "iframe", "object", "form"} & set(page.tags)
    for tag, key, value in page.attributes:
        assert not key.startswith("on")
        if key in ("src", "href", "srcset", "action"):
            assert value.startswith("data:"), (tag, key, value)
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    assert len(text) < 500_000
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["r.html"]


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    text = " ".join(Checked(write(tmp_path / "r.html", three_runs(tmp_path))).text.split())
    assert "SLIP is clearly ahead in k-NN." in text
    assert "In zero-shot no one is clearly ahead" in text
    assert "no text tower" in text
    assert "39.0–41.0" in text
    assert "There is one run of each: another seed would give other numbers." in text
    assert "n = 100" in text
    assert "What SLIP sees" in text
    assert "Waiting for data, median" in text
    assert "torch 2.99" in text
    assert "openslip.evaluation" not in text


def test_seeds_are_one_row_of_means(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / f"{loss}{seed}", loss, [result("knn:x/top1", value)], seed=seed))
        for loss, values in (("clip", (0.40, 0.41, 0.42)), ("simclr", (0.50, 0.51, 0.52)))
        for seed, value in enumerate(values)
    ]
    text = " ".join(Checked(write(tmp_path / "r.html", runs)).text.split())
    assert "CLIP and SimCLR with the same image tower, each trained on 160 samples, 3 seeds each." in text
    assert "SimCLR is clearly ahead in k-NN." in text
    assert "There is one run" not in text
    assert "51.0%" in text
    assert "± 1.0, 3 seeds" in text
    assert "Seeds0, 1, 2" in text
    assert "SimCLR, seed 2" in text
    one_less = [replace(run, results=()) if run.name == "clip2" else run for run in runs]
    text = " ".join(Checked(write(tmp_path / "r.html", one_less)).text.split())
    assert "± 0.7, 2 of 3 seeds" in text


@pytest.mark.parametrize("seed", range(12))
def test_what_is_marked_is_what_the_sentence_says(tmp_path: Path, seed: int) -> None:
    rng, runs = np.random.default_rng(seed), []
    tasks = ["zeroshot:a", "linear:b", "knn:c"]
    for loss in ("clip", "simclr", "clip + 1.0 * simclr"):
        for number in range(1 + seed % 3):
            results = [result(f"{task}/top1", rng.uniform(0.4, 0.5), half=0.02) for task in tasks]
            runs.append(load_run(write_run(tmp_path / f"{loss}{number}", loss, results, seed=number)))
    html = write(tmp_path / "r.html", runs, encoder=None, pictures=None)
    sentence = Checked(html[html.index('class="headline"') - 3 :].partition("</p>")[0] + "</p>").text
    said = {
        (match[1], name)
        for match in re.finditer(r"(\w+) is clearly ahead in ([^.]*)\.", sentence)
        for name in re.findall("zero-shot|linear probe|k-NN", match[2])
    }
    table = {row.label: row for row in rows(runs)}
    marked = {(column.best(), column.protocol) for column in columns(list(table.values())) if column.best()}
    assert said == {(who, name if name == "k-NN" else name.lower()) for who, name in marked}
    assert html.count('class="best ') == html.count('<span class="ahead">') == len(marked)


def test_a_number_that_one_run_alone_has_is_no_comparison(tmp_path: Path) -> None:
    runs = three_runs(tmp_path)
    only = [replace(runs[0], results=()), replace(runs[1], results=()), runs[2]]
    text = " ".join(Checked(write(tmp_path / "r.html", only)).text.split())
    assert "ahead" not in text.partition("Results")[0]


def test_a_run_that_diverged_says_so(tmp_path: Path) -> None:
    run = three_runs(tmp_path)[2]
    lost = replace(run, metrics=tuple(line | {"nonfinite": line["step"] // 2} for line in run.metrics))
    text = " ".join(Checked(write(tmp_path / "r.html", [lost])).text.split())
    assert (
        "SLIP diverged or came close: 10 of its 20 steps had a loss or gradient that was not finite" in text
    )
    assert "diverged" not in Checked(write(tmp_path / "r.html", [run])).text


def test_lengths_that_differ_are_said(tmp_path: Path) -> None:
    long, short = load_run(write_run(tmp_path / "long")), load_run(write_run(tmp_path / "short", steps=10))
    text = " ".join(Checked(write(tmp_path / "r.html", [long, short])).text.split())
    assert "trained on 80 to 160 samples so far." in text


def test_only_the_clear_best_is_marked(tmp_path: Path) -> None:
    html = write(tmp_path / "r.html", three_runs(tmp_path))
    assert re.findall(r'class="(best [^"]+)"', html) == ["best c0"]


HOSTILE = "</title><script>alert('{name} & \"{index}\"')</script> <img src=x onerror=y> \u202e \ud83d"


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "<b onclick=x>&", "clip", [result("knn:<i>x</i>/<u>", 0.5)])
    run = load_run(folder)
    config = replace(run.config, name="</pre><script>", data=replace(run.config.data, train="<script>"))
    run = replace(run, config=config, versions={"<script>": "</p>"})
    html = write(
        tmp_path / "r.html",
        [run, replace(run, name="<em>")],
        title=HOSTILE,
        intro=HOSTILE,
        class_names=[f"{name}<script>" for name in CLASSES],
        pictures=Pictures(caption=HOSTILE),
        captions=[HOSTILE],
        commands=[("<script>", "</pre><script>")],
    )
    page = Checked(html)
    assert not {"script", "i", "u", "em"} & {tag for tag in page.tags if tag not in ("i",)}
    assert not any(key.startswith("on") for _, key, _ in page.attributes)
    assert all(
        value.startswith("data:image/jpeg")
        for tag, key, value in page.attributes
        if (tag, key) == ("img", "src")
    )
    assert "alert('{name}" in page.text
    assert "alert('owl" in page.text


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    runs = three_runs(tmp_path)
    assert write(tmp_path / "a.html", runs) == write(tmp_path / "b.html", runs)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    half = load_run(write_run(tmp_path / "half", steps=5))
    text = Checked(write(tmp_path / "r.html", [half], encoder=None, pictures=None)).text
    assert "25% of its 2 epochs" in text
    assert "so far" in text
    assert "None yet" in text
    new = replace(half, metrics=(), evaluations=(), versions={})
    text = Checked(write(tmp_path / "s.html", [new], encoder=None, pictures=None)).text
    assert "no step in the log yet" in text
    assert "no line in its log yet" in text


def test_one_run_quotes_its_numbers_with_intervals(tmp_path: Path) -> None:
    text = Checked(write(tmp_path / "r.html", three_runs(tmp_path)[:1])).text
    assert "zero-shot on scenes (top-1) 40.0 % (39.0–41.0, n = 100)" in text.replace("\u00a0", " ")
    assert "clearly" not in text


def test_values_that_are_not_numbers(tmp_path: Path) -> None:
    nan = float("nan")
    results = [result("knn:scenes/top1", nan), result("zeroshot:scenes/top1", 0.0, half=0.0)]
    run = load_run(write_run(tmp_path / "a", results=results))
    broken = replace(
        run, metrics=tuple(line | {"clip_loss": nan, "samples_per_second": None} for line in run.metrics)
    )
    text = write(tmp_path / "r.html", [broken, broken])
    assert "nan" not in Checked(text).text.lower().replace("name", "")
    assert "nan%" not in text


def test_a_failed_write_leaves_the_old_page(tmp_path: Path) -> None:
    runs = three_runs(tmp_path)
    with pytest.raises(ConfigError, match="at least one run"):
        write_report(tmp_path / "r.html", [], title="x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "nowhere" / "r.html", runs)


def test_a_place_where_no_page_can_be_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch
) -> None:
    runs = three_runs(tmp_path)
    monkeypatch.setattr("openslip.report.page.page", None)
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path, "That is a folder.*report.html"),
        (tmp_path / "none/page.html", "no folder .*/none"),
        (tmp_path / "file/page.html", "no folder .*/file"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(CheckpointError, match=f"(?s)cannot be written.*{why}") as error:
            write_report(path, runs, title="x")
        assert ".writing" not in str(error.value)


def test_paper_keeps_bars_and_does_not_part_titles_from_what_follows(tmp_path: Path) -> None:
    page = write(tmp_path / "r.html", three_runs(tmp_path))
    css = page.partition("@media print")[2].partition("</style>")[0]
    assert "print-color-adjust: exact" in css
    assert re.search(r"h1, h2, h3[^{]*\.numbers p[^{]*\{ break-after: avoid", css)
    assert re.search(r"table\.results \{ display: flex", page)  # a browser's grid heeds no break-after
    assert re.search(r"figure, tr[^{]*\{ break-inside: avoid", css)


def test_a_sum_has_the_first_colour_and_others_follow_in_order() -> None:
    def colours(**losses: str) -> dict[str, str]:
        runs = {name: Run(name, Path(name), make_config(loss)) for name, loss in losses.items()}
        return choose_colours([Row(name, (run,)) for name, run in runs.items()])

    assert colours(a="clip", b="simclr", c="clip + 1.0 * simclr") == {"a": "c1", "b": "c2", "c": "c0"}
    assert colours(a="simclr", b="x:A + y:B + 1e+3 * clip", c="clip + x:A") == {
        "a": "c2",
        "b": "c0",
        "c": "c1",
    }
    many = colours(**{f"run{i}": "clip" for i in range(8)})
    assert [*many.values()] == ["c0", "c1", "c2", "c3", "c4", "c5", "c0", "c1"]


def test_a_loss_that_is_not_known_here_is_reported_as_written_and_nothing_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownlosses.py").write_text("raise AssertionError('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    loss = "clip + 0.5 * ownlosses:Mine"
    run = load_run(write_run(tmp_path / "own", loss, [result("knn:scenes/top1", 0.5)]))
    lines = tuple(
        line | {"mine_loss": 1 / line["step"], "mine_acc": 0.5, "mine_other": 3} for line in run.metrics
    )
    runs = [replace(run, metrics=lines), load_run(write_run(tmp_path / "clip", "clip"))]
    page = write(tmp_path / "r.html", runs, encoder=None, pictures=None)
    text = " ".join(Checked(page).text.split())
    assert f"{loss} and CLIP with the same image tower" in text
    charts = re.findall(r"<figcaption><strong>(.*?)</strong>", page)
    assert charts[:4] == ["Image–text loss", "Image–text accuracy", "mine: loss", "mine: accuracy"]
    figures = page.split("<figure")[1:]
    assert [">chance<" in figure for figure in figures[:4]] == [True, True, False, False]
    assert "ends at 50%" in figures[3]
    assert "Text tower" in text
    assert "Self-supervised views" in text
