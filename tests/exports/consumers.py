"""Run the examples of docs/export.md, each in a new environment with the distributions that it names, and no openslip.

    make consumers                       # all formats; needs the package registry, and 7 GB of disk at a time
    make consumers FORMATS="onnx timm"   # these

The models are small ones with random weights. Prints, line by line, what the lines of the docs gave beside openslip's
embeddings. The first picture has the size of the model, so that no resizing comes between; the second has not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import openslip
from exports.cases import CASES, CONSTRAINTS, DOCS, EXAMPLES, Case, exported
from openslip.exports import FORMATS

ROOT = DOCS.parents[1]
SHAPES = ROOT / "tests" / "golden" / "reference_state_dict_shapes.json"
TRANSFORMERS = EXAMPLES["huggingface"].install
ENVIRONMENTS = (
    (("torch",), ("timm",), ("open_clip_torch",), ("openslip",)),
    (TRANSFORMERS, (*TRANSFORMERS, "timm"), ("open_clip_torch", "transformers")),
    (EXAMPLES["onnx"].install,),
    (("rclip",),),
)
"""What environments get. Each grows from its first distributions: what comes next needs all that is there as well."""
TEXT = "a red bicycle"
LEVELS = {"huggingface": 2.01}
"""Grey levels, of 255, by which a library's prepared pictures may differ; others give the same."""
RCLIP = f"""import os
os.environ["RCLIP_DATADIR"] = "mine-rclip"
from rclip.model import Model
model = Model()
image, text = model.compute_image_features([picture]), model.compute_text_features(["{TEXT}"])"""
"""What the command `rclip` does, whose scores have three digits."""
MODELS = """loaded = {}
class Model:
    def load_state_dict(self, state):
        loaded.update({name: list(value.shape) for name, value in state.items()})
def __getattr__(name):
    return lambda **options: Model()"""
"""In the place of the paper's models.py, which is no library: notes what the file would load."""
RUN = """import json, platform, shutil, sys
sys.path.insert(0, "modules")
from importlib import metadata, util
about = json.load(open("about.json"))
if not about["openslip"]:
    assert util.find_spec("openslip") is None, "openslip is installed here"
found = []
for name in about["pictures"]:
    shutil.copy(name, "a.jpg")
    variables = {}
    if about["image"]:
        from PIL import Image
        variables["picture"] = Image.open("a.jpg")
    exec(about["lines"], variables)
    rows = {key: eval(about[key], variables)[0].tolist() for key in ("image", "text", "pixels") if about[key]}
    found.append(rows)
given = {
    "python": platform.python_version(),
    "versions": [f"{name} {metadata.version(name)}" for name in about["distributions"]],
    "found": found,
    "loaded": getattr(sys.modules.get("models"), "loaded", {}),
}
json.dump(given, open("found.json", "w"))
"""


def example(to: str) -> str:
    """Return the lines of Python that the docs show for a format."""
    section = DOCS.read_text().partition("\n## Formats\n")[2].partition("\n## ")[0]
    blocks = [block.partition("```")[0].strip() for block in section.split("```python\n")[1:]]
    place = EXAMPLES[to].place
    (found,) = [block for block in blocks if f'{place}"' in block or f"{place}/" in block]
    return found


def lines_of(case: Case) -> str:
    """Return the lines of Python that load a case's model, as the docs tell to write them."""
    if dict(case.options).get("layout") == "rclip":
        return RCLIP
    before, after = case.changed
    lines = example(case.to)
    assert before in lines
    return lines.replace(before, after) if before else lines


