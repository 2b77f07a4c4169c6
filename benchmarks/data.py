"""Samples a second of one core: from JPEG bytes and captions to views and tokens, ours against the reference pipeline.

    python benchmarks/data.py
    python benchmarks/data.py --rounds 20 --decoder pillow
    python benchmarks/data.py --operations

The reference pipeline decodes with Pillow and runs one pipeline of torchvision transforms on Pillow images for each of
the three views, each caption through the tokenizer alone, without a cache. Ours is timed twice: what a loader process
does (one decode, three crops, the drawn parameters, tokens; colours, blur and flips left to the device), and with
everything on the CPU. Sides are interleaved; seconds are those that the thread computes; ratios are medians over
rounds, with quartiles. Pictures are clouds of noise whose spectrum falls like that of photographs, in JPEGs of about
the size that photographs of their dimensions have.

With `--operations`, what each operation of our augmentation costs instead: milliseconds a view of 224 px, the least
over rounds, of a batch in which every view asks for this one operation.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from openslip.config import IMAGENET_MEAN, IMAGENET_STD, ViewsConfig
from openslip.data.augment import augment
from openslip.data.builder import Builder
from openslip.data.data import Data
from openslip.data.decode import DECODERS
from openslip.data.record import Record, Source
from openslip.data.tokenizer import Tokenizer, open_clip_tokenizer
from openslip.data.views import UNCHANGED, Parameter
from openslip.needs import IMAGE, SSL_VIEWS

SIZES = ((500, 375), (256, 256))
OPERATIONS = (
    ("normalisation alone", {}),
    ("flip", {Parameter.FLIP: 1}),
    ("brightness", {Parameter.JITTER: 1, Parameter.BRIGHTNESS: 1.2}),
    ("contrast", {Parameter.JITTER: 1, Parameter.CONTRAST: 1.2}),
    ("saturation", {Parameter.JITTER: 1, Parameter.SATURATION: 1.2}),
    ("hue", {Parameter.JITTER: 1, Parameter.HUE: 0.05}),
    ("grayscale", {Parameter.GRAYSCALE: 1}),
    *((f"blur, sigma {sigma}", {Parameter.BLUR: sigma}) for sigma in (0.2, 0.5, 1.0, 1.5, 2.0)),
)


def photo(width: int, height: int, seed: int, quality: int = 85) -> bytes:
    """Return a JPEG whose amplitudes fall with frequency as those of natural images do (Field 1987)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height)) ** 1.1
    planes = []
    for _ in range(3):
        spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
        planes.append(np.fft.irfft2(spectrum, (height, width)))
    colours = np.stack(planes, axis=-1) @ np.array([[1, 0.9, 0.8], [0.3, 0, -0.3], [-0.1, 0.2, -0.1]])
    colours = (colours - colours.mean()) / colours.std() * 55 + 118
    image = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class Photos(Source):
    """JPEGs in memory, with captions."""

    name, note, block = "photos", "", 1

    def __init__(self, width: int, height: int, count: int) -> None:
        lines = Path(__file__).with_name("captions.txt").read_text(encoding="utf-8").splitlines()
        self.images = [photo(width, height, seed) for seed in range(count)]
        self.captions = random.Random(0).choices(lines, k=count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        return Record(self.images[index], (self.captions[index],), str(index), self.name)


class Blur:
    """The reference's Gaussian blur: Pillow's, of a radius drawn anew."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def reference_side(photos: Photos, count: int) -> Callable[[], None]:
    """Return a function that prepares `count` samples as the reference implementation's data set does."""
    normalise = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    plain = transforms.Compose([transforms.RandomResizedCrop(224, scale=(0.5, 1.0)), *normalise])
    augmented = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.08, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([Blur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            *normalise,
        ]
    )
    tokenizer = open_clip_tokenizer()._tokenizer
    start = iter(range(10**9))

    def run() -> None:
        samples = []
        for _ in range(count):
            record = photos[next(start) % len(photos)]
            assert isinstance(record.image, bytes)
            image = Image.open(io.BytesIO(record.image)).convert("RGB")
            views = [plain(image), augmented(image), augmented(image)]
            tokenizer.cache.clear()
            samples.append((*views, tokenizer(record.captions[0])[0]))
        torch.utils.data.default_collate(samples)

    return run


def our_side(photos: Photos, count: int, decoder: str, *, everything: bool) -> Callable[[], None]:
    """Return a function that builds a batch of `count`; everything: with colours, blur and flips on the CPU."""
    builder = Builder(
        Data(photos), (IMAGE, *SSL_VIEWS), ViewsConfig(), Tokenizer(), count, 0, decoder=decoder
    )
    start = iter(range(0, 10**9, count))

    def run() -> None:
        built = builder.build(next(start))
        if everything:
            for name, view in built["views"].items():
                augment(view, built["parameters"][name], IMAGENET_MEAN, IMAGENET_STD)

    return run


def timed(run: Callable[[], object]) -> float:
    """Seconds of one core that a run takes: other programs that share the machine do not count, though they disturb."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def operations(rounds: int, batch: int) -> None:
    """Print what each operation costs, with the normalisation that every view goes through."""
    views = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
    print("| operation, with normalisation | ms a view |")
    print("|---|--:|")
    for name, changes in OPERATIONS:
        rows = torch.tensor(UNCHANGED, dtype=torch.float32).repeat(batch, 1)
        for column, value in changes.items():
            rows[:, column] = value
        least = min(timed(lambda: augment(views, rows, IMAGENET_MEAN, IMAGENET_STD)) for _ in range(rounds))  # noqa: B023
        print(f"| {name} | {1000 * least / batch:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32, help="samples in a round")
    parser.add_argument("--decoder", choices=DECODERS, default="auto", help="ours; the reference uses Pillow")
    parser.add_argument(
        "--operations", action="store_true", help="what each operation of ours costs, no more"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one thread, load average {os.getloadavg()[0]:.1f} at the start\n")
    if options.operations:
        return operations(options.rounds, options.batch)
    print("| pictures | side | samples/s | against the reference |")
    print("|---|---|--:|--:|")
    for width, height in SIZES:
        photos = Photos(width, height, 64)
        sides = {
            "reference": reference_side(photos, options.batch),
            "ours, loader side": our_side(photos, options.batch, options.decoder, everything=False),
            "ours, everything on the CPU": our_side(photos, options.batch, options.decoder, everything=True),
        }
        for run in sides.values():
            run()  # caches
        seconds = [[timed(run) for run in sides.values()] for _ in range(options.rounds)]
        kilobytes = statistics.mean(map(len, photos.images)) / 1000
        for number, name in enumerate(sides):
            speed = options.batch / statistics.median(row[number] for row in seconds)
            ratios = [row[0] / row[number] for row in seconds]
            low, _, high = statistics.quantiles(ratios, n=4)
            against = f"**{statistics.median(ratios):.2f}** ({low:.2f}–{high:.2f})" if number else ""
            print(f"| {width} × {height}, {kilobytes:.0f} kB | {name} | {speed:.0f} | {against} |")


if __name__ == "__main__":
    main()
