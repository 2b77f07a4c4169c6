"""Pictures a second from JPEG files to embeddings on disk: slip embed against the loops that people write today.

    python benchmarks/embed.py                                      # both models, 3 rounds: about 10 minutes on 2 cores
    python benchmarks/embed.py --models ViT-B-32 --pictures 2048 --rounds 5 --device cuda
    python benchmarks/embed.py --parts                              # milliseconds of one core for each part of it

All sides have the same weights, drawn at random, and the same JPEG files of 500 × 375 pixels: rendered scenes with
grain, of quality 90. Each run is a process of its own. Its time goes from the first picture to the last byte on disk,
without imports and the loading of the model. Sides take turns, so that a machine that is busy for a while is busy for
all; ratios are medians over rounds. Memory is the most that a process and its workers held, less what the process held
before.

- loop: what open_clip's README has. Its own preprocessing (Pillow, torchvision) in the workers of a DataLoader,
  `encode_image`, `np.save`. For `small-data` the same with the tower's size, mean and deviation.
- retrieval: the formulation of clip-retrieval's inference. A reader as an iterable data set gives dictionaries, one
  share of the files for each worker; batches become normalised half-precision arrays; a Parquet of paths lies beside.
  Written anew from what its documentation says: it cannot be installed beside today's libraries.
- slip, in fp32 and in bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("loop", "retrieval", "slip-fp32", "slip-bf16")
BATCH = 128
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "small-data"])
    parser.add_argument("--pictures", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--run", nargs=3, metavar=("SIDE", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        side, model, folder = options.run
        print(json.dumps(run(side, model, Path(folder), options.device)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paint(folder / "pictures", options.pictures)
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.pictures} pictures"
        )
        if options.parts:
            parts(folder / "pictures")
            return
        for model in options.models:
            save(model, folder / f"{model}.pt")
            measure(model, folder, options)


def parts(folder: Path) -> None:
    """Print what reading and the small tower take of one core, in milliseconds a picture."""
    import io

    import torch
    from PIL import Image

    import openslip
    from openslip.data.decode import decode

    torch.set_num_threads(1)
    encoder = openslip.create("small-data")
    files = [path.read_bytes() for path in sorted(folder.iterdir())[:128]]
    pixels = torch.stack([encoder.preprocess(file) for file in files])

    def timed(name: str, work: Callable[[], object]) -> None:
        work()
        begun = time.perf_counter()
        work()
        print(f"{name}: {(time.perf_counter() - begun) / len(files) * 1e3:.2f} ms")

    timed("reading, as slip does", lambda: [encoder.preprocess.pixels(file) for file in files])
    timed("decoding by Pillow", lambda: [Image.open(io.BytesIO(file)).convert("RGB") for file in files])
    timed("small-data's tower, fp32", lambda: encoder.encode_image(pixels))
    whole = torch.stack([encoder.preprocess(decode(file)) for file in files])
    cosine = (encoder.encode_image(pixels) * encoder.encode_image(whole)).sum(1).min()
    print(f"cosine of reduced to full decoding: {float(cosine):.4f} at least")


def measure(model: str, folder: Path, options: argparse.Namespace) -> None:
    """Run all sides in turns, and print a table."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            words = [sys.executable, __file__, "--run", side, model, str(folder), "--device", options.device]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"\n{model}\n")
    print("| side | pictures/s | times loop | times retrieval | memory, MB | cosine to loop |")
    print("|---|--:|--:|--:|--:|--:|")
    expected = np.load(folder / "loop" / "vectors.npy").astype(np.float32)
    for side in SIDES:
        speeds = [options.pictures / one["seconds"] for one in found[side]]
        ratios = [
            statistics.median(
                other["seconds"] / one["seconds"] for other, one in zip(found[against], found[side])
            )
            for against in ("loop", "retrieval")
        ]
        memory = statistics.median(one["megabytes"] for one in found[side])
        name = "vectors-0.npy" if side == "retrieval" else "vectors.npy"
        vectors = np.load(folder / side / name).astype(np.float32)
        if side == "retrieval":  # each worker has every second file
            vectors = vectors[np.load(folder / side / "order.npy")]
        cosine = (vectors * expected).sum(1).min()
        print(
            f"| {side} | {statistics.median(speeds):.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {memory:,.0f} |"
            f" {cosine:.4f} |"
        )


def paint(folder: Path, count: int) -> None:
    """Write rendered scenes as JPEG files of 500 × 375 pixels."""
    from PIL import Image

    from openslip.scenes import Scenes

    folder.mkdir(parents=True)
    scenes = Scenes("train", min(count, 256), 0, 375)
    noise = np.random.default_rng(0)
    for number in range(count):
        square = np.asarray(scenes[number % len(scenes)].image, dtype=np.int16)
        # Grain, as cameras have: flat areas would decode faster than photographs do.
        wide = np.asarray(Image.fromarray(square.astype(np.uint8)).resize((500, 375)), dtype=np.int16)
        grain = noise.normal(0, 6, wide.shape).astype(np.int16)
        pixels = (wide + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=90)


def save(model: str, path: Path) -> None:
    """Write a model's weights, drawn at random."""
    import torch

    torch.manual_seed(0)
    if model == "small-data":
        import openslip

        torch.save(openslip.create(model).model.state_dict(), path)
    else:
        import open_clip

        torch.save(open_clip.create_model(model).state_dict(), path)


