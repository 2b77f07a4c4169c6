"""What a training step costs with cheaper self-supervision, in multiples of CLIP's step.

    python benchmarks/cheap.py                                            # arithmetic of two recipes, seconds of one
    python benchmarks/cheap.py --recipes small-data --rounds 11
    python benchmarks/cheap.py --recipes slip-vit-b16-yfcc15m --timed slip-vit-b16-yfcc15m --batch 64 --device cuda

Arithmetic is that of the matrix products and convolutions in forward and backward, of the recipe's own batch, whose
longest caption is the longest of captions.txt. Seconds are those of the training process: colours, blur and flips,
forward, backward, optimiser; what the loader processes do (decoding and cropping, of which less self-supervision
makes less too) is left out. A side with self-supervision on every k-th step counts with the mean of k steps. Sides take
turns (A B C A B C …), ratios are medians over rounds, so that a machine that is busy for a while is busy for all.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openslip import recipes
from openslip.config import Config
from openslip.data.augment import augment
from openslip.data.builder import Builder
from openslip.data.data import Data
from openslip.data.record import Batch, Record, Source
from openslip.data.tokenizer import Tokenizer
from openslip.models import text
from openslip.models.inputs import Inputs
from openslip.objectives import parse
from openslip.training.optimizer import build_optimizer
from openslip.training.parallel import Parallel
from openslip.training.plan import make_plan
from openslip.training.prepare import prepare
from openslip.training.step import backward
from openslip.training.student import build_student, stored_parameters

CAPTIONS = Path(__file__).with_name("captions.txt").read_text(encoding="utf-8").splitlines()


def clip(config: Config) -> Config:
    return replace(config, objective=replace(config.objective, loss="clip"))


def cheaper(
    *, side: float = 1, drop: float = 0, image_drop: float = 0, every: int = 1, share: float = 1
) -> Callable[[Config], Config]:
    """Return what makes a configuration cheaper; side: of the self-supervised views, of the image view's."""

    def change(config: Config) -> Config:
        views, patch = config.views, config.model.image.patch
        low, high = views.ssl.blur_sigma  # in pixels of the view
        ssl = replace(
            views.ssl,
            size=round(side * views.size / patch) * patch,
            drop_tokens=drop,
            blur_sigma=(low, high * side),
        )
        image = replace(views.image, drop_tokens=image_drop)
        return replace(
            config,
            views=replace(views, image=image, ssl=ssl),
            objective=replace(config.objective, ssl_every=every, ssl_share=share),
        )

    return change


VARIANTS: dict[str, Callable[[Config], Config]] = {
    "CLIP": clip,
    "SLIP": cheaper(),
    "half of the SSL tokens dropped": cheaper(drop=0.5),
    "SSL views of 5/8 the side": cheaper(side=0.625),
    "SSL views of half the side": cheaper(side=0.5),
    "— and half of their tokens dropped": cheaper(side=0.5, drop=0.5),
    "SSL on every 2nd step": cheaper(every=2),
    "SSL on half of the rows": cheaper(share=0.5),
    "half the side, every 2nd step": cheaper(side=0.5, every=2),
    "half the side, half of the rows": cheaper(side=0.5, share=0.5),
    "half the side, half of the image view's tokens dropped": cheaper(side=0.5, image_drop=0.5),
    "5/8 the side, half of the image view's tokens dropped": cheaper(side=0.625, image_drop=0.5),
    "all of SLIP's views with half of their tokens": cheaper(drop=0.5, image_drop=0.5),
}


