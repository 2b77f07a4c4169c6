"""What the readers of public models take: embeddings are those of the library that wrote the model."""

import copy
import importlib.metadata
import pickle
from pathlib import Path

import pytest
import torch

import openslip
from interop.public import CASES, TEXTS, Case, difference

TOLERANCE = 1e-5
DISTRIBUTIONS = {"open_clip": "open_clip_torch", "transformers": "transformers", "timm": "timm"}
DOCS = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.library}: {case.architecture}")
def test_embeddings_are_the_librarys(case: Case) -> None:
    assert difference(case) < TOLERANCE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.library}: {case.architecture}")
def test_a_copy_and_a_pickle_are_the_same_model(case: Case, tmp_path: Path) -> None:
    """A model of another library may be modules and a tokenizer of its own; the file is gone when they are copied."""
    (folder := tmp_path / "model").mkdir()
    model = openslip.load(case.make(folder).spec)
    folder.rename(tmp_path / "gone")
    images = torch.randn(2, 3, model.size, model.size)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.encode_image(images), model.encode_image(images))
        if model.model.text_tower is not None:
            assert torch.equal(other.encode_text(TEXTS), model.encode_text(TEXTS))


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
