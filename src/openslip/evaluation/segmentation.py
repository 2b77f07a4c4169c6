"""Linear segmentation: the class of each pixel, by one linear layer on frozen patch features, upsampled.

The setting is that of DINOv2 (Oquab et al. 2023, section 7.4, "linear") at small scale. Patch features are standardised
by the training pictures' mean and standard deviation. A linear layer gives logits for each patch, which are upsampled
to the size of the view (bilinear). The loss is cross-entropy over all pixels except those labelled 255. Pictures and
masks are prepared as the model takes pictures. Nothing is augmented, so features are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.data.masks import IGNORED
from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import Result, fingerprint, settings
from openslip.evaluation.dense import BATCH, OnMasks, areas, labelled, results, through, upsampled
from openslip.models.dense import check_patches, patch_features

if TYPE_CHECKING:
    from openslip.encoder import Encoder

STEPS = 1000
"""The fewest steps of the linear layer's training; more if these steps would be fewer than EPOCHS epochs."""
EPOCHS = 20
TRAIN_BATCH = 16
"""Pictures a step."""
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class Segmentation(OnMasks):
    """mean_iou and pixel_accuracy of a linear layer on patch features.

    The layer is trained on the train split and measured on the test split, or on val if there is no test split. steps:
    steps of the layer's training; 0: STEPS, or EPOCHS over the pictures, whichever is more.
    """

    dataset: str
    steps: int = 0
    learning_rate: float = LEARNING_RATE
    seed: int = 0
    batch_size: int = BATCH
    protocol = "segmentation"

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        return {
            "data": self.opened().location,
            "settings": settings(self, "steps", "learning_rate", "seed"),
        }

    def check(self) -> None:
        """Raise DataError without a split to train or to measure on, ConfigError for settings out of range."""
        if self.steps < 0 or not self.learning_rate > 0:
            raise ConfigError(
                "The linear layer takes 0 steps or more, and a learning rate above 0",
                got=f"steps={self.steps}, learning_rate={self.learning_rate}",
            )
        self.keep().require_training()

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a tower without patches, DataError without a train split."""
        data = self.opened()
        data.require_training()
        model, classes = encoder.model, len(data.class_names)
        check_patches(model, embeddings=False)
        features: list[Tensor] = []
        masks: list[Tensor] = []

        def collect(pixels: Tensor, labels: Tensor) -> None:
            features.extend(patch_features(model.image_tower, pixels).float().cpu())
            masks.extend(labels)

        label = f"{data.name} train"
        train = through(encoder, data.splits["train"], collect, self.batch_size, label)
        layer = fit(
            torch.stack([features[number] for number in train.order]),
            torch.stack([masks[number] for number in train.order]),
            classes,
            steps=self.steps,
            learning_rate=self.learning_rate,
            seed=self.seed,
            device=encoder.device,
        )
        features.clear()
        masks.clear()
        found: list[np.ndarray] = []

        def measure(pixels: Tensor, labels: Tensor) -> None:
            logits = layer(patch_features(model.image_tower, pixels).float())
            predicted = labelled(logits, labels.shape[-1]).cpu().numpy()
            found.append(areas(predicted, labels.numpy(), classes))

        test = through(encoder, data.splits[data.test], measure, self.batch_size, f"{data.name} {data.test}")
        content = fingerprint.of_all([train.content(data.class_names), test.content(data.class_names)])
        about = self.about() | {"split": data.test, "content": content}
        return results(self.name, np.concatenate(found), test, **about)


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer on patches with its own standardisation. mean, scale: (D,); weight: (D, K); bias: (K,)."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return the logits (…, K) of features (…, D)."""
        return (features - self.mean) / self.scale @ self.weight + self.bias


def fit(
    features: Tensor,
    masks: Tensor,
    classes: int,
    *,
    steps: int = 0,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LinearLayer:
    """Train the linear layer by AdamW with a cosine schedule to 0.

    Training starts from the best layer without any feature: weights of 0, and a bias that gives each class its share of
    the pixels. features: (N, R, C, D) float32 and masks: (N, S, S) uint8, on the CPU. steps: as in `Segmentation`. The
    order of pictures is a function of the seed alone: each epoch is a permutation, cut into batches of TRAIN_BATCH.

    Raises EvaluationError for features that are not finite, or if no pixel counts.
    """
    if not bool(features.isfinite().all()):
        raise EvaluationError(
            "The model's features of patches are not finite",
            cause="The weights diverged in training, or are damaged",
        )
    if bool((masks == IGNORED).all()):
        raise EvaluationError("There is no pixel to train on", cause="All labels are 255")
    flat = features.flatten(0, 2)
    scale, mean = torch.std_mean(flat.double(), dim=0, correction=0)
    mean, scale = mean.float().to(device), torch.where(scale > 1e-8, scale, 1).float().to(device)
    weight = torch.zeros(features.shape[-1], classes, device=device, requires_grad=True)
    pixels = torch.bincount(masks[masks != IGNORED].flatten(), minlength=classes)
    bias = ((pixels + 1) / (pixels + 1).sum()).log().to(device).requires_grad_()
    layer = LinearLayer(mean, scale, weight, bias)
    batch = min(TRAIN_BATCH, len(features))
    steps = steps or max(STEPS, EPOCHS * len(features) // batch)
    optimizer = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.Generator(np.random.Philox(seed))
    order = np.zeros(0, dtype=np.int64)
    with torch.enable_grad():
        for _ in range(steps):
            if len(order) < batch:
                order = rng.permutation(len(features))
            rows, order = torch.from_numpy(order[:batch]), order[batch:]
            labels = masks[rows].to(device).long()
            logits = upsampled(layer(features[rows].to(device)), labels.shape[-1])
            loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
            optimizer.zero_grad()
            (loss / (labels != IGNORED).sum().clamp(min=1)).backward()
            optimizer.step()
            schedule.step()
    return LinearLayer(mean, scale, weight.detach(), bias.detach())
