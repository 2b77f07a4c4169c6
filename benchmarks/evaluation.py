"""Evaluation against clip-benchmark's own code path: the same model, the same pictures and prompts, in one run.

    python benchmarks/evaluation.py                       # all parts: about 15 minutes on 2 cores
    python benchmarks/evaluation.py --parts classifier --classes 40 --rounds 5
    python benchmarks/evaluation.py --peer FOLDER         # after `pip install --no-deps --target FOLDER clip-benchmark`

Both sides have one open_clip model with weights drawn at random. Sides take turns; ratios are medians over rounds.
"Work" is the time of all cores, of the main process alone: on a busy machine its ratio says more than that of the
clock. `--threads 1` keeps threads from waiting for each other there.

- classifier: ImageNet's class names × 80 prompts. clip-benchmark takes one class after the other, 80 prompts padded to
  77 tokens each, so its time a class is the same for any classes: it is timed on some. Ours sorts all prompts by their
  length; it is timed on `--classes` classes that are spread over all 1,000, so with fewer of them it batches worse.
- cifar10, jpeg: zero-shot classification whole, from bytes to accuracies. cifar10 is `--pictures` of its test
  split, else pictures that were made up; jpeg is a folder of 500 × 375 photographs' size. clip-benchmark's path is a
  DataLoader with open_clip's preprocessing and 2 workers, `zero_shot_classifier` and `run_classification`.
- extract: features of arrays that need no decoding against the image tower alone, on batches that are made ready.

Without `--peer` clip-benchmark's two functions are written out here, from what they do.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from embed import paint, save

MODEL = "ViT-B-32"
BATCH = 64
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=["classifier", "cifar10", "jpeg", "extract"])
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--cifar10", type=Path, help="a folder of cifar10 as Parquet files")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    peer = _peer(options.peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(MODEL, folder / "weights.pt")
        models = Models(folder / "weights.pt")
        print(f"{MODEL}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, peer: {peer.about}\n")
        print("| part | side | a unit, ms | first / side | work, first / side | largest difference |")
        print("|---|---|--:|--:|--:|--:|")
        for part in options.parts:
            {"classifier": classifier, "extract": extract}.get(part, whole)(
                part, models, peer, folder, options
            )


class Models:
    """One model, as open_clip and as this project have it."""

    preprocess: Any

    def __init__(self, weights: Path) -> None:
        import open_clip

        import openslip

        self.theirs, _, self.preprocess = open_clip.create_model_and_transforms(MODEL)
        self.theirs.load_state_dict(torch.load(weights, weights_only=True))
        self.theirs.eval()
        self.tokenizer = open_clip.get_tokenizer(MODEL)
        self.ours = openslip.load(f"open_clip:{MODEL}@{weights}")


class _Written:
    """clip-benchmark's two functions, in fp32."""

    about = "its formulation, written out"

    @staticmethod
    def zero_shot_classifier(
        model: Any, tokenizer: Any, classnames: Any, templates: Any, device: str, amp: bool
    ) -> torch.Tensor:
        columns = []
        with torch.no_grad():
            for name in classnames:
                tokens = tokenizer([template.format(c=name) for template in templates]).to(device)
                mean = F.normalize(model.encode_text(tokens), dim=-1).mean(dim=0)
                columns.append(mean / mean.norm())
        return torch.stack(columns, dim=1)

    @staticmethod
    def run_classification(
        model: Any, classifier: torch.Tensor, loader: Any, device: str, amp: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = [], []
        with torch.no_grad():
            for images, targets in loader:
                features = F.normalize(model.encode_image(images.to(device)), dim=-1)
                logits.append(100.0 * features @ classifier)
                labels.append(targets)
        return torch.cat(logits), torch.cat(labels)


def _peer(folder: Path | None) -> Any:
    if folder is None:
        return _Written
    sys.path.append(str(folder))
    from clip_benchmark.metrics import zeroshot_classification  # pyrefly: ignore[missing-import]

    zeroshot_classification.tqdm = lambda items: items
    zeroshot_classification.about = "clip-benchmark"
    return zeroshot_classification


Found = dict[str, tuple[list[tuple[float, float]], Any]]
"""By side: of each call the seconds by the clock and of work, and what the last one gave."""


def turns(sides: dict[str, Callable[[], Any]], rounds: int) -> Found:
    """Call all sides in turns."""
    found: Found = {side: ([], None) for side in sides}
    for _ in range(rounds):
        for side, call in sides.items():
            begun, work = time.perf_counter(), time.process_time()
            value = call()
            took = time.perf_counter() - begun, time.process_time() - work
            found[side] = ([*found[side][0], took], value)
    return found


def show(part: str, found: Found, units: dict[str, int], difference: float) -> None:
    """Print a row for each side; the first one is what the others are compared with."""
    first, *_ = found
    base = np.array(found[first][0]) / units[first]
    for side, (seconds, _) in found.items():
        each = np.array(seconds) / units[side]
        clock, work = np.median(base / each, axis=0)
        apart = "" if side == first else f"{difference:.0e}"
        took = 1e3 * np.median(each[:, 0])
        print(f"| {part} | {side} | {took:.1f} | {clock:.2f} | {work:.2f} | {apart} |", flush=True)


def classifier(part: str, models: Models, peer: Any, folder: Path, options: argparse.Namespace) -> None:
    """Time the class embeddings of ImageNet's names."""
    from openslip.data.labelled import imagenet, prompts
    from openslip.evaluation.zeroshot import classifier

    templates, names = prompts.called("imagenet"), imagenet.clip_names()
    names = [names[i] for i in np.linspace(0, len(names) - 1, options.classes).round().astype(int)]
    some = names[:: max(1, len(names) // 2)][:2]
    theirs = [template.replace("{}", "{c}") for template in templates]
    sides: dict[str, Callable[[], Any]] = {
        "clip-benchmark": lambda: peer.zero_shot_classifier(
            models.theirs, models.tokenizer, some, theirs, "cpu", amp=False
        ),
        "ours": lambda: classifier(models.ours, names, templates),
    }
    found = turns(sides, options.rounds)
    rows = [names.index(name) for name in some]
    apart = np.abs(found["clip-benchmark"][1].T.numpy() - found["ours"][1][rows]).max()
    units = {"clip-benchmark": len(some), "ours": len(names)}
    show(part, found, units, float(apart))
    work = {side: arithmetic(call) / units[side] for side, call in sides.items()}
    print(
        f"\nArithmetic of a class: {work['clip-benchmark'] / 1e9:.0f} and {work['ours'] / 1e9:.1f} GFLOP, "
        f"{work['clip-benchmark'] / work['ours']:.1f} times as much\n"
    )


def arithmetic(call: Callable[[], Any]) -> int:
    """Return the floating-point operations of a call."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def whole(part: str, models: Models, peer: Any, folder: Path, options: argparse.Namespace) -> None:
    """Time zero-shot classification from files to scores."""
    from openslip.data.labelled import open_labelled, prompts
    from openslip.evaluation.zeroshot import ZeroShot

    spec = _pictures(part, folder, options)
    data = open_labelled(spec)
    images, templates = data.split("test"), list(prompts.for_set(data).templates)
    theirs = [template.replace("{}", "{c}") for template in templates]

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Any:
            import io

            from PIL import Image

            content = images.images[index]
            assert isinstance(content, bytes)
            return models.preprocess(Image.open(io.BytesIO(content))), int(images.labels[index])

    def peers() -> Any:
        weights = peer.zero_shot_classifier(
            models.theirs, models.tokenizer, data.class_names, theirs, "cpu", amp=False
        )
        loader = torch.utils.data.DataLoader(Pictures(), batch_size=BATCH, num_workers=WORKERS)
        logits, labels = peer.run_classification(models.theirs, weights, loader, "cpu", amp=False)
        return float((logits.argmax(1) == labels).double().mean())

    sides = {
        "clip-benchmark": peers,
        "ours": lambda: ZeroShot(spec, batch_size=BATCH).evaluate(models.ours)[0].value,
    }
    found = turns(sides, options.rounds)
    units = dict.fromkeys(found, len(images))
    show(part, found, units, abs(found["ours"][1] - found["clip-benchmark"][1]))


def _pictures(part: str, folder: Path, options: argparse.Namespace) -> str:
    """Write a labelled set of pictures, in folders by class; return where."""
    root, count = folder / part, options.pictures
    if part == "cifar10" and options.cifar10:
        from openslip.data.labelled import open_labelled

        data = open_labelled(str(options.cifar10))
        split, names = data.split("test"), data.class_names
        for number in np.random.default_rng(0).permutation(len(split))[:count].tolist():
            place = root / "test" / names[int(split.labels[number])]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:05d}.png").write_bytes(split.images[number])
        return str(root)
    if part == "cifar10":
        from PIL import Image

        rng = np.random.default_rng(0)
        for number in range(count):
            place = root / "test" / f"kind {number % 10}"
            place.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(noise).save(place / f"{number:05d}.png")
        return str(root)
    paint(folder / "painted", count)
    for number, path in enumerate(sorted((folder / "painted").iterdir())):
        place = root / "test" / f"kind {number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    return str(root)


def extract(part: str, models: Models, peer: Any, folder: Path, options: argparse.Namespace) -> None:
    """Time features of arrays against the tower alone."""
    from openslip.evaluation.features import extract

    size, rng = models.ours.size, np.random.default_rng(0)
    images = [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(options.pictures)]
    ready = [torch.stack([models.ours.preprocess(one) for one in images[i : i + BATCH]])
             for i in range(0, len(images), BATCH)]  # fmt: skip
    sides = {
        "tower alone": lambda: torch.cat([models.ours.image_features(batch) for batch in ready]).numpy(),
        "extract": lambda: extract(models.ours, images, "features", BATCH).values,
    }
    found = turns(sides, options.rounds)
    show(
        part,
        found,
        dict.fromkeys(found, len(images)),
        float(np.abs(found["extract"][1] - found["tower alone"][1]).max()),
    )


if __name__ == "__main__":
    main()
