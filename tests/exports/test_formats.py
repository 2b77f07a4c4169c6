"""The table of what models leave as: embeddings in each format's library, and when the model has come back."""

import pytest

from exports.cases import CASES, CONSTRAINTS, DOCS, EXAMPLES, Case, exported, measured
from exports.consumers import ENVIRONMENTS, example, lines_of
from openslip.exports import FORMATS

QUICK = [case for case in CASES if not case.slow]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * case.slow) for case in CASES],
    ids=lambda case: f"{case.to}: {case.becomes}",
)
def test_out_and_in_again_within_the_tolerance(case: Case) -> None:
    found = measured(case)
    assert found.library.startswith(f"{case.library} ")
    assert found.out <= case.tolerance
    assert found.again is None or found.again <= case.tolerance


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cases", [QUICK, pytest.param(CASES, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_the_table_is_printed(cases: list[Case], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n| `--to` | becomes | library | out | in again |\n|---|---|---|---|---|")
        for case in cases:
            found = measured(case)
            again = "–" if found.again is None else f"{found.again:.0e}"
            print(f"| {case.to} | {case.becomes} | {found.library} | {found.out:.0e} | {again} |")


def docs_line(case: Case) -> str:
    """Return a case's line of the docs, with the version that the project is tested with."""
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines())
    library = f"{case.library} {pins[case.library]}" if case.library in pins else case.library
    tolerance = f"{case.tolerance:.0e}".replace("e-0", "e-")
    again = "–" if case.to == "onnx" else tolerance
    cells = (f"`{case.to}`", case.becomes, library, tolerance, again, " ".join(case.install) or "–")
    return f"| {' | '.join(cells)} |"


def test_the_table_of_the_docs_has_the_same_lines() -> None:
    _, _, section = DOCS.read_text().partition("\n## Tried\n")
    written = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    assert written[1:] == [docs_line(case) for case in CASES]


def test_every_format_is_in_the_table_and_has_an_example() -> None:
    assert {case.to for case in CASES} == set(FORMATS) == set(EXAMPLES)
    installed = {distributions for chain in ENVIRONMENTS for distributions in chain}
    assert {case.install for case in CASES} == installed | {()}
    for to in FORMATS:
        lines = example(to)
        assert EXAMPLES[to].place in lines
        assert len(lines.splitlines()) <= (16 if to == "onnx" else 6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [case for case in QUICK if "layout" not in dict(case.options)], ids=str)
def test_the_docs_show_the_lines_that_are_printed(case: Case) -> None:
    done = exported(case.model, case.to, **dict(case.options))[1]
    assert lines_of(case) == done.usage.replace(str(done.place), EXAMPLES[case.to].place)


def test_the_docs_show_the_lines_of_the_papers_code() -> None:
    from openslip.exports.reference import USAGE

    assert example("reference") == USAGE.replace("PLACE", EXAMPLES["reference"].place)
