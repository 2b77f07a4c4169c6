"""The typed configuration of a run: frozen dataclasses, one per section.

The defaults are the paper's SLIP ViT-S/16 recipe. `openslip.recipes` holds complete configurations by name, and
`openslip.toml` reads and writes configurations.
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
OR_NEVER = Range("at least 0 (0: never)", 0)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def as_typed(value: object) -> str:
    """Return a value as a user types it after its option: `0.5 0.5 0.5`, `bicubic`."""
    return " ".join(f"{number:.6g}" for number in value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pictures and captions come from."""

    train: Annotated[
        str,
        Doc(
            f"Training source: {SOURCES}. Several sources, each with a weight if it is not 1: `A + 0.5 * B`."
        ),
    ] = ""
    ssl: str = ""
    """Source of the images for the self-supervised views, which need no captions. Empty: the source `train`."""
    val: str = ""
    """Held-out data to measure retrieval on, during and after training: a captioned source, or a share of `train` such
    as `10%`. Records with an equal caption, or equal or near pictures, stay on one side. On labelled images
    (`labels:…`) zero-shot classification is measured instead. Empty: no held-out data."""
    image_root: str = ""
    """Folder that image paths in a table or COCO file are relative to; empty: guessed from the file's location."""
    image_column: str = ""
    """Column of a table that holds the image path, or the ending of the images in tar shards; empty: guessed."""
    caption_column: str = ""
    """Column of a table that holds the caption, or the caption's ending or `.json` key in tar shards; empty:
    guessed."""
    label_column: str = ""
    """Labelled images: column of a table that holds the class, or the class's ending or key in tar shards; empty:
    guessed."""
    templates: str = ""
    """Labelled images: templates for captions, with `{}` for the class. A file with a JSON list or one template a
    line; or `default`, `cifar`, `caltech101` or `imagenet`. Empty: the prompts of zero-shot classification."""
    class_names: str = ""
    """Labelled images: a JSON file with the names of the classes: a list, or names by label or folder. Empty: the
    names in the data."""
    drop_words: Annotated[float, BELOW_1] = 0.0
    """Share of a caption's words that training leaves out, drawn anew in every epoch; one word always stays. Useful
    for few, long captions, which a model would learn by heart. White space separates words."""
    leave_broken: bool = False
    """Leave out tar shards that cannot be read to their end, and list them, instead of refusing to begin."""
    decoder: Literal["auto", "pillow", "simplejpeg", "torchcodec"] = "auto"
    """What decodes plain JPEGs; auto: simplejpeg."""
    augment: Literal["device", "loader"] = "device"
    """Where colours, blur and flips are computed. device: on the training device, in floats. loader: in the loader
    processes, in whole grey levels, which leaves more of a busy device to the model."""
    workers: Annotated[int, OR_CHOSEN] = -1
    """Loader processes; 0 loads in the main process, -1 chooses from the number of cores."""
    prefetch: Annotated[int, OR_CHOSEN] = -1
    """Batches that all loader processes together keep ready; -1: as many as are useful and fit into free memory. The
    number changes only memory and waiting time."""
    max_skipped: Annotated[float, SHARE] = 0.05
    """Training stops when more than this share of the records read could not be used."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How one kind of view is drawn from an image."""

    size: Annotated[int, Range("a number of pixels, or 0 for one that follows from views.size", 0)] = 0
    """Side of these views in training, in pixels; 0: views.size, and for `local` 3/7 of views.size. A ViT's position
    embeddings are resampled."""
    drop_tokens: Annotated[float, BELOW_1] = 0.0
    """Share of a ViT's patch tokens that training leaves out, drawn anew for each view (FLIP); 0 keeps all."""
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
    """How each kind of view is drawn from an image. The objective decides which kinds are drawn.

    `image` goes with the caption. `ssl` is for self-supervision. `local` is for small crops beside larger ones (Caron
    et al., "Emerging properties in self-supervised vision transformers", 2021). With size 0, local crops have 3/7 of
    views.size, rounded to a multiple of 16 and at least 16: 96 for 224.
    """

    size: Annotated[int, Range("a number of pixels, or 0 for the size of --init's weights", 0)] = 224
    """Side of the images that the trained model takes, and of every view without a size of its own, in pixels.
    0: the size of the weights that `init` names."""
    image: ViewConfig = ViewConfig()
    ssl: ViewConfig = ViewConfig(scale=(0.08, 1.0), flip=0.5, jitter_probability=0.8, grayscale=0.2, blur=0.5)
    local: ViewConfig = ViewConfig(
        scale=(0.05, 0.4), flip=0.5, jitter_probability=0.8, grayscale=0.2, blur=0.5
    )
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from the levels (0 to 1) of red, green and blue. With `init`: what the weights expect."""
    std: Annotated[tuple[float, float, float], ABOVE_0] = IMAGENET_STD
    """The differences from `mean` are divided by this. With `init`: what the weights expect."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized. With `init`: what the weights expect."""
    fit: Literal["crop", "squash"] = "crop"
    """How a whole image becomes a square: cropped at its middle, or squashed. With `init`: what the weights expect."""

    @property
    def kinds(self) -> dict[str, ViewConfig]:
        """The configuration of each kind of view, by the name of the kind; sizes as configured."""
        return {"image": self.image, "ssl": self.ssl, "local": self.local}

    def of(self, kind: str, size: int = 0) -> ViewConfig:
        """Return the configuration of a kind of view, with its size filled in.

        size: pixels a side that replace the kind's own size, 0 to keep it. The blur, which is in pixels, grows with
        the size. Raises ConfigError for an unknown kind.
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
"""Fields of a tower that change how the tower trains, but not what it computes afterwards."""


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig:
    """`vit` is timm's VisionTransformer with the sizes given here; any other name is a timm model as timm defines
    it."""

    name: str = "vit"
    patch: Annotated[int, FROM_1] = 16
    width: Annotated[int, FROM_1] = 384
    depth: Annotated[int, FROM_1] = 12
    heads: Annotated[int, FROM_1] = 12
    mlp: Annotated[int, FROM_0] = 0
    """Hidden width of a block's MLP; 0: four times the width."""
    activation: Activation = "gelu"
    pool: Literal["token", "mean", "attention"] = "token"
    """Feature of a `vit`: the class token, the mean of the patch tokens, or attention pooling of the patch tokens by a
    query (Zhai et al. 2022, "Scaling vision transformers", as in SigLIP)."""
    class_tokens: Annotated[int, Range("0 or 1", 0, 1)] = 1
    """How many class tokens precede the patch tokens of a `vit`."""
    pre_norm: bool = False
    """A norm before the first block, and a patch embedding without a bias, as in CLIP."""
    norm_eps: Annotated[float, ABOVE_0] = 1e-6
    unprojected: bool = False
    """No projection from the feature to the space shared with texts: the feature is the embedding, as in SigLIP."""
    projection_bias: bool = False
    """Whether the projection has a bias, as in CLIP's ResNets."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Stochastic depth rate of the last block; earlier blocks have linearly lower rates."""
    freeze: str = "none"
    """What is frozen: `all`, `none`, or N for the first N blocks with all that comes before them. -N freezes all but
    the last N blocks and the last norm."""
    batchnorm: Literal["batch", "kept"] = "batch"
    """Statistics by which BatchNorm normalises in training: those of the batch, or the running statistics that `init`
    brings, which stay unchanged. No effect on towers without BatchNorm."""
    lora: Annotated[int, Range("a rank, or 0 for none", 0)] = 0
    """Rank of low-rank adapters (LoRA; Hu et al. 2022), which are trained in place of the tower, with an alpha of twice
    the rank; 0: no adapters. Needs the extra `lora`."""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """CLIP's causal transformer, and its variants in public models."""

    width: Annotated[int, FROM_1] = 512
    depth: Annotated[int, FROM_1] = 12
    heads: Annotated[int, FROM_1] = 8
    mlp: Annotated[int, FROM_0] = 0
    """Hidden width of a block's MLP; 0: four times the width."""
    activation: Activation = "quick_gelu"
    context: Annotated[int, Range("at least 3: start, a token, end", 3)] = 77
    """Longest caption in tokens, start and end included."""
    truncation: Literal["keep-end", "reference"] = "keep-end"
    """Whether an over-long caption keeps its end-of-text token, or loses it as in the reference implementation."""
    vocabulary: Annotated[int, FROM_1] = 49_408
    """How many tokens there are."""
    tokenizer: Annotated[int, FROM_0] = 0
    """Size in bytes of the tokenizer that the weights bring with them; 0: CLIP's tokenizer."""
    bidirectional: bool = False
    """Every token attends to all others, instead of only to the tokens before it."""
    pool: Literal["end", "last"] = "end"
    """Which token is the feature: the end-of-text token, or the last token of a text padded to `context`."""
    norm_eps: Annotated[float, ABOVE_0] = 1e-5
    projection_bias: bool = False
    """Whether the projection to the space shared with images has a bias."""
    freeze: str = "none"
    """As for the image tower; the token and position embeddings come before the first block."""
    lora: Annotated[int, Range("a rank, or 0 for none", 0)] = 0
    """As for the image tower."""

    @property
    def padded(self) -> bool:
        """Whether a text's feature depends on the padding after it. If so, all texts are padded to `context`."""
        return self.bidirectional or self.pool == "last"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The towers and their projections. The objective decides which of them exist."""

    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    embed_dim: Annotated[int, FROM_1] = 512
    """Dimension of the space that images and texts share."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What training minimises."""

    loss: str = "clip + 1.0 * simclr"
    """Weighted sum of objectives."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """Options of the loss's terms that are set, by the term's name; the section `objective.NAME` of a file. The class
    `Config` of each objective defines the options."""
    ssl_every: Annotated[int, FROM_1] = 1
    """Self-supervised views are drawn on every k-th step, beginning with the first; their weight does not change."""
    ssl_from: Annotated[float, BELOW_1] = 0.0
    """Share of the run's steps before self-supervision begins; 0.8 leaves the last fifth to it. 0: from the start."""
    ssl_share: Annotated[float, Range("above 0 and up to 1", math.nextafter(0, 1), 1)] = 1.0
    """Share of a batch's rows for which self-supervised views are drawn; these rows are contrasted with one another."""

    @property
    def ssl_steps(self) -> float:
        """Share of a run's steps that have self-supervised views."""
        return (1 - self.ssl_from) / self.ssl_every