def run(side: str, model: str, folder: Path, device: str) -> dict[str, float]:
    """Embed all pictures in this process; return seconds and megabytes."""
    out = folder / side
    work = {"loop": plain_loop, "retrieval": retrieval}.get(side)
    with peak() as held:
        if work:
            encode, preprocess = theirs(model, folder / f"{model}.pt", device)
            begun, before = time.perf_counter(), held.now()
            out.mkdir(exist_ok=True)
            work(encode, preprocess, folder / "pictures", out, device)
        else:
            from openslip.processes import Processes
            from openslip.search.embed import embed

            encoder = ours(model, folder / f"{model}.pt").to(device)
            warm(encoder.device)
            begun, before = time.perf_counter(), held.now()
            source, precision = str(folder / "pictures"), side.removeprefix("slip-")
            ranks = Processes(device=encoder.device)
            embed(encoder, source, fresh(out), precision=precision, batch=BATCH, ranks=ranks)  # type: ignore[arg-type]
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "megabytes": (held.most - before) / 1e6}


def fresh(out: Path) -> Path:
    import shutil

    shutil.rmtree(out, ignore_errors=True)
    return out


def warm(device: Any) -> None:
    """Have the device's libraries loaded."""
    import torch

    torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)


def ours(model: str, weights: Path) -> Any:
    import torch

    import openslip

    if model == "small-data":
        encoder = openslip.create(model)
        encoder.model.load_state_dict(torch.load(weights, weights_only=True))
        return encoder
    return openslip.load(f"open_clip:{model}@{weights}")


def theirs(model: str, weights: Path, device: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return a function from a batch of pictures to embeddings, and the preprocessing of a Pillow image."""
    import torch
    from torchvision import transforms

    if model == "small-data":
        encoder = ours(model, weights).to(device)
        views = encoder.config.views
        preprocess = transforms.Compose([
            transforms.Resize(views.size, transforms.InterpolationMode(views.interpolation)),
            transforms.CenterCrop(views.size), transforms.ToTensor(), transforms.Normalize(views.mean, views.std),
        ])  # fmt: skip
        encode = encoder.model.encode_image
    else:
        import open_clip

        created: Any = open_clip.create_model_and_transforms(model)
        module, _, preprocess = created
        module.load_state_dict(torch.load(weights, weights_only=True))
        encode = module.to(device).eval().encode_image
    warm(torch.device(device))
    return encode, preprocess


def plain_loop(encode: Any, preprocess: Any, pictures: Path, out: Path, device: str) -> None:
    """Embed as open_clip's documentation has it."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Pictures(Dataset):
        def __init__(self) -> None:
            self.paths = sorted(pictures.iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return preprocess(Image.open(self.paths[index]).convert("RGB"))

    found = []
    with torch.no_grad():
        for batch in DataLoader(Pictures(), batch_size=BATCH, num_workers=WORKERS):
            values = encode(batch.to(device))
            found.append((values / values.norm(dim=-1, keepdim=True)).cpu().numpy())
    np.save(out / "vectors.npy", np.concatenate(found).astype(np.float16))


def retrieval(encode: Any, preprocess: Any, pictures: Path, out: Path, device: str) -> None:
    """Embed in the formulation of clip-retrieval's inference."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Reader(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            info = get_worker_info()
            assert info is not None
            for path in sorted(pictures.iterdir())[info.id :: info.num_workers]:
                image = Image.open(path).convert("RGB")
                yield {"image_tensor": preprocess(image), "image_filename": str(path), "text": ""}

    class Writer:
        def __init__(self) -> None:
            self.vectors: list[np.ndarray] = []
            self.names: list[str] = []

        def __call__(self, batch: dict[str, Any]) -> None:
            self.vectors.append(batch["image_embs"])
            self.names += batch["image_filename"]

        def flush(self) -> None:
            np.save(out / "vectors-0.npy", np.concatenate(self.vectors))
            pq.write_table(pa.table({"image_path": self.names}), out / "metadata-0.parquet")

    writer = Writer()
    for item in DataLoader(Reader(), batch_size=BATCH, num_workers=WORKERS, prefetch_factor=2):
        with torch.no_grad():
            values = encode(item["image_tensor"].to(device))
            values /= values.norm(dim=-1, keepdim=True)
            writer(
                {
                    "image_embs": values.cpu().to(torch.float16).numpy(),
                    "image_filename": item["image_filename"],
                }
            )
    writer.flush()
    np.save(out / "order.npy", np.argsort(writer.names))


class Held:
    """The memory of this process and its children, in bytes, now and the most so far."""

    most = 0

    def now(self) -> int:
        total = 0
        for process in [os.getpid(), *_children(os.getpid())]:
            try:
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
            except (OSError, ValueError):  # it has ended
                continue
        return total or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def peak() -> Iterator[Held]:
    """Look at the memory ten times a second."""
    held, ended = Held(), threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            held.most = max(held.most, held.now())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


def _children(process: int) -> list[int]:
    try:
        words = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [child for word in words for child in (int(word), *_children(int(word)))]


if __name__ == "__main__":
    main()
