"""Every code block of the tutorials is run from the first to the last; of other pages it is known why they are not, and
each of their command lines is one that `slip` accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from accepted import is_accepted
from docs.pages import DOCS, blocks, commands, run
from interop.public import CASES

README = DOCS.parent / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "results").glob("*.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
LANGUAGES = {"sh", "python", "toml", "text"}
NOT_RUN = {
    "README.md": "trainings of minutes to hours, on data that the page assumes; the tutorials have the same commands",
    "ablations.md": "grids of data that the page assumes; tests/ablation and tests/cli/test_ablate.py run such grids",
    "benchmarks.md": "measurements of minutes to hours on named machines",
    "cheaper.md": "trainings of hours; the recipes are trained by tests/test_recipes.py",
    "classify.md": "pictures and models that the page assumes; tests/cli/test_classify.py",
    "command-line.md": "shells and runs that the page assumes; tests/cli/test_completion.py and test_json.py",
    "datasets.md": "public data sets; tests/evaluation/datasets and tests/cli/test_datasets.py",
    "design.md": "a diagram",
    "differences.md": "has no block of code",
    "export.md": "its examples are run by tests/exports, and without openslip by `make consumers`",
    "formats.md": "models of the hub; tests/interop",
    "index.md": "the installation; `make wheel-test`",
    "labelled.md": "pictures that the page assumes; tests/data/labelled",
    "many-gpus.md": "GPUs and several machines; tests/distributed",
    "measuring.md": "models that the page assumes; tests/cli/test_evaluate.py, test_compare.py and test_against.py",
    "objectives.md": "its blocks of Python are run by tests/objectives/test_write_your_own.py",
    "pretrained.md": "models of the hub; the tutorial open-clip.md has the same way",
    "protocols.md": "data sets that the page assumes; tests/evaluation",
    "report.md": "runs that the page assumes; tests/report/test_commands.py",
    "results.md": "trainings of hours",
    "search.md": "product pictures; the tutorial your-pictures.md has the same way, and tests/cli/test_search.py",
    "serve.md": "a running server; tests/search/app",
    "training.md": "pictures that the page assumes; tests/training",
    "use.md": "pictures and models that the page assumes; tests/test_encoder.py and tests/test_pictures.py",
    "your-data.md": "pictures that the page assumes, in every layout; tests/data/sources",
}
"""The pages whose blocks are not run here, each with the reason and with what tests the same."""


def test_each_page_is_run_or_says_why_not() -> None:
    assert {README.name} | {page.name for page in DOCS.glob("*.md")} == NOT_RUN.keys()


@pytest.mark.parametrize(
    ("page", "line"),
    [
        pytest.param(page, line, id=f"{page.stem}: {line}")
        for page in PAGES
        for line in commands(page.read_text())
    ],
)
def test_each_command_line_is_accepted(page: Path, line: str, tmp_path: Path, monkeypatch) -> None:
    """As far as the real parser: a page names no option or command that there is not."""
    monkeypatch.chdir(tmp_path)
    assert is_accepted(line, monkeypatch), page


def test_lines_of_a_page_are_found_without_what_is_of_the_shell() -> None:
    page = """```
slip train small-data --data.train 'a b.csv' \\
    --out runs/mine   # the rest
$ slip data check x.csv --json | head > y
slip train "$X"
```
```python
slip = 3
```
"""
    assert commands(page) == [
        "slip train small-data --data.train 'a b.csv' --out runs/mine",
        "slip data check x.csv --json",
    ]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_each_block_of_a_tutorial_is_run_or_says_why_not(page: Path) -> None:
    found = blocks(page.read_text())
    assert len(found) == page.read_text().count("\n```") / 2
    assert {block.language for block in found} <= LANGUAGES
    assert all(block.code or block.why for block in found)
    assert any(block.code for block in found if block.language in ("sh", "python"))


def test_a_comment_that_replaces_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="replaces nothing"):
        blocks("```sh\nslip recipes\n```\n<!-- run with: train => evaluate; why -->\n")


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ended with 2"):
        run(blocks("```sh\nslip no-such-command\n```\n"), tmp_path)
    with pytest.raises(NameError):
        run(blocks("```python\nnobody\n```\n"), tmp_path)
    with pytest.raises(AssertionError, match="another program"):
        run(blocks("```sh\nls\n```\n"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_works_from_the_first_line_to_the_last(page: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    small = "open_clip:small-model"
    if small in text:
        case = next(case for case in CASES if case.library == "open_clip")
        (tmp_path / "small-model").mkdir()
        spec = case.make(tmp_path / "small-model").spec
    else:
        spec = small
    assert run(blocks(text), tmp_path, lambda line: line.replace(small, spec))