class Photos(Source):
    """Photo-like pictures, smooth colours under fine noise, each with one caption."""

    name = "photos"

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 230, (8, 8, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
        noise = rng.integers(0, 25, coarse.shape, dtype=np.uint8)
        return Record(coarse + noise, (CAPTIONS[index % len(CAPTIONS)],), str(index), self.name)


class Side:
    """A configuration's training step."""

    def __init__(self, config: Config, device: str) -> None:
        self.config, self.loss = config, parse(config.objective)
        self.plan = make_plan(config, self.loss, len(Photos()))
        self.every = config.objective.ssl_every
        self.device = torch.device(device)
        self.student = build_student(config, self.loss).to(device).train()
        self.parallel = Parallel(self.student)

    def arithmetic(self) -> float:
        """Operations of a step, the mean over `every` steps; nothing is computed, only shapes are followed."""
        schedule = self.plan.schedule
        longest = Tokenizer(self.config.model.text.context)(CAPTIONS).shape[1]
        total = 0
        # The text is as long as it is: to look for its end would need values.
        uncut = mock.patch.object(text, "cut", lambda tokens, end: tokens)
        for step in range(self.every):
            with uncut, FakeTensorMode(allow_non_fake_inputs=True):
                views = {}
                for view in self.loss.views:
                    if not (view.scheduled and step):
                        rows = schedule.rows if view.scheduled else schedule.batch
                        side = self.config.views.of(view.kind).size
                        views[view.name] = torch.empty(rows, 3, side, side)
                inputs = Inputs(views, torch.ones(schedule.batch, longest, dtype=torch.long))
                with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                    backward(self.parallel, inputs, self.plan.at(step))
            total += counter.get_total_flops()
            self.student.zero_grad(set_to_none=True)
        return total / self.every

    def prepare(self) -> None:
        """Make the optimiser and the batches that are trained on again and again."""
        config = self.config
        prepare(self.student.model, self.device, self.plan.dtype, config.training)
        self.optimizer = build_optimizer(stored_parameters(self.student), config.optimizer)
        tokenizer = Tokenizer(config.model.text.context)
        size, schedule = config.training.batch, self.plan.schedule
        builder = Builder(
            Data(Photos()), self.loss.views, config.views, tokenizer, size, 0, schedule=schedule
        )
        self.batches = [Batch(**builder.build(step * size)) for step in range(self.every)]

    def seconds(self) -> float:
        """Seconds of a step, the mean over `every` steps."""
        start = time.perf_counter()
        for step, batch in enumerate(self.batches):
            views = {
                name: augment(
                    view.to(self.device),
                    batch.parameters[name],
                    self.config.views.mean,
                    self.config.views.std,
                )
                for name, view in batch.views.items()
            }
            tokens = None if batch.tokens is None else batch.tokens.to(self.device)
            backward(self.parallel, Inputs(views, tokens), self.plan.at(step), dtype=self.plan.dtype)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / self.every


def variants(recipe: str, batch: int) -> dict[str, Config]:
    """Return the configurations to compare: the variants of a recipe, and its fast form if there is one."""
    base = recipes.get(recipe)
    base = replace(base, training=replace(base.training, batch=batch or base.training.batch))
    configs = {name: change(base) for name, change in VARIANTS.items()}
    for fast in {f"{recipe}-fast", recipe.replace("slip-", "slip-fast-")} & recipes.RECIPES.keys() - {recipe}:
        configs[f"`{fast}`"] = replace(recipes.get(fast), training=base.training)
    return configs


def timed(configs: dict[str, Config], rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each side's step, one number a round."""
    sides = {name: Side(config, device) for name, config in configs.items()}
    for side in sides.values():
        side.prepare()
        side.seconds()  # memory, optimiser state
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side.seconds())
    return seconds


def spread(ratios: Iterable[float]) -> str:
    values = list(ratios)
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"**{middle:.2f}** ({low:.2f}–{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--recipes", nargs="+", default=["small-data", "slip-vit-b16-yfcc15m"])
    parser.add_argument(
        "--timed", default="small-data", help="recipe whose seconds are measured too; '' for none"
    )
    parser.add_argument("--batch", type=int, default=0, help="0: the recipe's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads{load}")
    for recipe in options.recipes:
        configs = variants(recipe, options.batch)
        work = {name: Side(config, "cpu").arithmetic() for name, config in configs.items()}
        seconds = timed(configs, options.rounds, options.device) if recipe == options.timed else {}
        first = next(iter(configs))
        print(f"\n{recipe}, batch {configs[first].training.batch:,}; in multiples of CLIP's step\n")
        print("| | arithmetic | seconds |\n|---|--:|--:|")
        for name in configs:
            took = spread(a / b for a, b in zip(seconds[name], seconds[first])) if seconds else ""
            print(f"| {name} | {work[name] / work[first]:.2f} | {took} |")
        middle = f", {statistics.median(seconds[first]):.3f} seconds" if seconds else ""
        print(f"\nCLIP's step: {work[first] / 1e9:,.0f} GFLOP{middle}")


if __name__ == "__main__":
    main()
