"""End-to-end finetuning as an evaluator: the paper's third protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor, nn

from slip.data.fanout import default_processes
from slip.errors import ConfigError, DataError, EvaluationError
from slip.evaluation import Result, note
from slip.evaluation.datasets import Labelled, dataset_name, load_labelled
from slip.evaluation.finetune import state
from slip.evaluation.finetune.data import HEAD, MODEL, Batch, seeded, test_loader, train_loader
from slip.evaluation.finetune.layers import Classifier, build_optimizer, build_schedule
from slip.evaluation.finetune.progress import progress
from slip.evaluation.finetune.recipe import FinetuneRecipe, Preset, recipe_for
from slip.evaluation.metrics import classification
from slip.training.precision import autocast, choose_precision

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from slip.encoder import Encoder


class Finetune:
    """Train a copy of the image tower with a new linear head, all of it, and measure it after the last epoch.

    dataset: a labelled data set as in `slip.evaluation.datasets`, with a train and a test split.
    preset: which recipe (see `recipe_for`); `recipe` gives one outright.
    folder: keeps the state, so that a killed run goes on where its last epoch ended (bit for bit on CPU) and
    a finished one is only measured again. Without it nothing is kept.
    micro_batch: images that go through the tower at a time, to save memory; 0: all of the batch. The step is
    that of the whole batch (but for the statistics of towers with BatchNorm).
    workers: processes that decode and augment; -1: none on a CPU (its cores are busy), up to 8 beside a GPU.
    Results do not depend on it.
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
    ) -> None:
        if seed < 0 or micro_batch < 0:
            raise ConfigError(
                "A seed and a micro-batch are not negative", got=f"seed {seed}, micro_batch {micro_batch}"
            )
        self.dataset, self.recipe = dataset, recipe
        self.preset: Preset = preset
        self.folder = None if folder is None else Path(folder)
        self.seed, self.micro_batch, self.precision, self.workers = seed, micro_batch, precision, workers
        self.splits = train_split, test_split

    @property
    def name(self) -> str:
        """`finetune:` and the data set's short name."""
        return f"finetune:{dataset_name(self.dataset)}"

    def check(self) -> None:
        """Raise DataError on data that cannot be used."""
        self._opened()

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Finetune a copy of the encoder's image tower and return its results; the encoder stays as it is.

        Raises DataError on data that cannot be used, CheckpointError on a folder of another finetuning,
        EvaluationError when the loss is no longer finite.
        """
        train, test = self._opened()
        # A caller may be in inference mode; a tower copied there could not be trained.
        with torch.inference_mode(False), torch.enable_grad():
            return self._run(encoder, train, test)

    def _opened(self) -> tuple[Labelled, Labelled]:
        train, test = (load_labelled(self.dataset, split) for split in self.splits)
        check(train, test)
        return train, test

    def _run(self, encoder: Encoder, train: Labelled, test: Labelled) -> list[Result]:
        with state.alone(self.folder) if self.folder else nullcontext():
            return self._run_alone(encoder, train, test)

    def _run_alone(self, encoder: Encoder, train: Labelled, test: Labelled) -> list[Result]:
        tower, device, views = encoder.model.image_tower, torch.device(encoder.device), encoder.config.views
        recipe = self.recipe or recipe_for(int(cast(int, tower.width)), len(train.images), self.preset)
        batch = min(recipe.batch, len(train.images) // 2 * 2)
        steps = len(train.images) // batch
        with seeded(self.seed, HEAD):
            model = Classifier(tower, len(train.class_names), recipe).to(device)
        optimizer = build_optimizer(model, recipe, batch)
        losses: list[float] = []
        if self.folder:
            state.claim(self.folder, state.describe(tower, train, recipe, views.size, self.seed))
            losses = state.restore(self.folder, model, optimizer)
        trainer = Trainer(model, optimizer, recipe, steps, self.micro_batch, self.precision)
        workers = self.workers if self.workers >= 0 else _auto_workers(device)
        if epochs := range(len(losses), recipe.epochs):
            options = {"batch": batch, "seed": self.seed, "epochs": epochs, "workers": workers}
            self._train(trainer, train_loader(train, recipe, views, **options), losses)
        loader = test_loader(test, recipe, views, batch=self.micro_batch or min(256, batch), workers=workers)
        logits, indices, damaged = trainer.predict(loader)
        about = {"data": test.place, "split": test.split}
        return classification(self.name, logits, test.labels[indices], damaged, **about)

    def _train(self, trainer: Trainer, loader: DataLoader, losses: list[float]) -> None:
        """Train the epochs that `losses` does not hold yet, adding theirs, and save the state after each."""
        epochs, steps = trainer.recipe.epochs, trainer.steps
        batches = iter(loader)
        with progress(self.name, epochs * steps, len(losses) * steps) as report:
            for epoch in range(len(losses), epochs):
                with seeded(self.seed, MODEL, epoch, device=trainer.device):
                    losses.append(trainer.epoch(epoch, batches, report))
                if self.folder:
                    state.save(self.folder, trainer.model, trainer.optimizer, (epoch + 1) * steps, losses)
        if trainer.damaged:
            note(f"{self.name}: {len(trainer.damaged)} damaged training images were left out")


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
    labels = np.concatenate([np.asarray(train.labels), np.asarray(test.labels)])
    if labels.min() < 0 or labels.max() >= len(train.class_names):
        raise DataError(
            f"{train.name} has labels without a class name",
            got=f"labels {labels.min()} to {labels.max()}, {len(train.class_names)} class names",
        )


class Trainer:
    """One finetuning's moving parts."""

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
        """Train on the next `steps` batches, telling `report` each loss; return their mean.

        Raises EvaluationError when it is not finite, DataError when no image could be read.
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
                "Finetuning diverged: the loss is no longer finite",
                got=f"epoch {epoch + 1}",
                fix="Lower the recipe's lr, or set its clip_grad to 1; the last epoch's state is intact",
            )
        return mean

    def step(self, batch: Batch) -> Tensor:
        """One optimiser step; return the batch's loss, detached."""
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
        """Mixup and cutmix by groups; → images (N, 3, S, S) and soft targets (N, classes)."""
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        group = self.recipe.mix_group
        mixed = [self.mixup(i, l) for i, l in zip(images.split(group), labels.split(group))]
        return torch.cat([i for i, _ in mixed]), torch.cat([t for _, t in mixed])

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> tuple[np.ndarray, np.ndarray, int]:
        """Return logits (N, classes), the N images' indices, and how many images were damaged."""
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
            cause=f"Most often memory ran out ({str(error).splitlines()[0]})",
            fix="Use fewer workers, or workers=0",
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