def install(folder: Path, distributions: tuple[str, ...]) -> Path:
    """Add distributions, and what they need, to an environment, which is made where none is; return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pins = [] if "rclip" in distributions else ["--constraint", CONSTRAINTS]  # which has pins of its own
    wanted = [str(ROOT) if name == "openslip" else name for name in distributions]
    pip = [python, "-m", "pip", "install", "-qq", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, *pins, *wanted], check=True)
    return python


def tried(case: Case, python: Path, folder: Path) -> tuple[str, bool]:
    """Run a case's lines in an environment; return a line of the table, and whether they gave what openslip gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, done = exported(case.model, case.to, **dict(case.options))
    shown, encoder = EXAMPLES[case.to], openslip.load(model)
    place = "mine-rclip" if "rclip" in case.install else shown.place
    (folder / place).symlink_to(done.place)
    (folder / "modules").mkdir()
    (folder / "modules" / "models.py").write_text(MODELS)
    rng, size = np.random.default_rng(0), encoder.size
    sizes = {"fitting.jpg": (size, size), "wide.jpg": (2 * size, size + 29)}
    for name, wanted in sizes.items():
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize(wanted, Image.Resampling.BICUBIC).save(folder / name, quality=95)
    pictures = list(sizes) if shown.image else ["fitting.jpg"]
    about = {
        "openslip": case.to == "openslip",
        "lines": lines_of(case),
        "image": shown.image,
        "text": shown.text,
        "pixels": "inputs.pixel_values" if case.to in LEVELS else "",
        "pictures": pictures,
        "distributions": case.install,
    }
    (folder / "about.json").write_text(json.dumps(about))
    (folder / "run.py").write_text(RUN)
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    own["HF_HUB_OFFLINE"] = "1"
    ran = subprocess.run([python, "-I", "run.py"], cwd=folder, env=own, capture_output=True, text=True)
    if ran.returncode:
        print(ran.stdout, ran.stderr, sep="\n", file=sys.stderr)
        return _line(case, "–", "–", "– | –", "the lines do not run"), False
    given = json.loads((folder / "found.json").read_text())
    told, well = _compared(case, encoder, folder, pictures, given)
    versions, verdict = ", ".join(given["versions"]), "OK" if well else "NOT the same"
    return _line(case, given["python"], versions, told, verdict), well


def _line(case: Case, python: str, libraries: str, differences: str, verdict: str) -> str:
    return f"| {case.to} | {case.becomes} | {python} | {libraries} | {differences} | {verdict} |"


def _compared(case: Case, encoder: Any, folder: Path, pictures: list[str], given: Any) -> tuple[str, bool]:
    """Return in words how far what the lines gave is from what openslip gives, and whether that is near enough."""
    if case.to == "reference":  # a model without SimCLR's head
        well = given["loaded"] == json.loads(SHAPES.read_text())["CLIP_VITS16"]
        return f"names and shapes of {len(given['loaded'])} tensors | –", well
    apart, well = [], True
    for name, found in zip(pictures, given["found"]):
        picture = Image.open(folder / name)
        if case.to == "openslip":
            ours = {"image": encoder.encode_image([folder / name])}
        elif case.to == "timm":
            ours = {"image": encoder.image_features(encoder.preprocess(picture)[None])}
        else:
            ours = {"image": encoder.encode_image(picture)}
        if "text" in found:
            ours["text"] = encoder.encode_text(TEXT)
        far = max(_apart(found[key], value[0]) for key, value in ours.items())
        apart.append(f"{far:.0e}")
        resized = picture.size != (encoder.size, encoder.size)
        if resized and case.to in LEVELS:  # its own resizing: what it prepares is compared instead
            deviation = torch.tensor(encoder.config.views.std).view(3, 1, 1)
            between = (torch.tensor(found["pixels"]) - encoder.preprocess(picture)) * deviation
            levels = float(between.abs().max()) * 255
            apart[-1] += f" ({levels:.1f} levels)"
            well &= levels <= LEVELS[case.to]
        else:
            well &= far <= case.tolerance
    return " | ".join(apart), well


def _apart(theirs: list[float], ours: torch.Tensor) -> float:
    unit = torch.nn.functional.normalize
    return float((unit(torch.tensor(theirs), dim=0) - unit(ours.cpu(), dim=0)).abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(FORMATS)}; all without")
    options = parser.parse_args()
    if unknown := set(options.formats) - set(FORMATS):
        parser.error(f"no such format: {', '.join(sorted(unknown))}")
    wanted = [case for case in CASES if not options.formats or case.to in options.formats]
    print("| `--to` | becomes | Python | libraries | difference | of another size | |")
    print("|---|---|---|---|---|---|---|")
    failed = 0
    for line, well in _lines(wanted):
        print(line, flush=True)
        failed += not well
    print(f"\n{failed} failed" if failed else "\nall that ran give what openslip gives")
    return bool(failed)


def _lines(wanted: list[Case]) -> Iterator[tuple[str, bool]]:
    """Yield a line of the table for each case, and whether all was well."""
    for chain in ENVIRONMENTS:
        with tempfile.TemporaryDirectory(prefix="openslip-consumer-") as folder:
            for distributions in chain:
                cases = [case for case in wanted if case.install == distributions]
                try:
                    python = install(Path(folder), distributions) if cases else Path()
                except subprocess.CalledProcessError:
                    yield from (
                        (_line(case, "–", "–", "– | –", "cannot be installed"), False) for case in cases
                    )
                    continue
                for case in cases:
                    with tempfile.TemporaryDirectory(prefix="openslip-consumer-") as work:
                        yield tried(case, python, Path(work))
    for case in wanted:
        if not case.install:
            yield _line(case, "–", "no distribution", "– | –", "not run"), True


if __name__ == "__main__":
    sys.exit(main())
