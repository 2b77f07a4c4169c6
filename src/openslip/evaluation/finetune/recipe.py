"""The recipes of end-to-end finetuning, as a frozen dataclass: the paper's recipe, and one for small data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from openslip.errors import ConfigError, did_you_mean

Preset = Literal["paper", "small-data", "auto"]
PRESETS = ("paper", "small-data", "auto")


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """BEiT's finetuning recipe as SLIP used it. The defaults are those of ViT-B/16 (SLIP paper, appendix)."""

    frozen: ClassVar[bool] = False
    """Whether the tower is frozen, so that only the head is trained."""
    name: str = "paper"
    epochs: int = 100
    warmup_epochs: int = 20
    """Epochs of linear warm-up from 0; a cosine down to `lr_end` follows, both per step."""
    batch: int = 1024
    """Images in one optimiser step; even, because mixing works on pairs. At most as many as the data set has."""
    lr: float = 4e-3
    """Learning rate of the head at a batch of 1024; scaled linearly with the batch."""
    lr_end: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    """Biases, norms, the class token and position embeddings have no weight decay."""
    layer_decay: float = 0.65
    """Each layer's learning rate is this share of the next layer's, counted down from the head."""
    drop_path: float = 0.1
    """Stochastic depth rate of the last block; the rate grows linearly from 0 in the first block."""
    clip_grad: float = 0.0
    """Largest gradient norm; 0 for no clipping."""
    head_scale: float = 0.001
    """The new head starts at this share of its usual initialisation, so that first gradients are not large."""
    label_smoothing: float = 0.1
    mixup: float = 0.8
    """Alpha of mixup's Beta distribution; 0: off."""
    cutmix: float = 1.0
    """Alpha of cutmix's Beta distribution; 0: off."""
    mix_probability: float = 1.0
    mix_group: int = 128
    """Images that share one draw of mixup or cutmix (the reference's batch on one GPU); even."""
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's notation; empty: off."""
    erasing: float = 0.25
    """Probability of random erasing (with noise)."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the training crop's share of the image area."""
    flip: float = 0.5
    """Probability of a horizontal flip. Use 0 if left and right tell classes apart."""
    interpolation: str = "bicubic"
    crop: float = 224 / 256
    """Share of the resized short side that the centre crop keeps when testing."""

    def __post_init__(self) -> None:
        for key in ("batch", "mix_group"):
            if (value := getattr(self, key)) < 2 or value % 2:
                raise ConfigError(f"The finetune recipe's '{key}' must be even and at least 2", got=value)
        for key in ("epochs", "lr", "layer_decay", "crop", "head_scale"):
            if (value := getattr(self, key)) <= 0:
                raise ConfigError(f"The finetune recipe's '{key}' must be greater than 0", got=value)
        for key in (
            "layer_decay",
            "crop",
            "drop_path",
            "label_smoothing",
            "mix_probability",
            "erasing",
            "flip",
        ):
            if not 0 <= (value := getattr(self, key)) <= 1:
                raise ConfigError(f"The finetune recipe's '{key}' must lie between 0 and 1", got=value)


@dataclass(frozen=True, kw_only=True)
class LinearRecipe(FinetuneRecipe):
    """SLIP's linear protocol, which is MoCo v3's: one linear layer on a frozen tower, by SGD with momentum 0.9.

    The learning rate is 0.1 at a total batch of 256, scaled linearly with the batch. A cosine brings it to 0, and
    changes once an epoch. The only augmentations are crop and flip. The paper does not name its batch; with few
    pictures, a smaller batch makes more steps.
    """

    frozen: ClassVar[bool] = True
    name: str = "linear"
    epochs: int = 90
    warmup_epochs: int = 0
    batch: int = 256
    lr: float = 0.1
    """At a batch of 256."""
    lr_end: float = 0.0
    betas: tuple[float, float] = (0.9, 0.0)
    """The first is the momentum."""
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    drop_path: float = 0.0
    head_scale: float = 0.5
    """The head starts with a deviation of 0.01: this share of the 0.02 of a finetuned head."""
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 0.0
    rand_augment: str = ""
    erasing: float = 0.0
    interpolation: str = "bilinear"


def recipe_for(width: int, images: int, preset: Preset = "auto") -> FinetuneRecipe:
    """Return the recipe for an image tower of feature dimension `width` and `images` training images.

    `paper`: SLIP's recipe by model size (ViT-S below width 768, ViT-L from 1024 on, ViT-B between). `small-data`:
    fewer epochs, smaller batches and milder augmentation, for thousands of images and small towers; the number of
    epochs depends on `images`. `auto`: `paper` from 50,000 images and width 384 on, else `small-data`.
    Raises ConfigError for an unknown preset.
    """
    if preset not in PRESETS:
        raise ConfigError(f"There is no finetune preset {preset!r}", fix=did_you_mean(str(preset), PRESETS))
    if preset == "paper" or (preset == "auto" and images >= 50_000 and width >= 384):
        return _paper(width)
    return _small_data(width, images)


def _paper(width: int) -> FinetuneRecipe:
    if width >= 1024:
        return FinetuneRecipe(epochs=50, warmup_epochs=5, layer_decay=0.75)
    return FinetuneRecipe(drop_path=0.1 if width >= 768 else 0.0)


def _small_data(width: int, images: int) -> FinetuneRecipe:
    # About 150,000 images seen, and at least some 15 steps an epoch however few images there are.
    epochs = min(50, max(10, round(150_000 / max(1, images))))
    return FinetuneRecipe(
        name="small-data",
        epochs=epochs,
        warmup_epochs=max(1, epochs // 10),
        batch=min(64, max(8, images // 32 * 2)),
        layer_decay=0.75,
        drop_path=0.1 if width >= 768 else 0.0,
        clip_grad=1.0,
        mixup=0.2,
        mix_probability=0.5,
        rand_augment="rand-m5-mstd0.5-inc1",
        erasing=0.0,
        scale=(0.35, 1.0),
        crop=1.0,
    )
