"""What the readers of public models take: embeddings are those of the library that wrote the model."""

import importlib.metadata
from pathlib import Path

import pytest

from interop.public import CASES, Case, difference

TOLERANCE = 1e-5
DISTRIBUTIONS = {"open_clip": "open_clip_torch", "transformers": "transformers", "timm": "timm"}
DOCS = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.library}: {case.architecture}")
def test_embeddings_are_the_librarys(case: Case) -> None:
    assert difference(case) < TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_the_table_of_what_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed with what was reached; that of the docs has the same lines."""
    with capsys.disabled():
        print("\n| library | version | architecture | largest difference |\n|---|---|---|---|")
        for case in CASES:
            version = importlib.metadata.version(DISTRIBUTIONS[case.library])
            print(f"| {case.library} | {version} | {case.architecture} | {difference(case):.0e} |")
    lines = [f"| {case.library} | {case.architecture} |" for case in CASES]
    written = DOCS.read_text().splitlines()
    assert [
        line for line in written if line.startswith(tuple(f"| {name} |" for name in DISTRIBUTIONS))
    ] == lines
