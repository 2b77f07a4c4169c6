"""Image towers of timm: its published weights, folders as timm writes them, and files of weights with timm's names."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import timm
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from openslip.config import Config, ImageTowerConfig, ModelConfig, ViewsConfig
from openslip.errors import CheckpointError, ConfigError, did_you_mean
from openslip.files import expand
from openslip.interop import downloads, hub
from openslip.interop.digests import Digests
from openslip.interop.filling import described, pretrained_of
from openslip.interop.preprocessing import views_of
from openslip.interop.weight_files import described_by, nearest, read_config, read_weights
from openslip.models.vision import ACTIVATIONS, POOLS
from openslip.models.weights import Origin, Pretrained

TRUNK = "image_tower.trunk."
FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of timm's files of weights on the hub, preferred names first."""
SAFE = {
    "open_clip_pytorch_model.bin": ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    "pytorch_model.bin": ("model.safetensors",),
}
"""Files that torch saved, and the names of safetensors with the same weights."""
LISTED = "`timm.list_models()` lists the architectures, `timm.list_pretrained()` the weights"
VITS = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
"""timm's architectures for a plain vision transformer of any size, by the eps of the norms."""
ON_TOP = "of the layer that timm puts on top, such as its classifier"


@dataclass(frozen=True)
class Card:
    """What timm knows of weights: the architecture, and how pictures are prepared (timm's `pretrained_cfg`).

    pool: how the feature is pooled, if that is known. image: the tower, if it is a plain vision transformer of a size
    that has no name in timm.
    """

    architecture: str
    stated: Mapping[str, Any]
    pool: str = ""
    image: ImageTowerConfig | None = None


def read(name: str, spec: str) -> Pretrained:
    """Return the image tower that follows `timm:`.

    name: a model of timm with or without a tag (`resnet50.a1_in1k`), of which timm's weights are fetched; a repository
    of the hub or a folder with timm's config.json; `NAME@FILE`, the architecture and a file of its weights; or a file
    alone, if a config.json beside it or its own name tells the architecture.

    Raises CheckpointError.
    """
    architecture, at, file = name.partition("@")
    if at and timm.is_model(architecture.partition(".")[0]):
        return read_file(expand(file), known(architecture), spec)
    folder = expand(name)
    if folder.is_dir():
        return read_folder(folder, spec)
    if folder.is_file():
        return _of_file(folder, spec)
    plain = name.removeprefix("local-dir:")
    if plain != name:
        return read(plain, spec)
    first, slash, tag = name.partition("/")
    if slash and timm.is_model(first):
        name = f"{first}.{tag}"
    elif hub.is_name(name.removeprefix("hf-hub:")):
        return _of_hub(name.removeprefix("hf-hub:"), spec)
    card = known(name)
    return _published(card, spec)


def _of_file(path: Path, spec: str) -> Pretrained:
    """Return the image tower of weights in a file. A config.json beside it, or its own name, tells the architecture.

    Raises CheckpointError.
    """
    if (path.parent / "config.json").is_file():
        return read_folder(path.parent, spec, weights=path)
    if card := guessed(path):
        found = read_file(path, card, spec)
        return replace(found, notes=(taken_for(path, card), *found.notes))
    raise CheckpointError(
        "The file does not name the architecture of its weights, and there is no config.json beside it",
        got=spec,
        fix=f"Name the architecture: timm:NAME@{path}, such as timm:resnet50@{path}. {LISTED}",
    )


def taken_for(path: Path, card: Card) -> str:
    """Return the note on weights whose architecture is taken from the name of their file."""
    return f"{path} is taken for timm's {card.architecture}, by its name. All weights in the file fit"


def read_folder(folder: Path, spec: str, *, weights: Path | None = None) -> Pretrained:
    """Return the image tower of a folder as timm writes it: config.json and weights. Raises CheckpointError.

    weights: the folder's file of weights, if that is known.
    """
    config = folder / "config.json"
    card = _card(read_config(config), config)
    if weights is None:
        found = [folder / name for name in (*FILES, *sum(SAFE.values(), ())) if (folder / name).is_file()]
        found = found or sorted(folder.glob("*.safetensors"))
        if not found:
            raise CheckpointError(
                "The folder holds no weights beside its config.json",
                got=str(folder),
                fix=f"Copy {FILES[0]} into it as well",
            )
        weights = found[0]
    return read_file(weights, card, spec, files=[config])


def read_file(path: Path, card: Card, spec: str, *, files: Sequence[Path] = ()) -> Pretrained:
    """Return the image tower whose weights, with timm's names, are in a file. Raises CheckpointError.

    files: other files that were read.
    """
    weights, read_ = read_weights(path)
    return tower_of(weights, card, Origin(spec, "timm", Digests([*read_, *files])))


