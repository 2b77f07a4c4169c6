"""The one typed configuration of a run: frozen dataclasses, one per section.

The defaults are the paper's SLIP ViT-S/16 recipe; `openslip.recipes` holds the named complete ones,
`openslip.toml` reads and writes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from typing_extensions import Doc

from openslip.errors import ConfigError, did_you_mean
from openslip.ranges import ABOVE_0, BELOW_1, FROM_0, FROM_1, SHARE, Range

SOURCES = (
    "tar shards (.tar; also a pattern or a URL), a table (.csv, .tsv, .txt, .jsonl, .xlsx, .parquet), COCO or RedCaps "
    "captions (.json), Conceptual Captions (.npy), YFCC metadata (.pkl), a folder of images, a data set of the hub "
    "(hf:owner/name), labelled images (labels: and a folder of one folder a class, or a table), or `scenes`"
)
"""What a source of pictures and captions can be, for help and messages."""
A_BILLION = 1e9
OR_CHOSEN = Range("at least 0, or -1 for a good choice", -1)
OR_NEVER = Range("at least 0, which is never", 0)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def as_typed(value: object) -> str:
    """Return a value as one types it after its option: `0.5 0.5 0.5`, `bicubic`."""
    return " ".join(f"{number:.6g}" for number in value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pictures and captions come from."""

    train: Annotated[
        str,
        Doc(f"Training source: {SOURCES}. Several, each with a weight if it is not 1: `A + 0.5 * B`."),
    ] = ""
    ssl: str = ""
    """Where the pictures of the self-supervised views come from; captions are not needed. Empty: those of `train`."""
    val: str = ""
    """What retrieval is measured on during and after training: a captioned source, or a share of `train` that is held
    out, `10%`. Records with an equal caption, and equal or near pictures, stay on one side. Of labelled images
    (`labels:…`) zero-shot classification is measured instead. Empty: nothing."""
    image_root: str = ""
    """Folder that image paths in a table or COCO file are relative to; empty: guessed from the file's own place."""
    image_column: str = ""
    """Column of a table that holds the image path, or the ending of the images in tar shards; empty: guessed."""
    caption_column: str = ""
    """Column of a table that holds the caption, or the ending or `.json` key of those in tar shards; empty: guessed."""
    label_column: str = ""
    """Labelled images: column of a table that holds the class, or the ending or key of it in tar shards; empty:
    guessed."""
    templates: str = ""
    """Labelled images: what captions are made of. A file with a JSON list of templates, or one a line, with `{}` for
    the class; or `default`, `cifar`, `caltech101` or `imagenet`. Empty: what zero-shot classification asks with."""
    class_names: str = ""
    """Labelled images: a JSON file with the names of the classes, a list or by label or folder; empty: as they come."""
    drop_words: Annotated[float, BELOW_1] = 0.0
    """Share of a caption's words that is left out in training, drawn anew in every epoch; one word always stays. For
    long captions and few of them, which a model would learn by heart. Words are what white space parts."""
    leave_broken: bool = False
    """Leave out tar shards that cannot be read to their end, instead of refusing to begin; which they are is said."""
    decoder: Literal["auto", "pillow", "simplejpeg", "torchcodec"] = "auto"
    """What decodes plain JPEGs; auto: simplejpeg."""
    augment: Literal["device", "loader"] = "device"
    """Where colours, blur and flips are computed: on the training device, in floats; or in the loader processes, in
    whole grey levels, which leaves more of a busy device to the model."""
    workers: Annotated[int, OR_CHOSEN] = -1
    """Loader processes; 0 loads in the main process, -1 chooses from the number of cores."""
    prefetch: Annotated[int, OR_CHOSEN] = -1
    """Batches that the loader processes keep ready in all; -1: as many as are of use and fit into the memory that is
    free. They differ in memory and waiting alone."""
    max_skipped: Annotated[float, SHARE] = 0.05
    """Training stops when more than this share of the records read could not be used."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How one kind of view is drawn from an image."""

    size: Annotated[int, Range("a number of pixels, or 0 for one that follows from views.size", 0)] = 0
    """Side of these views in training, in pixels; 0: views.size, and for `local` 3/7 of that. A ViT's position
    embeddings are resampled."""
    drop_tokens: Annotated[float, BELOW_1] = 0.0
    """Share of a ViT's patch tokens left out in training, anew for each view (FLIP); 0 keeps all."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Range of the crop's share of the image area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height."""
    flip: Annotated[float, SHARE] = 0.0
    """Probability of a horizontal flip."""
    jitter: Annotated[tuple[float, float, float, float], FROM_0] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue jitter."""
    jitter_probability: Annotated[float, SHARE] = 0.0
    grayscale: Annotated[float, SHARE] = 0.0
    """Probability of dropping the colour."""
    blur: Annotated[float, SHARE] = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: Annotated[tuple[float, float], ABOVE_0] = (0.1, 2.0)
    """Range of the blur's sigma, in pixels of the view."""


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How the views of each image are drawn, by their kind. Which of them are drawn, the objective says.

    `image` goes with the caption. `ssl` is for self-supervision. `local` is for small crops beside larger ones (Caron
    et al., "Emerging properties in self-supervised vision transformers", 2021); where its size is 0, these have 3/7 of
    views.size, rounded to a multiple of 16 and at least 16: 96 of 224.
    """

    size: Annotated[int, Range("a number of pixels, or 0 for that of the weights that --init names", 0)] = 224
    """Side of the images that the trained model takes, and of every view that has no size of its own; in pixels.
    0: that of the weights that `init` names."""
    image: ViewConfig = ViewConfig()
    ssl: ViewConfig = ViewConfig(scale=(0.08, 1.0), flip=0.5, jitter_probability=0.8, grayscale=0.2, blur=0.5)
    local: ViewConfig = ViewConfig(
        scale=(0.05, 0.4), flip=0.5, jitter_probability=0.8, grayscale=0.2, blur=0.5
    )
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Taken from the levels (0 to 1) of red, green and blue; of a model that `init` names, what its weights expect."""
    std: Annotated[tuple[float, float, float], ABOVE_0] = IMAGENET_STD
    """What they are then divided by; likewise."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pictures are resized; likewise."""
    fit: Literal["crop", "squash"] = "crop"
    """How a whole picture becomes a square: cropped at its middle, or squashed; likewise."""

    @property
    def kinds(self) -> dict[str, ViewConfig]:
        """How views of each kind are drawn, by the name of the kind; sizes as they are configured."""
        return {"image": self.image, "ssl": self.ssl, "local": self.local}

    def of(self, kind: str, size: int = 0) -> ViewConfig:
        """Return how views of a kind are drawn, their size filled in.

        size: pixels a side in the place of the kind's own, 0 for that; the blur, which is in pixels, grows with it.
        Raises ConfigError for a kind that is none.
        """
        if kind not in self.kinds:
            raise ConfigError("There is no such kind of view", got=kind, fix=did_you_mean(kind, self.kinds))
        config = self.kinds[kind]
        usual = max(16, 16 * round(self.size * 3 / 7 / 16)) if kind == "local" else self.size
        own = config.size or usual
        low, high = config.blur_sigma
        blur = (low * size / own, high * size / own) if size else config.blur_sigma
        return replace(config, size=size or own, blur_sigma=blur)


Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
FOR_TRAINING = frozenset({"batchnorm", "drop_path", "freeze", "lora"})
"""Fields of a tower that say how it trains, and not what it computes afterwards."""


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig:
    """`vit` is timm's VisionTransformer in the size given here; any other name is a timm model as timm defines it."""

    name: str = "vit"
    patch: Annotated[int, FROM_1] = 16
    width: Annotated[int, FROM_1] = 384
    depth: Annotated[int, FROM_1] = 12
    heads: Annotated[int, FROM_1] = 12
    mlp: Annotated[int, FROM_0] = 0
    """Hidden width of a block's MLP; 0: four times the width."""
    activation: Activation = "gelu"
    pool: Literal["token", "mean", "attention"] = "token"
    """What the feature of a `vit` is: the class token, the mean of the patch tokens, or what a query attends to of them
    (Zhai et al. 2022, "Scaling vision transformers", as in SigLIP)."""
    class_tokens: Annotated[int, Range("0 or 1", 0, 1)] = 1
    """How many class tokens stand before the patch tokens of a `vit`."""
    pre_norm: bool = False
    """A norm before the first block, and patches without a bias, as in CLIP."""
    norm_eps: Annotated[float, ABOVE_0] = 1e-6
    unprojected: bool = False
    """Without a matrix from the feature to the space shared with texts: the feature is the embedding, as in SigLIP."""
    projection_bias: bool = False
    """Whether that matrix has a bias, as in CLIP's ResNets."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Stochastic depth rate of the last block; earlier blocks less, linearly."""
    freeze: str = "none"
    """What of the tower stays as it is: `all`, `none`, or the first N blocks with all that comes before them; -N: all
    but the last N blocks, and the last norm."""
    batchnorm: Literal["batch", "kept"] = "batch"
    """What BatchNorm normalises by in training: the statistics of the batch, or the running ones, which are kept as
    `init` brings them. Of no effect on towers without BatchNorm."""
    lora: Annotated[int, Range("a rank, or 0 for none", 0)] = 0
    """Rank of low-rank adapters (LoRA; Hu et al. 2022) that are trained in place of the tower, with an alpha of twice
    that; 0: none. Needs the extra `lora`."""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """CLIP's causal transformer, and the variants of it that public models have."""

    width: Annotated[int, FROM_1] = 512
    depth: Annotated[int, FROM_1] = 12
    heads: Annotated[int, FROM_1] = 8
    mlp: Annotated[int, FROM_0] = 0
    """Hidden width of a block's MLP; 0: four times the width."""
    activation: Activation = "quick_gelu"
    context: Annotated[int, Range("at least 3: start, a token, end", 3)] = 77
    """Longest caption in tokens, start and end included."""
    truncation: Literal["keep-end", "reference"] = "keep-end"
    """Over-long captions keep their end-of-text token, or lose it as in the reference implementation."""
    vocabulary: Annotated[int, FROM_1] = 49_408
    """How many tokens there are."""
    tokenizer: Annotated[int, FROM_0] = 0
    """Bytes of the tokenizer that the weights bring with them; 0: CLIP's tokenizer."""
    bidirectional: bool = False
    """Every token sees all others; else those before it alone."""
    pool: Literal["end", "last"] = "end"
    """Which token is the feature: that at the end of the text, or the last one of a text filled up to `context`."""
    norm_eps: Annotated[float, ABOVE_0] = 1e-5
    projection_bias: bool = False
    """Whether the projection to the space shared with images has a bias."""
    freeze: str = "none"
    """As for the image tower; the embeddings of tokens and positions come before the first block."""
    lora: Annotated[int, Range("a rank, or 0 for none", 0)] = 0
    """As for the image tower."""

    @property
    def padded(self) -> bool:
        """Whether a text's feature depends on the padding after it, so that all texts are filled up to `context`."""
        return self.bidirectional or self.pool == "last"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The towers and heads; which of them exist follows from the objective."""

    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    embed_dim: Annotated[int, FROM_1] = 512
    """Dimension of the space that image and text share."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised."""

    loss: str = "clip + 1.0 * simclr"
    """Weighted sum of objectives."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """Options of the loss's terms by the term's name, as far as they are set; the section `objective.NAME` of a file.
    What options there are, each objective's own `Config` says."""
    ssl_every: Annotated[int, FROM_1] = 1
    """Self-supervised views are drawn on every k-th step, the first one among them; their weight stays as it is."""
    ssl_from: Annotated[float, BELOW_1] = 0.0
    """Self-supervision begins after this share of the run's steps; 0.8 leaves it the last fifth. 0: from the start."""
    ssl_share: Annotated[float, Range("above 0 and up to 1", math.nextafter(0, 1), 1)] = 1.0
    """Share of a batch's rows that self-supervised views are drawn of; they are contrasted among themselves."""

    @property
    def ssl_steps(self) -> float:
        """Share of a run's steps that have self-supervised views."""
        return (1 - self.ssl_from) / self.ssl_every


