"""Programs of torch.export: they run with torch alone, for any batch and length, and hold nothing of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import openslip
from exports.cases import farthest
from exports.models import model_of, saved
from interop.public import CASES as PUBLIC
from openslip.exports import export

ALONE = """
import sys
sys.modules |= dict.fromkeys(("openslip", "timm", "torchvision", "open_clip", "transformers"))
import torch
from safetensors.torch import load_file, save_file
given = load_file("given.safetensors")
image, text = (torch.export.load(f"there/{name}.pt2").module() for name in ("image", "text"))
with torch.no_grad():
    found = {"all": image(given["pixels"]), "one": image(given["pixels"][:1])}
    found |= {f"text {n}": text(given[f"ids {n}"]) for n in (1, 2, 12)}
save_file(found, "found.safetensors")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, openslip.Encoder]:
    folder = tmp_path_factory.mktemp("exported")
    model = saved(model_of(), folder)
    done = export(model, "torch_export", folder / "there")
    assert farthest(done) < 2e-6
    assert done.trial.picture == 0
    return done.place, openslip.load(model)


def test_they_run_with_torch_alone(exported) -> None:
    """Batches and lengths that the example had not."""
    place, encoder = exported
    pixels = torch.randn(3, 3, encoder.size, encoder.size)
    end = encoder.tokenizer.end
    ids = {n: torch.randint(1, 1000, (4, n)) for n in (1, 2, 12)}
    for rows in ids.values():
        rows[:, -1] = end
    given = {"pixels": pixels} | {f"ids {n}": rows for n, rows in ids.items()}
    save_file(given, place.parent / "given.safetensors")
    subprocess.run([sys.executable, "-c", ALONE], cwd=place.parent, check=True)
    found = load_file(place.parent / "found.safetensors")
    expected = encoder.encode_image(pixels)
    torch.testing.assert_close(found["all"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["one"], expected[:1], rtol=0, atol=1e-6)
    for n, rows in ids.items():
        torch.testing.assert_close(found[f"text {n}"], encoder.encode_text(rows), rtol=0, atol=1e-6)


def test_the_lines_that_are_printed(exported, tmp_path) -> None:
    place, encoder = exported
    lines = (place / "README.md").read_text().split("```python\n")[1].split("```")[0]
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    known = {"picture": picture}
    exec(lines.replace(f"{place.name}/", f"{place}/"), known)
    torch.testing.assert_close(known["image"], encoder.encode_image(picture), rtol=0, atol=1e-6)
    texts = ["a red bicycle", "a dog"]
    torch.testing.assert_close(known["text"], encoder.encode_text(texts), rtol=0, atol=1e-6)


def test_what_is_written(exported) -> None:
    place, encoder = exported
    assert sorted(os.listdir(place)) == [
        "README.md",
        "image.pt2",
        "openslip.json",
        "text.pt2",
        "tokenizer.json",
    ]
    about = json.loads((place / "openslip.json").read_text())
    assert about["format"] == "openslip-torch-export"
    assert (about["image"]["file"], about["text"]["file"]) == ("image.pt2", "text.pt2")
    own = [
        place.parent,
        Path.home(),
        Path(openslip.__file__).parent.parent,
        Path(torch.__file__).parent.parent,
    ]
    for name, tower in (("image", encoder.model.image_tower), ("text", encoder.model.text_tower)):
        with zipfile.ZipFile(place / f"{name}.pt2") as archive:
            parts = {part: archive.read(part) for part in archive.namelist()}
        assert not [part for part, data in parts.items() for path in own if str(path).encode() in data]
        weights = sum(len(data) for part, data in parts.items() if "/weights/weight" in part)
        assert weights < 1.2 * 4 * sum(value.numel() for value in tower.parameters())  # of this tower alone


def test_without_a_text_tower_and_of_timm(tmp_path) -> None:
    config = model_of(image={"name": "test_resnet"})
    config = replace(config, objective=replace(config.objective, loss="simclr", options={}))
    done = export(saved(config, tmp_path), "torch_export", tmp_path / "there")
    assert done.trial.text is None
    assert "image.pt2 gives the image tower's features" in done.notes[0]
    assert sorted(os.listdir(done.place)) == ["README.md", "image.pt2", "openslip.json"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PUBLIC, ids=lambda case: f"{case.library}: {case.architecture}")
def test_public_models(case, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    done = export(case.make(tmp_path / "model").spec, "torch_export", tmp_path / "there")
    assert max(done.trial.image, done.trial.text or 0.0) < 2e-6