def tower_of(weights: Mapping[str, Tensor], card: Card, origin: Origin) -> Pretrained:
    """Return the image tower with these weights, which have timm's names. Raises CheckpointError."""
    with described_by(origin.spec):
        views, notes = _views(card, origin.spec)
    config = Config(
        name=card.architecture,
        views=views,
        model=ModelConfig(image=card.image or ImageTowerConfig(name=card.architecture)),
    )
    try:
        trunk = described(config, ()).image_tower.trunk
    except ConfigError as error:
        raise CheckpointError(
            f"timm makes no such image tower as {origin.spec} is of", cause=str(error)
        ) from None
    if card.image is None and card.pool and pool_of(trunk) not in ("", card.pool):
        raise CheckpointError(
            f"The feature of {origin.spec} is pooled in another way than in timm's {card.architecture}",
            got=f"{card.pool}, where timm has {pool_of(trunk)}, and slip cannot set another",
            fix="Take a model with timm's own options",
        )
    own, held = trunk.state_dict(), [*weights]
    weights = _as_timm_names_them(weights, trunk, origin)
    unused = {
        name: ON_TOP
        for name in weights
        if name not in own and _is_on_top(name, card.stated.get("classifier"))
    }
    kept = {name: value for name, value in weights.items() if name not in unused}
    for name, value in own.items():  # torch before 0.4.1 did not write them
        if name.endswith("num_batches_tracked") and name not in kept:
            kept[name] = value.new_zeros((), device="cpu")
    theirs = {TRUNK + name: name for name in {**own, **kept}}
    return pretrained_of(
        config,
        {TRUNK + name: value for name, value in kept.items()},
        origin,
        theirs=theirs,
        unused=unused,
        notes=notes,
        held=held,
    )


