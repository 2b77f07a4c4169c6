"""Labelled images on the way to the classifier. Augmentation is a function of (seed, epoch, image)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from openslip.data.order import locate
from openslip.data.workers import start_context
from openslip.errors import DataError
from openslip.evaluation.finetune.recipe import FinetuneRecipe

if TYPE_CHECKING:
    from openslip.config import ViewsConfig
    from openslip.data.labelled import Labelled

IMAGE, MODEL, HEAD = range(3)
"""Streams of randomness: one image's augmentation; an epoch's mixing and stochastic depth; the new head."""


Sample = tuple[int, int, Tensor | str]
"""Index, label and image; or index, -1 and the reason why there is no image."""


class Batch(NamedTuple):
    """images: (N, 3, S, S) float32, normalised; labels, indices: (N,) int64; damaged: other images, index → reason."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    damaged: dict[int, str]


class Samples(Dataset):
    """Images under a transform, addressed by (epoch, index). A damaged image gives the reason in its place."""

    def __init__(self, labelled: Labelled, transform: Any, seed: int) -> None:
        self.labelled, self.transform, self.seed = labelled, transform, seed

    def __getitem__(self, index: tuple[int, int]) -> Sample:
        from openslip.data.decode import decode

        epoch, image_index = index
        try:
            image = Image.fromarray(decode(self.labelled.images[image_index]))
        except DataError as error:
            return image_index, -1, str(error)
        with seeded(self.seed, IMAGE, epoch, image_index):
            return image_index, int(self.labelled.labels[image_index]), self.transform(image)


class Batches(Sampler):
    """Keys of the batches of epochs `first` to `last` - 1. Each epoch has its own order and drops the remainder."""

    def __init__(self, images: int, batch: int, seed: int, first: int, last: int) -> None:
        self.images, self.batch, self.seed, self.first, self.last = images, batch, seed, first, last

    def __len__(self) -> int:
        return (self.last - self.first) * (self.images // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.first, self.last):
            for start in range(0, self.images - self.batch + 1, self.batch):
                positions = range(epoch * self.images + start, epoch * self.images + start + self.batch)
                yield [locate(self.seed, position, self.images) for position in positions]


def train_loader(
    labelled: Labelled,
    recipe: FinetuneRecipe,
    views: ViewsConfig,
    *,
    batch: int,
    seed: int,
    epochs: range,
    workers: int,
) -> DataLoader:
    """Return the batches of `epochs`, augmented by the recipe, with size, mean and deviation of `views`."""
    transform: Any = create_transform(
        views.size,
        is_training=True,
        scale=recipe.scale,
        hflip=recipe.flip,
        color_jitter=None,  # type: ignore[arg-type]
        auto_augment=recipe.rand_augment or None,
        interpolation=recipe.interpolation,
        mean=views.mean,
        std=views.std,
        re_prob=recipe.erasing,
        re_mode="pixel",
    )
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
    batches = Batches(len(labelled.images), batch, seed, epochs.start, epochs.stop)
    return _loader(Samples(labelled, transform, seed), batches, workers)


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep each channel's highest bits, at least one: at full strength timm asks for 0, which Pillow refuses."""
    return ImageOps.posterize(image, min(8, max(1, bits)))


def test_loader(
    labelled: Labelled, recipe: FinetuneRecipe, views: ViewsConfig, *, batch: int, workers: int
) -> DataLoader:
    """Return every image once, in order, prepared by `test_transform`."""
    transform = test_transform(recipe, views)
    keys = [(0, index) for index in range(len(labelled.images))]
    batches = [keys[start : start + batch] for start in range(0, len(keys), batch)]
    return _loader(Samples(labelled, transform, 0), batches, workers)


def test_transform(recipe: FinetuneRecipe, views: ViewsConfig) -> Callable[[Image.Image], Tensor]:
    """Return the transform of a picture to classify, to (3, S, S): resized and centre-cropped by `prepared`."""
    transform: Any = create_transform(views.size, mean=views.mean, std=views.std, **prepared(recipe, views))
    return transform


def prepared(recipe: FinetuneRecipe, views: ViewsConfig) -> dict[str, Any]:
    """Return timm's options for pictures to classify. The crop is the recipe's share of the resized short side. If the
    model squashes pictures to a square, whole pictures are squashed."""
    squash = views.fit == "squash"
    return {
        "interpolation": recipe.interpolation,
        "crop_pct": 1.0 if squash else recipe.crop,
        "crop_mode": "squash" if squash else "center",
    }


def _loader(samples: Samples, batches: Any, workers: int) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=start_context([__name__]) if workers else None,
        generator=torch.Generator(),  # its own generator, which leaves the global one untouched
    )


def collate(samples: list[Sample]) -> Batch:
    """Return a batch of the usable samples, with the damaged samples named."""
    usable = [(index, label, image) for index, label, image in samples if isinstance(image, Tensor)]
    return Batch(
        images=torch.stack([image for _, _, image in usable]) if usable else torch.empty(0),
        labels=torch.tensor([label for _, label, _ in usable], dtype=torch.int64),
        indices=torch.tensor([index for index, _, _ in usable], dtype=torch.int64),
        damaged={index: why for index, _, why in samples if isinstance(why, str)},
    )


@contextmanager
def seeded(*entropy: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators that timm draws from, and restore their state afterwards.

    These are the generators of Python, numpy, torch's CPU, and `device` if it is an accelerator.
    """
    words = [int(word) for word in np.random.SeedSequence(entropy).generate_state(4)]
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(words[2])
    try:
        with nullcontext() if device is None or device.type == "cpu" else _seeded_on(device, words[3]):
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


@contextmanager
def _seeded_on(device: torch.device, seed: int) -> Iterator[None]:
    accelerator = torch.get_device_module(device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kept = accelerator.get_rng_state()
        accelerator.manual_seed(seed)
        try:
            yield
        finally:
            accelerator.set_rng_state(kept)