@dataclass(frozen=True, kw_only=True)
class TowerRateConfig:
    """How fast a tower learns, beside the rest of the model."""

    lr: Annotated[float, OR_CHOSEN] = -1.0
    """Learning rate of the tower, with the schedule of the others; -1: that of the others."""
    layer_decay: Annotated[float, Range("above 0 and up to 1", math.nextafter(0, 1), 1)] = 1.0
    """Factor on the learning rate from each block to the one before it; 1: all learn alike."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, linear warm-up, cosine per step."""

    lr: Annotated[float, FROM_0] = 3e-3
    weight_decay: Annotated[float, FROM_0] = 0.1
    betas: Annotated[tuple[float, float], BELOW_1] = (0.9, 0.98)
    eps: Annotated[float, FROM_0] = 1e-8
    warmup_epochs: Annotated[float, Range("from 0 to a billion", 0, A_BILLION)] = 1.0
    lr_start: Annotated[float, FROM_0] = 1e-6
    lr_end: Annotated[float, FROM_0] = 1e-5
    clip_grad: Annotated[float, Range("at least 0, which is no clipping", 0)] = 0.0
    """Largest gradient norm; 0 for no clipping."""
    image: TowerRateConfig = TowerRateConfig()
    text: TowerRateConfig = TowerRateConfig()
    fresh_lr: Annotated[float, OR_CHOSEN] = -1.0
    """Learning rate of those weights that `init` has not brought, with the schedule of the others; -1: that of the
    others."""
    fresh_epochs: Annotated[float, Range("from 0 to a billion", 0, A_BILLION)] = 0.0
    """Epochs at the start in which only those weights learn that `init` has not brought; the others warm up after."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on what, and how exactly."""

    epochs: Annotated[float, Range("above 0, and less than a billion", 0, A_BILLION, without_ends=True)] = (
        25.0
    )
    budget: str = ""
    """Train this long instead of `epochs`: a time (`2h`, `90 minutes`), samples (`12M samples`, `500k samples`), epochs
    or steps (`2000 steps`). The schedule ends there; the warm-up keeps its share, `optimizer.warmup_epochs` of
    `epochs`."""
    batch: Annotated[int, Range("at least 2: a contrast needs two samples", 2)] = 4096
    """Image-caption pairs in one optimiser step, of all processes together."""
    micro_batch: Annotated[int, Range("at least 0, which is the whole batch", 0)] = 0
    """Pairs that go through the towers at a time; the step stays the exact one of the whole batch. 0: all.
    Not for image towers with BatchNorm."""
    keep_features: Annotated[int, Range("at least 0, which keeps none", 0)] = 0
    """Outputs of models that do not change (frozen towers, teachers that stay as they are) are computed once, for so
    many epochs of views, and kept in the run folder. After these epochs their views repeat. 0: at every step."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: each has the whole model (ddp), or the towers' weights, gradients and moments are spread
    over them (fsdp)."""
    offload: bool = False
    """fsdp: keep the towers' weights and moments in the CPU's memory."""
    seed: Annotated[int, Range("from 0 to 2^63 - 1", 0, 2**63 - 1)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp8"] = "auto"
    """auto: bf16 where the device has it in hardware, else fp32. fp16 scales the loss and needs a GPU; fp8 needs
    torchao and a GPU that multiplies it."""
    checkpoint_activations: Literal["none", "selective", "full"] = "none"
    """Activations computed again in backward instead of kept, results unchanged. full: everything inside a block;
    selective: all but matrix products and attention, which saves less memory and costs less time."""
    compile: bool = False
    max_nonfinite: Annotated[int, FROM_1] = 5
    """Steps in a row with a non-finite loss after which the run stops."""
    log_every: Annotated[int, FROM_1] = 10
    """Steps between two lines of metrics.jsonl."""
    profile: Annotated[int, Range("at least 0, which is none", 0)] = 0
    """Steps to record for a trace of what they spend their time on, after 5 others; 0: none."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Who is told a run's numbers besides its metrics.jsonl. Each needs the extra of its name."""

    tensorboard: bool = False
    """Event files in the run folder."""
    wandb: str = ""
    """Project at Weights & Biases; empty: none."""
    trackio: str = ""
    """Project of trackio; empty: none."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved, and how much of it is kept."""

    every_steps: Annotated[int, OR_NEVER] = 1000
    """0: never by steps."""
    every_minutes: Annotated[float, OR_NEVER] = 15.0
    """0: never by time."""
    keep: Annotated[int, FROM_1] = 2
    """Latest checkpoints kept, the best one besides."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured while training."""

    every_epochs: Annotated[float, Range("at least 0, which is at the end alone", 0)] = 1.0
    """0: only at the end."""
    tasks: tuple[str, ...] = ()
    """Measurements, each `protocol:dataset`, for example `zeroshot:scenes` or `knn:/data/birds`; `linear:/data/birds
    every 5` is measured every fifth epoch. What is measured on data.val is always among them."""
    best: str = ""
    """Metric that picks the best checkpoint, as in `retrieval:val/text_recall@10`; empty: the first one measured of
    which more is better."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run."""

    name: str = "custom"
    """The recipe this configuration started from."""
    init: str = ""
    """What the weights start from: a run or checkpoint, a released SLIP file or its name, `open_clip:NAME/TAG`,
    `hf:owner/name`, `timm:NAME` (the image tower alone), or a folder or file of these. Empty: random weights."""
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