def known(name: str) -> Card:
    """Return what timm knows of a model, by its name with or without a tag. Raises CheckpointError for another name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise CheckpointError(
            "timm has no such model", got=name, fix=nearest(architecture, timm.list_models(), LISTED)
        )
    try:
        stated = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = [full.partition(".")[2] for full in get_arch_pretrained_cfgs(architecture)]
        raise CheckpointError(
            f"timm has no weights of {architecture} with this tag",
            got=tag,
            fix=did_you_mean(tag, tags) if tags else "Leave the tag out",
        ) from None
    return Card(architecture, stated.to_dict() if stated is not None else {})


def guessed(path: Path) -> Card | None:
    """Return the card of weights whose file's name tells the model (`resnet50.a1_in1k.safetensors`); else None.

    `tower_of` checks whether the weights fit.
    """
    name = path.name.removesuffix(path.suffix)
    for candidate in (name, name.partition(".")[0], re.sub(r"-[0-9a-f]{8}$", "", name)):
        try:
            if timm.is_model(candidate.partition(".")[0]):
                return known(candidate)
        except CheckpointError:
            continue
    return None


def _views(card: Card, spec: str) -> tuple[ViewsConfig, list[str]]:
    """Return how pictures are prepared, and sentences on what slip does otherwise. Raises CheckpointError."""
    stated, defaults = card.stated, ViewsConfig()
    channels, *sides = stated.get("input_size") or (3, defaults.size, defaults.size)
    views, notes = views_of(
        sides[0] if channels == 3 and len(set(sides)) == 1 else (channels, *sides),
        stated.get("mean") or defaults.mean,
        stated.get("std") or defaults.std,
        str(stated.get("interpolation") or "bicubic"),
        spec,
        squash=stated.get("crop_mode") == "squash",
    )
    share = stated.get("crop_pct")
    if isinstance(share, int | float) and share != 1 and views.fit == "crop":
        notes.append(
            f"timm takes the middle {100 * share:g} % of a picture's short side for {spec} (crop_pct); slip takes "
            "all of it"
        )
    if not stated:
        notes.append(
            f"timm does not say how pictures were normalised for {spec}, so slip takes ImageNet's mean and deviation"
        )
    return views, notes


def _of_hub(name: str, spec: str) -> Pretrained:
    config = hub.fetch(name, ["config.json"])
    weights = hub.fetch(name, FILES)
    if config is None or weights is None:
        raise CheckpointError(
            "The model on the hub is not one that timm wrote",
            got=name,
            cause=f"It has no {'config.json' if config is None else ' or '.join(FILES)}",
            fix=f"For other models, write hf:{name}",
        )
    return read_file(weights, _card(read_config(config), config), spec, files=[config])


def _published(card: Card, spec: str) -> Pretrained:
    """Return a tower with the weights that timm points to: on the hub, else behind a web address."""
    stated = card.stated
    # If the hub has the weights, too, they are there in a format of torch. "hf": they are there in another one as well.
    if stated.get("custom_load") and (stated["custom_load"] == "hf" or not stated.get("hf_hub_id")):
        raise CheckpointError(
            "These weights are not in a format of torch, and slip does not convert them",
            got=spec,
            fix="Take other weights: `timm.list_pretrained()` lists them",
        )
    if stated.get("hf_hub_id"):
        file = str(stated.get("hf_hub_filename") or FILES[1])
        path = hub.fetch(str(stated["hf_hub_id"]), [*SAFE.get(file, ()), file])
    elif stated.get("url"):
        url = str(stated["url"])
        digest = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
        path = downloads.fetch(url, sha=digest[1] if digest else "")
    else:
        path = None
    if path is None:
        raise CheckpointError(
            "timm has no weights of this model",
            got=card.architecture,
            fix=nearest(card.architecture, timm.list_pretrained(), LISTED),
        )
    return read_file(path, card, spec)


def _card(config: Mapping[str, Any], path: Path) -> Card:
    """Return what a config.json of timm says. Raises CheckpointError if it is none, or asks for what slip lacks.

    In earlier files, the preparation of pictures stands beside the architecture.
    """
    architecture = config.get("architecture")
    stated = config.get("pretrained_cfg", config)
    if not isinstance(architecture, str) or not isinstance(stated, Mapping):
        raise CheckpointError(
            "The configuration is not that of a model of timm",
            got=str(path),
            cause="It names no architecture",
            fix="Give a folder that timm wrote (`timm.models.save_for_hf`)",
        )
    if not timm.is_model(architecture):
        raise CheckpointError(
            "The installed timm does not know the model's architecture",
            got=f"{architecture}, in {path}",
            fix=nearest(architecture, timm.list_models(), LISTED),
        )
    with described_by(str(path)):
        options = {key: value for key, value in (config.get("model_args") or {}).items() if value is not None}
    pool, size = options.pop("global_pool", ""), options.pop("img_size", None)
    options.pop("num_classes", None)
    if options.get("in_chans") == 3:
        del options["in_chans"]
    image = _sized(architecture, options, pool) if options else None
    if options and image is None:
        raise CheckpointError(
            f"The model is a {architecture} of timm with other options than timm's, which slip cannot set",
            got=f"model_args {', '.join(sorted(options))}, in {path}",
            fix="Take a model with timm's own options",
        )
    if isinstance(size, int):
        stated = {**stated, "input_size": (3, size, size)}
    return Card(architecture, stated, str(config.get("global_pool") or pool), image)


def tower_in(config: Mapping[str, Any], spec: str) -> ImageTowerConfig:
    """Return the image tower that a config.json describes. Raises CheckpointError if timm or slip has no such tower."""
    card = _card(config, Path(spec))
    return card.image or ImageTowerConfig(name=card.architecture)


def _sized(architecture: str, options: Mapping[str, Any], pool: str) -> ImageTowerConfig | None:
    """Return the plain vision transformer that timm's options describe; None if they describe something else.

    pool: timm's word for the pooling; empty for `token`. The result is also None if slip lacks that pooling.
    """
    eps = {name: eps for eps, name in VITS.items()}.get(architecture)
    names = {"patch_size": "patch", "embed_dim": "width", "depth": "depth", "num_heads": "heads"}
    others = {"class_token", "pre_norm", "act_layer", "mlp_ratio"}
    pools = {theirs: ours for ours, theirs in POOLS.items()}
    if eps is None or not names.keys() <= options.keys() or not options.keys() <= names.keys() | others:
        return None
    pool, activation = pool or "token", options.get("act_layer", "gelu")
    if pool not in pools or activation not in ACTIVATIONS:
        return None
    sizes: dict[str, Any] = {ours: int(options[theirs]) for theirs, ours in names.items()}
    hidden = int(sizes["width"] * float(options.get("mlp_ratio", 4.0)))
    return ImageTowerConfig(
        name="vit",
        **sizes,
        mlp=0 if hidden == 4 * sizes["width"] else hidden,
        activation=activation,
        pool=cast(Any, pools[pool]),
        class_tokens=int(bool(options.get("class_token", True))),
        pre_norm=bool(options.get("pre_norm", architecture == VITS[1e-5])),
        norm_eps=eps,
    )


def pool_of(trunk: nn.Module) -> str:
    """Return how a model of timm pools its feature, in timm's word for it; empty if the model does not say."""
    for part in (trunk, getattr(trunk, "head", None)):
        pool = getattr(part, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str):
            return pool
    return ""


def _as_timm_names_them(
    weights: Mapping[str, Tensor], trunk: nn.Module, origin: Origin
) -> Mapping[str, Tensor]:
    """Return weights under timm's names. timm itself converts earlier formats, and formats of the models' authors."""
    module = sys.modules[type(trunk).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is None:
        return weights
    try:
        return convert(dict(weights), trunk)
    except Exception as error:  # weights of another model may raise anything there
        raise CheckpointError(
            f"timm cannot read the weights of {origin.spec} as those of a {type(trunk).__name__}",
            got=", ".join(sorted(weights)[:4]),
            cause=f"{type(error).__name__}: {error}",
            fix="Name the architecture of the weights",
        ) from None


def _is_on_top(name: str, classifiers: object) -> bool:
    """Say whether an entry is of a layer that timm puts on top of a tower, which has no such layer here."""
    if isinstance(classifiers, str):
        classifiers = (classifiers,)
    given = (
        [part for part in classifiers if isinstance(part, str)]
        if isinstance(classifiers, list | tuple)
        else []
    )
    return any(name.startswith(f"{part}.") for part in given or ("head", "fc", "classifier"))