@dataclass(frozen=True, kw_only=True)
class TowerRateConfig:
    """How fast a tower learns, compared with the rest of the model."""

    lr: Annotated[float, OR_CHOSEN] = -1.0
    """Learning rate of the tower, on the same schedule as the rest; -1: `optimizer.lr`."""
    layer_decay: Annotated[float, Range("above 0 and up to 1", math.nextafter(0, 1), 1)] = 1.0
    """Factor on the learning rate from each block to the block before it; 1: all blocks learn at the same rate."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, with a linear warm-up and then a cosine, updated every step."""

    lr: Annotated[float, FROM_0] = 3e-3
    weight_decay: Annotated[float, FROM_0] = 0.1
    betas: Annotated[tuple[float, float], BELOW_1] = (0.9, 0.98)
    eps: Annotated[float, FROM_0] = 1e-8
    warmup_epochs: Annotated[float, Range("from 0 to a billion", 0, A_BILLION)] = 1.0
    lr_start: Annotated[float, FROM_0] = 1e-6
    lr_end: Annotated[float, FROM_0] = 1e-5
    clip_grad: Annotated[float, Range("at least 0 (0: no clipping)", 0)] = 0.0
    """Largest gradient norm; 0 for no clipping."""
    image: TowerRateConfig = TowerRateConfig()
    text: TowerRateConfig = TowerRateConfig()
    fresh_lr: Annotated[float, OR_CHOSEN] = -1.0
    """Learning rate of the weights that `init` has not brought, on the same schedule as the rest; -1: that of the
    rest."""
    fresh_epochs: Annotated[float, Range("from 0 to a billion", 0, A_BILLION)] = 0.0
    """Epochs at the start in which only weights that `init` has not brought learn; the rest warms up afterwards."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on what, and how exactly."""

    epochs: Annotated[float, Range("above 0, and less than a billion", 0, A_BILLION, without_ends=True)] = (
        25.0
    )
    budget: str = ""
    """Train this long instead of `epochs`: a time (`2h`, `90 minutes`), samples (`12M samples`, `500k samples`), epochs
    or steps (`2000 steps`). The schedule ends with the budget. The warm-up keeps its share, `optimizer.warmup_epochs`
    of `epochs`."""
    batch: Annotated[int, Range("at least 2: a contrast needs two samples", 2)] = 4096
    """Image-caption pairs in one optimiser step, of all processes together."""
    micro_batch: Annotated[int, Range("at least 0 (0: the whole batch)", 0)] = 0
    """Pairs that go through the towers at a time; the step remains the exact step of the whole batch. 0: all pairs.
    Not for image towers with BatchNorm."""
    keep_features: Annotated[int, Range("at least 0 (0: keeps none)", 0)] = 0
    """Outputs of models that do not change (frozen towers, fixed models) are computed once for this many epochs of
    views, and kept in the run folder. After these epochs the views repeat. 0: outputs are computed at every step."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes. ddp: each has the whole model. fsdp: the towers' weights, gradients and moments are
    spread over the processes."""
    offload: bool = False
    """fsdp: keep the towers' weights and moments in the CPU's memory."""
    seed: Annotated[int, Range("from 0 to 2^63 - 1", 0, 2**63 - 1)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp8"] = "auto"
    """auto: bf16 where the device has it in hardware, else fp32. fp16 scales the loss and needs a GPU. fp8 needs
    torchao and a GPU with fp8 matrix products."""
    checkpoint_activations: Literal["none", "selective", "full"] = "none"
    """Activations that the backward pass computes again instead of keeping them; results do not change. full:
    everything inside a block. selective: all but matrix products and attention, which saves less memory and costs
    less time."""
    compile: bool = False
    max_nonfinite: Annotated[int, FROM_1] = 5
    """Steps in a row with a non-finite loss after which the run stops."""
    log_every: Annotated[int, FROM_1] = 10
    """Steps between two lines of metrics.jsonl."""
    profile: Annotated[int, Range("at least 0 (0: none)", 0)] = 0
    """Steps to record for a trace of how they spend their time, after 5 unrecorded steps; 0: no trace."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where a run's numbers go besides its metrics.jsonl. Each tracker needs the extra of its name."""

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
    """How many of the latest checkpoints are kept, besides the best one."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured during training."""

    every_epochs: Annotated[float, Range("at least 0 (0: only at the end)", 0)] = 1.0
    """0: only at the end."""
    tasks: tuple[str, ...] = ()
    """Tasks, each `protocol:dataset`, for example `zeroshot:scenes` or `knn:/data/birds`. `linear:/data/birds every 5`
    is measured every fifth epoch. Tasks on data.val are always added."""
    best: str = ""
    """Metric that picks the best checkpoint, such as `retrieval:val/text_recall@10`; empty: the first measured metric
    for which more is better."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run."""

    name: str = "custom"
    """The recipe this configuration started from."""
    init: str = ""
    """Weights to start from: a run or checkpoint, a released SLIP file or its name, `open_clip:NAME/TAG`,
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
