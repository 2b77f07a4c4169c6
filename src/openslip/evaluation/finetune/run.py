"""End-to-end finetuning as an evaluator: the paper's third protocol."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor, nn

from openslip.data.labelled import Labelled
from openslip.data.labelled.labelled_set import require_common
from openslip.data.workers import default_processes, reading_threads
from openslip.errors import ConfigError, DataError, EvaluationError, did_you_mean, note
from openslip.evaluation import Result, fingerprint, results
from openslip.evaluation.classification import Samples, classification, softmax
from openslip.evaluation.features import counting, shows_progress
from openslip.evaluation.finetune import state
from openslip.evaluation.finetune.data import HEAD, MODEL, Batch, seeded, test_loader, train_loader
from openslip.evaluation.finetune.layers import Classifier, build_optimizer, build_schedule
from openslip.evaluation.finetune.recipe import PRESETS, FinetuneRecipe, LinearRecipe, Preset, recipe_for
from openslip.evaluation.opened import NOTHING_ASKED, OnLabelled
from openslip.progress import Bar, PlainLines
from openslip.training.precision import autocast, choose_precision

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from openslip.encoder import Encoder

REFRESH = 10
"""Steps between two readings of the loss: each one waits for the device."""


class Finetune(OnLabelled):
    """Train a copy of the whole image tower with a new linear head, and measure it after the last epoch.

    dataset: a labelled data set as in `openslip.data.labelled`, with a train and a test split.
    preset: the name of a recipe (see `recipe_for`); `recipe` gives a recipe itself.
    folder: keeps the state. A killed finetuning then goes on where its last epoch ended (bit for bit on CPU), and a
    finished one is only measured again. If the folder holds the state of another finetuning (other pictures, model,
    recipe or seed), this state is kept beside it, with a digest in the folder's name. Without a folder, or if it
    cannot be written, nothing is kept.
    micro_batch: images that go through the tower at a time, to save memory; 0: the whole batch. The step is
    that of the whole batch (except for the statistics of towers with BatchNorm).
    workers: processes that decode and augment; -1: none on a CPU (its cores are busy), up to 8 beside a GPU.
    Results do not depend on the number of workers.
    """

    def __init__(
        self,
        dataset: str,
        preset: Preset = "auto",
        folder: Path | str | None = None,
        *,
        recipe: FinetuneRecipe | None = None,
        seed: int = 0,
        micro_batch: int = 0,
        precision: Literal["auto", "bf16", "fp32"] = "auto",
        workers: int = -1,
        train_split: str = "train",
        test_split: str = "test",
        columns: Mapping[str, str] = NOTHING_ASKED,
    ) -> None:
        if seed < 0 or micro_batch < 0:
            raise ConfigError(
                "A seed and a micro-batch are 0 or above", got=f"seed {seed}, micro_batch {micro_batch}"
            )
        if preset not in PRESETS:
            raise ConfigError(
                f"There is no finetune preset {preset!r}", fix=did_you_mean(str(preset), PRESETS)
            )
        self.dataset, self.recipe = dataset, recipe
        self.preset: Preset = preset
        self.folder = None if folder is None else Path(folder)
        self.seed, self.micro_batch, self.precision, self.workers = seed, micro_batch, precision, workers
        self.splits = train_split, test_split
        self.columns = columns

    protocol = "finetune"
    dataset: str
    columns: Mapping[str, str]

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        recipe = self.recipe and f"{self.recipe.name} {fingerprint.of_all([repr(self.recipe)])[:8]}"
        given = {
            "preset": (self.preset, "auto"),
            "recipe": (recipe, None),
            "seed": (self.seed, 0),
            "precision": (self.precision, "auto"),
            "train_split": (self.splits[0], "train"),
            "test_split": (self.splits[1], "test"),
        }
        told = ", ".join(f"{name}={value}" for name, (value, usual) in given.items() if value != usual)
        return {"data": self.opened().location, "settings": told}

    def check(self) -> None:
        """Raise DataError for data that cannot be used."""
        self.keep()
        check(*self._splits())

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Finetune a copy of the encoder's image tower and return its results. The encoder stays as it is.

        Raises DataError for data that cannot be used, CheckpointError for a damaged state, ConfigError if another
        process works on the same finetuning, EvaluationError if the loss is no longer finite.
        """
        train, test = self._splits()
        check(train, test)
        # A caller may be in inference mode; a tower copied there could not be trained.
        with torch.inference_mode(False), torch.enable_grad():
            return self._run(encoder, train, test)

    def _splits(self) -> tuple[Labelled, Labelled]:
        data = self.opened()
        return data.split(self.splits[0]), data.split(self.splits[1])

    def recipe_for(self, width: int, images: int) -> FinetuneRecipe:
        """Return the recipe for a tower of feature dimension `width` and `images` training images."""
        return recipe_for(width, images, self.preset)

    def _run(self, encoder: Encoder, train: Labelled, test: Labelled) -> list[Result]:
        tower, views = encoder.model.image_tower, encoder.config.views
        recipe = self.recipe or self.recipe_for(int(cast(int, tower.width)), len(train.images))
        # The state belongs to these pictures, whatever their names. Reading them once costs less than an epoch.
        pictures, digests = self._content(train), self._digests(test)
        tested = fingerprint.of_labelled(digests, test.labels.tolist(), test.class_names)
        description = state.describe(tower, train, pictures, recipe, views, self.seed)
        with state.claimed(self.folder, description, self.name) if self.folder else nullcontext() as kept:
            logits, rows, damaged = self._logits(encoder, train, test, recipe, kept)
            content = fingerprint.of_all([pictures, tested])
            about: dict[str, Any] = self.about() | {"split": test.split, "content": content}
            if kept and kept.writable:
                about["classifier"] = os.path.abspath(kept.folder)
            found = classification(
                self.name,
                logits,
                test.labels[rows],
                damaged,
                probabilities=softmax(logits),
                samples=Samples(rows, tuple(digests[row] for row in rows.tolist()), test.class_names),
                first=self.metric(train),
                **about,
            )
            if kept and kept.writable:
                with suppress(
                    EvaluationError
                ):  # if a file is damaged or the disk full, the caller has the results
                    results.keep(found, kept.folder / results.FILE, outcomes=False)
        return found

    def _content(self, split: Labelled) -> str:
        return fingerprint.of_labelled(self._digests(split), split.labels.tolist(), split.class_names)

    def _digests(self, split: Labelled) -> list[bytes]:
        with counting(len(split), f"reading {split.name} {split.split}") as advance:
            return fingerprint.of_pictures(split, reading_threads(), advance)

    def _logits(
        self,
        encoder: Encoder,
        train: Labelled,
        test: Labelled,
        recipe: FinetuneRecipe,
        kept: state.Kept | None,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Finetune, starting from the kept state. Return logits of the test images, their rows in the split, and the
        number of damaged images."""
        device, views = torch.device(encoder.device), encoder.config.views
        batch = min(recipe.batch, len(train.images) // 2 * 2)
        steps = len(train.images) // batch
        with seeded(self.seed, HEAD):
            model = Classifier(encoder.model.image_tower, len(train.class_names), recipe).to(device)
        optimizer = build_optimizer(model, recipe, batch)
        losses = state.restore(kept.folder, model, optimizer) if kept else []
        if kept and not kept.writable and len(losses) < recipe.epochs:
            note(f"{self.name}: the state in {kept.folder} is read, but nothing can be written there.")
        trainer = Trainer(model, optimizer, recipe, steps, self.micro_batch, self.precision)
        workers = self.workers if self.workers >= 0 else _auto_workers(device)
        if epochs := range(len(losses), recipe.epochs):
            options = {"batch": batch, "seed": self.seed, "epochs": epochs, "workers": workers}
            saved = partial(state.save, kept, encoder.config) if kept and kept.writable else None
            self._train(trainer, train_loader(train, recipe, views, **options), losses, saved)
        loader = test_loader(test, recipe, views, batch=self.micro_batch or min(256, batch), workers=workers)
        logits, indices, damaged = trainer.predict(loader)
        return logits, indices, damaged

    def _train(
        self, trainer: Trainer, loader: DataLoader, losses: list[float], save: Callable[..., None] | None
    ) -> None:
        """Train the epochs that `losses` does not hold yet, and add their losses. `save` the state after each epoch."""
        epochs, steps = trainer.recipe.epochs, trainer.steps
        batches = iter(loader)
        with progress(self.name, epochs * steps, len(losses) * steps) as report:
            for epoch in range(len(losses), epochs):
                with seeded(self.seed, MODEL, epoch, device=trainer.device):
                    losses.append(trainer.epoch(epoch, batches, report))
                if save:
                    save(trainer.model, trainer.optimizer, (epoch + 1) * steps, losses)
        if trainer.damaged:
            note(f"{self.name}: {len(trainer.damaged)} damaged training images were left out")


class LinearBySgd(Finetune):
    """The paper's linear protocol: the tower is frozen, and a linear layer on its feature is trained by SGD.

    Pictures go through the same pipeline as in finetuning, cropped and flipped anew in each epoch. The state is kept in
    the same way, and its classifier is read like a finetuned classifier. Options are those of `Finetune`; recipe: see
    `LinearRecipe`.
    """

    protocol = "linear"

    def __init__(self, dataset: str, folder: Path | str | None = None, **options: Any) -> None:
        super().__init__(dataset, "paper", folder, **options)

    def recipe_for(self, width: int, images: int) -> FinetuneRecipe:
        """Return the same recipe for any tower and any number of images."""
        return LinearRecipe()


@contextmanager
def progress(name: str, steps: int, done: int) -> Iterator[Callable[[Tensor, int], None]]:
    """Show the progress of a finetuning. Yield a function to call after each step with its loss and epoch.

    Without a terminal, a line is printed now and then if the session shows progress, else nothing.
    """
    with Bar(name, steps, done=done) as bar:
        lines = PlainLines(bar.console)
        lines.wait()

        def report(loss: Tensor, epoch: int) -> None:
            nonlocal done
            done += 1
            if bar.live and (done % REFRESH == 0 or done == steps):
                bar.update(done=done, numbers=f"epoch {epoch + 1}  loss {float(loss):.3f}")
            elif shows_progress():
                lines.print(f"{name}: step {done:,} of {steps:,}, epoch {epoch + 1}")

        yield report


def check(train: Labelled, test: Labelled) -> None:
    """Raise DataError unless the two splits can train and test one classifier."""
    for split in (train, test):
        if len(split.images) != len(split.labels):
            raise DataError(
                f"{split.name} does not have one label for each image",
                got=f"{len(split.images)} images, {len(split.labels)} labels",
            )
        if len(split.images) == 0:
            raise DataError(f"{split.name} has no images", fix="Finetuning takes a train and a test split")
    if tuple(train.class_names) != tuple(test.class_names):
        raise DataError(
            f"The train and test split of {train.name} have different classes",
            got=f"{len(train.class_names)} and {len(test.class_names)} classes; "
            f"in one only: {sorted(set(train.class_names) ^ set(test.class_names))[:5]}",
            fix="Give both splits the same class folders or class names, in the same order",
        )
    if len(np.unique(train.labels)) < 2:
        raise DataError(
            f"The training images of {train.name} are all of one class",
            got=[train.class_names[i] for i in np.unique(train.labels)],
            fix="A classifier needs at least two classes: check the folder's layout and the split",
        )
    require_common(train, test)
    labels = np.concatenate([np.asarray(train.labels), np.asarray(test.labels)])
    if labels.min() < 0 or labels.max() >= len(train.class_names):
        raise DataError(
            f"{train.name} has labels without a class name",
            got=f"labels {labels.min()} to {labels.max()}, {len(train.class_names)} class names",
        )


class Trainer:
    """The training loop of one finetuning: model, optimiser, schedule, mixing and loss."""

    def __init__(
        self,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        recipe: FinetuneRecipe,
        steps: int,
        micro_batch: int,
        precision: str,
    ) -> None:
        self.model, self.optimizer, self.recipe, self.steps, self.micro_batch = (
            model,
            optimizer,
            recipe,
            steps,
            micro_batch,
        )
        self.schedule = build_schedule(optimizer, recipe, steps)
        self.criterion = SoftTargetCrossEntropy()
        self.mixup = Mixup(
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            prob=recipe.mix_probability if recipe.mixup or recipe.cutmix else 0.0,
            label_smoothing=recipe.label_smoothing,
            num_classes=model.head.out_features,
        )
        self.device = next(model.parameters()).device
        self.dtype = choose_precision(precision, self.device)
        self.damaged: dict[int, str] = {}

    def epoch(self, epoch: int, batches: Iterator[Batch], report: Callable[[Tensor, int], None]) -> float:
        """Train on the next `steps` batches, and call `report` with each loss. Return the mean loss.

        Raises EvaluationError if the mean is not finite, DataError if no image could be read.
        """
        self.model.train()
        total, used = torch.zeros((), device=self.device), 0
        for i in range(self.steps):
            batch = _next(batches)
            self.damaged.update(batch.damaged)
            self.schedule.step_update(epoch * self.steps + i)
            loss = self.step(batch)
            total += loss
            used += len(batch.labels)
            report(loss, epoch)
        _need(used, "training", self.damaged)
        mean = float(total) / self.steps
        if not math.isfinite(mean):
            raise EvaluationError(
                "Training the classifier diverged: the loss is no longer finite",
                got=f"epoch {epoch + 1}",
                fix="In Python, give a recipe with a lower lr"
                if self.recipe.frozen
                else "Pass --preset small-data, which clips gradients; or in Python, give a recipe with a lower lr. "
                "The last epoch's state is intact",
            )
        return mean

    def step(self, batch: Batch) -> Tensor:
        """Make one optimiser step. Return the batch's loss, detached."""
        even = len(batch.labels) // 2 * 2  # mixing works on pairs, and damaged images leave gaps
        if not even:
            return torch.zeros((), device=self.device)
        images, targets = self._mix(batch.images[:even], batch.labels[:even])
        self.optimizer.zero_grad(set_to_none=True)
        size = self.micro_batch or even
        total = torch.zeros((), device=self.device)
        for part, target in zip(images.split(size), targets.split(size)):
            with autocast(self.device, self.dtype):
                logits = self.model(part)
            loss = self.criterion(logits, target) * (len(part) / even)
            loss.backward()
            total += loss.detach()
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        return total

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Apply mixup and cutmix by groups. Return images (N, 3, S, S) and soft targets (N, classes)."""
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        group = self.recipe.mix_group
        mixed = [self.mixup(i, l) for i, l in zip(images.split(group), labels.split(group))]
        return torch.cat([i for i, _ in mixed]), torch.cat([t for _, t in mixed])

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> tuple[np.ndarray, np.ndarray, int]:
        """Return logits (N, classes), the indices of the N images, and the number of damaged images."""
        self.model.eval()
        logits, indices, damaged = [], [], {}
        for batch in loader:
            damaged.update(batch.damaged)
            if len(batch.indices):
                with autocast(self.device, self.dtype):
                    logits.append(self.model(batch.images.to(self.device)).cpu())
                indices.append(batch.indices)
        _need(len(logits), "test", damaged)
        return torch.cat(logits).numpy(), torch.cat(indices).numpy(), len(damaged)


def _next(batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "A process that reads images died",
            cause=f"Most likely, memory ran out ({str(error).splitlines()[0]})",
            fix="Free some memory, then run the same command again; in Python, workers=0 takes the least memory",
        ) from None


def _need(usable: int, split: str, damaged: dict[int, str]) -> None:
    if not usable:
        raise DataError(
            f"None of the {split} images could be used",
            got=f"{len(damaged)} images",
            cause=f"The first: {next(iter(damaged.values()), 'nothing was read')}",
        )


def _auto_workers(device: torch.device) -> int:
    if device.type == "cpu":
        return 0
    return min(8, default_processes())
