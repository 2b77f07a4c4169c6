"""Models of open_clip: by the name of their architecture and weights, of the hub, in a folder, or in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import timm as timm_library
import torch
from torch import Tensor, nn

from openslip.config import (
    Activation,
    Config,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    TextTowerConfig,
    ViewsConfig,
)
from openslip.errors import CheckpointError, ConfigError, did_you_mean
from openslip.files import expand
from openslip.interop import downloads, hub, tokenizers
from openslip.interop.digests import Digests
from openslip.interop.filling import Mapped, described, pretrained_of
from openslip.interop.preprocessing import shown, views_of
from openslip.interop.timm import pool_of
from openslip.interop.weight_files import as_scalar, described_by, nearest, read_config, read_weights
from openslip.models.weights import Origin, Pretrained

SETTINGS = "open_clip_config.json"
FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""What the weights in a folder or repository are called, those that are preferred first."""
NO_PART = {
    "attn_mask": "which attention computes itself",
    "input_resolution": "a number of OpenAI's format",
    "context_length": "a number of OpenAI's format",
    "vocab_size": "a number of OpenAI's format",
}
"""Entries that hold no weights, and what they are."""
RESNETS = {
    (3, 4, 6, 3): "resnet50_clip",
    (3, 4, 23, 3): "resnet101_clip",
    (4, 6, 10, 6): "resnet50x4_clip",
    (6, 8, 18, 8): "resnet50x16_clip",
    (3, 15, 36, 10): "resnet50x64_clip",
}
"""timm's names of CLIP's ResNets, by the blocks of their stages."""
BLOCK = {
    "ln_1": "norm1",
    "attn.in_proj_": "qkv.",
    "attn.out_proj": "proj",
    "ln_2": "norm2",
    "mlp.c_fc": "fc1",
    "mlp.c_proj": "fc2",
}
"""How names of a block's tensors begin, and what they begin with in our text tower."""
IN_TRUNK = {"qkv.": "attn.qkv.", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""The same in timm's vision transformer, as far as it calls them otherwise than our text tower."""
TEXT = re.compile(
    r"(text\.)?(transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection)"
)
PREPROCESSING = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""What open_clip does with pictures where nothing else is said: as for OpenAI's CLIP."""
VISION = frozenset({
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout", "no_ln_pre",
    "pos_embed_type", "final_ln_after_pool", "pool_type", "act_kwargs", "norm_kwargs", "timm_model_name",
    "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
    "attn_pooler_queries", "attn_pooler_heads", "output_tokens",
})  # fmt: skip
"""Options of an image tower that are understood here, or change nothing that a model computes. Others are refused."""
TEXTS = frozenset({
    "context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "width", "heads",
    "layers", "mlp_ratio", "pad_id", "eos_id", "no_causal_mask", "final_ln_after_pool", "pool_type", "proj_bias",
    "proj_type", "act_kwargs", "norm_kwargs", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "output_tokens",
})  # fmt: skip
"""The same of a text tower."""


def read(name: str, spec: str) -> Pretrained:
    """Return the model that follows `open_clip:`.

    name: architecture and weights that open_clip knows (`ViT-B-32/laion2b_s34b_b79k`), which are fetched; a folder or a
    repository of the hub with an open_clip_config.json; or `NAME@FILE`, weights in a file and their architecture.

    Raises CheckpointError.
    """
    architecture, at, file = name.partition("@")
    known = architectures()
    if at and _plain(architecture) in known:
        return _of_file(expand(file), _plain(architecture), spec)
    folder = expand(name.removeprefix("local-dir:"))
    if folder.is_dir():
        return read_folder(folder, spec)
    architecture, slash, tag = name.rpartition("/")
    if _plain(architecture) in known:
        return _published(_plain(architecture), tag, spec)
    if _plain(name) in known:
        tags = _tags(_plain(name))
        raise CheckpointError(
            "open_clip's name of an architecture is there, and that of its weights is missing",
            got=spec,
            fix=f"Write one of: {', '.join(f'open_clip:{name}/{each}' for each in tags[:6])}"
            if tags
            else f"open_clip has no weights of it. For a file of weights: open_clip:{name}@FILE",
        )
    repository = name.removeprefix("hf-hub:")
    if repository != name or (slash and hub.is_name(name) and not _close(architecture, known)):
        return read_hub(repository, spec)
    raise CheckpointError(
        "open_clip has no such architecture, and there is no such folder",
        got=architecture or name,
        fix=nearest(architecture or name, known, "`open_clip.list_models()` lists them"),
    )


def read_folder(folder: Path, spec: str, *, weights: Path | None = None) -> Pretrained:
    """Return the model of a folder with open_clip_config.json and weights. Raises CheckpointError.

    weights: which file of the folder they are in, if that is known.
    """
    settings = folder / SETTINGS
    if not settings.is_file():
        raise CheckpointError(
            f"The folder holds no {SETTINGS}, which says what model it is",
            got=str(folder),
            fix="Copy it as well, or name the architecture: open_clip:NAME@FILE",
        )
    config = _settings(settings)
    if weights is None:
        found = [folder / name for name in FILES if (folder / name).is_file()]
        found = found or sorted(folder.glob("*.safetensors"))
        if not found:
            raise CheckpointError(
                f"The folder holds no weights beside its {SETTINGS}",
                got=str(folder),
                fix=f"Copy {FILES[0]} into it as well",
            )
        weights = found[0]
    return _of(config["model_cfg"], config.get("preprocess_cfg") or {}, weights, spec, [settings], spec)


def read_hub(repository: str, spec: str) -> Pretrained:
    """Return the model of a repository of the hub with an open_clip_config.json. Raises CheckpointError."""
    settings, weights = hub.fetch(repository, [SETTINGS]), hub.fetch(repository, FILES)
    hub.fetch(repository, [tokenizers.FILES[0]], optional=True)
    hub.fetch(repository, [tokenizers.FILES[2]], optional=True)
    if settings is None or weights is None:
        raise CheckpointError(
            "The model on the hub is not one of open_clip",
            got=repository,
            cause=f"It has no {SETTINGS if settings is None else ' or '.join(FILES[:3])}",
            fix=f"For a model of transformers, write hf:{repository}",
        )
    config = _settings(settings)
    return _of(config["model_cfg"], config.get("preprocess_cfg") or {}, weights, spec, [settings], repository)


def architectures() -> dict[str, Path]:
    """Return where the installed open_clip describes each of its architectures, by name; open_clip is not imported."""
    import importlib.util

    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise CheckpointError(
            "open_clip is not installed, which knows the architectures of its models",
            fix="Run `pip install open_clip_torch`",
        )
    return {
        path.stem: path for path in sorted(Path(package.origin).with_name("model_configs").glob("*.json"))
    }


def _plain(name: str) -> str:
    """Return the name of an architecture as open_clip writes it today: once it was `ViT-B/32`."""
    return name.replace("/", "-")


def _close(name: str, known: Mapping[str, object]) -> bool:
    return bool(nearest(name, known, ""))


def _tags(architecture: str) -> list[str]:
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list_pretrained_tags_by_model(architecture)


def _settings(path: Path) -> dict[str, Any]:
    config = read_config(path)
    if not isinstance(config.get("model_cfg"), dict):
        raise CheckpointError(
            "The configuration does not describe a model of open_clip",
            got=str(path),
            cause="It has no table model_cfg",
            fix="Copy or download the file anew",
        )
    return config


def _published(architecture: str, tag: str, spec: str) -> Pretrained:
    """Return a model with weights that open_clip's table points to: on the hub, else behind a web address."""
    from open_clip.pretrained import get_pretrained_cfg

    stated = get_pretrained_cfg(architecture, tag)
    if not stated:
        tags = _tags(architecture)
        elsewhere = [
            name for name in (f"{architecture}-quickgelu", architecture.removesuffix("-quickgelu"))
            if name != architecture and get_pretrained_cfg(name, tag)
        ]  # fmt: skip
        raise CheckpointError(
            f"open_clip has no weights of {architecture} with this name",
            got=tag,
            fix=f"Write open_clip:{elsewhere[0]}/{tag}" if elsewhere else did_you_mean(tag, tags),
        )
    config = read_config(architectures()[architecture])
    notes = []
    if bool(stated.get("quick_gelu")) != bool(config.get("quick_gelu")) and not _is_timm(config):
        other = (
            f"{architecture}-quickgelu"
            if stated.get("quick_gelu")
            else architecture.removesuffix("-quickgelu")
        )
        notes.append(
            f"the weights {tag} were trained with {'QuickGELU' if stated.get('quick_gelu') else 'GELU'}, and "
            f"{architecture} has the other activation: open_clip:{other}/{tag} is exact"
        )
    if stated.get("hf_hub"):
        repository, _, file = str(stated["hf_hub"]).rpartition("/")
        safe = re.sub(r"\.(bin|pth?)$", ".safetensors", file)
        names = list(dict.fromkeys([safe, file])) if file else FILES[:3]
        path = hub.fetch(repository, names)
        if path is None:
            raise CheckpointError(
                "The hub has not the file that open_clip names", got=f"{repository}: {' or '.join(names)}"
            )
    else:
        url = str(stated["url"])
        path = downloads.fetch(url, sha=_digest(url))
    found = _of(config, stated, path, spec, [], f"{architecture}/{tag}")
    return replace(found, notes=(*notes, *found.notes))


def _digest(url: str) -> str:
    """Return how the SHA-256 of a file begins whose address tells it, as those of OpenAI and mlfoundations do."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", url) if "mlfoundations" in url else None
    return found[1] if found else ""


def _of_file(path: Path, architecture: str, spec: str) -> Pretrained:
    """Return a model whose weights are in a file, and whose architecture open_clip describes.

    What pictures have to be like is what all published weights of that architecture want, where they agree.
    """
    from open_clip.pretrained import get_pretrained_cfg

    kinds = [get_pretrained_cfg(architecture, tag) for tag in _tags(architecture)]
    each = [{key: kind.get(key) for key in PREPROCESSING} for kind in kinds] or [PREPROCESSING]
    agreed = each[0] if all(one == each[0] for one in each) else PREPROCESSING
    found = _of(read_config(architectures()[architecture]), agreed, path, spec, [], architecture)
    views = found.config.views
    told = (
        f"{spec} does not say how pictures were prepared: mean {shown(views.mean)}, deviation {shown(views.std)}, "
        f"{views.interpolation}, {views.fit}, as for open_clip's own weights of {architecture}"
    )
    return replace(found, notes=(told, *found.notes))


def _of(
    config: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    path: Path,
    spec: str,
    files: list[Path],
    name: str,
) -> Pretrained:
    """Return the model that a table of open_clip describes, with the weights in a file. Raises CheckpointError."""
    check(config, spec)
    state, read_ = read_weights(path)
    found = Mapped()
    for entry in [entry for entry in state if entry.removeprefix("text.") in NO_PART]:
        found.unused[entry] = NO_PART[entry.removeprefix("text.")]
        del state[entry]
    image, size, texts = _towers(config, state, found, spec)
    if name_of_tokenizer := config["text_cfg"].get("hf_tokenizer_name"):
        own = tokenizers.of_open_clip(config["text_cfg"], files[0].parent if files else None, spec)
        found.put("text_tower.tokenizer", f"the tokenizer {name_of_tokenizer}", own)
        texts = replace(texts, tokenizer=len(own))
    for entry, ours in {"logit_scale": "logit_scale", "logit_bias": "objective.siglip.bias"}.items():
        if entry in state:
            found.put(ours, entry, as_scalar(state.pop(entry)))
    for entry, value in state.items():  # `pretrained_of` says what they are
        found.put(
            f"image_tower.{entry}" if entry.startswith("visual.") else f"text_tower.{entry}", entry, value
        )
    sigmoid = "objective.siglip.bias" in found.weights
    with described_by(spec):
        views, notes = _views(preprocessing, size, spec)
        embed_dim = int(config["embed_dim"])
    return pretrained_of(
        Config(
            name=name,
            views=views,
            model=ModelConfig(image=image, text=texts, embed_dim=embed_dim),
            objective=ObjectiveConfig(loss="siglip" if sigmoid else "clip"),
        ),
        found.weights,
        Origin(spec, "open_clip", Digests([*read_, *files])),
        theirs=found.theirs,
        unused=found.unused,
        notes=notes,
    )


def check(config: Mapping[str, Any], spec: str) -> None:
    """Raise CheckpointError where slip has not what a table of open_clip describes."""
    if not all(isinstance(config.get(key), Mapping) for key in ("vision_cfg", "text_cfg")):
        raise CheckpointError(
            "The configuration does not describe a model of open_clip",
            got=spec,
            cause="It lacks vision_cfg or text_cfg",
            fix="Copy or download the file anew",
        )
    if "multimodal_cfg" in config:
        raise _unsupported(spec, "CoCa, with a decoder that writes captions")
    if name := config["text_cfg"].get("hf_model_name"):
        raise _unsupported(spec, f"with {name} of transformers as its text tower")
    _towers(config, {}, Mapped(), spec)


def _towers(
    config: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str
) -> tuple[ImageTowerConfig, int, TextTowerConfig]:
    """Take the towers' tensors out of `state`; return their configurations, and the side of images."""
    quick = bool(config.get("quick_gelu"))
    with described_by(spec):
        image, size = _image(config["vision_cfg"], state, found, spec, quick)
        return image, size, _text(config["text_cfg"], state, found, spec, quick)


def _is_timm(config: Mapping[str, Any]) -> bool:
    return bool((config.get("vision_cfg") or {}).get("timm_model_name"))


def _image(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, quick: bool
) -> tuple[ImageTowerConfig, int]:
    """Take the image tower's tensors out of `state`; return its configuration, and the side of its images."""
    _only(vision, VISION, "image tower", spec)
    size = vision.get("image_size", 224)
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise _unsupported(spec, f"for images of {size[0]} by {size[1]} pixels, which are not square")
        size = size[0]
    if vision.get("timm_model_name"):
        return _of_timm(vision, state, found, spec, int(size)), int(size)
    if isinstance(vision.get("layers", 12), list | tuple):
        return _resnet(vision, state, found, spec), int(size)
    return _vit(vision, state, found, spec, quick), int(size)


def _vit(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, quick: bool
) -> ImageTowerConfig:
    width, layers = int(vision.get("width", 768)), int(vision.get("layers", 12))
    pool, pre_norm = vision.get("pool_type", "tok"), not vision.get("no_ln_pre")
    if pool not in ("tok", "avg") or (pool == "avg" and not vision.get("final_ln_after_pool")):
        raise _unsupported(
            spec, f"with an image tower whose feature is pooled by {pool!r} after its last norm"
        )
    names = {
        "visual.conv1.weight": "patch_embed.proj.weight",
        "visual.class_embedding": "cls_token",
        "visual.positional_embedding": "pos_embed",
    }
    last = "norm" if pool == "tok" else "fc_norm"
    for entry in [entry for entry in state if entry.startswith("visual.")]:
        value = state[entry]
        if entry == "visual.proj":
            ours = "image_projection"
        elif entry in names:
            ours = f"image_tower.trunk.{names[entry]}"
            if entry == "visual.class_embedding":
                value = value[None, None]
            elif entry == "visual.positional_embedding":
                value = value[None]
        elif entry.startswith("visual.ln_pre."):
            ours = entry.replace("visual.ln_pre", "image_tower.trunk.norm_pre")
        elif entry.startswith("visual.ln_post."):
            ours = entry.replace("visual.ln_post", f"image_tower.trunk.{last}")
        elif inner := _of_block(entry, "visual.transformer.resblocks.", IN_TRUNK):
            ours = f"image_tower.trunk.blocks.{inner}"
        else:
            continue
        found.put(ours, entry, value)
        del state[entry]
    if not pre_norm:  # timm's patches have a bias then, open_clip's never
        found.put(
            "image_tower.trunk.patch_embed.proj.bias", "a bias of the patches, of zeros", torch.zeros(width)
        )
    return ImageTowerConfig(
        name="vit",
        patch=int(vision.get("patch_size", 16)),
        width=width,
        depth=layers,
        heads=width // int(vision.get("head_width", 64)),
        mlp=_hidden(width, vision),
        activation=_activation(vision, quick, spec),
        pool="token" if pool == "tok" else "mean",
        pre_norm=pre_norm,
        norm_eps=_eps(vision),
    )


def _of_timm(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, size: int
) -> ImageTowerConfig:
    """Return the configuration of an image tower of timm, with open_clip's projection on top, or timm's own."""
    name, pool, projection = (
        vision["timm_model_name"],
        vision.get("timm_pool", "avg"),
        vision.get("timm_proj", "linear"),
    )
    if not timm_library.is_model(str(name)):
        raise CheckpointError(
            "The installed timm does not know the model's image tower",
            got=f"{name}, of {spec}",
            fix=nearest(str(name), timm_library.list_models(), "A later version of timm may know it"),
        )
    if projection not in ("linear", "none", "", None) or pool in ("abs_attn", "rot_attn"):
        what = f"projection {projection!r}" if projection == "mlp" else f"pooling {pool!r}"
        raise _unsupported(spec, f"with open_clip's {what} on top of an image tower of timm")
    image = ImageTowerConfig(name=str(name), unprojected=projection == "none")
    try:
        trunk = _trunk(str(name), size)
    except ConfigError as error:
        raise CheckpointError(f"timm makes no such image tower as {spec} has", cause=str(error)) from None
    usual = pool_of(trunk)
    if pool and usual and pool != usual:
        raise _unsupported(
            spec, f"with an image tower of timm, {name}, pooled by {pool!r} instead of timm's {usual!r}"
        )
    own = trunk.state_dict()
    for entry in [entry for entry in state if entry.startswith("visual.")]:
        inner = entry.removeprefix("visual.trunk.")
        value = state[entry]
        if entry.startswith("visual.trunk.") and inner in own:
            found.put(f"image_tower.trunk.{inner}", entry, value)
        elif entry == "visual.head.proj.weight" or (
            not projection
            and entry.startswith("visual.trunk.head")
            and entry.endswith(".weight")
            and value.ndim == 2
        ):
            found.put("image_projection", entry, value.T)
        elif entry == "visual.head.proj.bias" or (
            not projection
            and entry.startswith("visual.trunk.head")
            and entry.endswith(".bias")
            and value.ndim == 1
        ):
            found.put("image_projection_bias", entry, value)
        else:
            continue
        del state[entry]
    return replace(image, projection_bias="image_projection_bias" in found.weights)


@lru_cache(maxsize=1)
def _trunk(name: str, size: int) -> nn.Module:
    """Return a tower of timm without weights."""
    config = Config(views=ViewsConfig(size=size), model=ModelConfig(image=ImageTowerConfig(name=name)))
    return described(config, ()).image_tower.trunk


def _resnet(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str
) -> ImageTowerConfig:
    """Return the configuration of one of CLIP's ResNets, which timm has as well, and converts."""
    from timm.models.byobnet import checkpoint_filter_fn

    layers = tuple(vision["layers"])
    name = RESNETS.get(layers)
    if name is None:
        raise _unsupported(spec, f"with a ResNet of {layers} blocks, which none of CLIP's has")
    size = int(vision.get("image_size", 224))
    image = ImageTowerConfig(name=name, projection_bias=True)
    trunk = _trunk(name, size)
    for entry in [entry for entry in state if entry.startswith("visual.")]:
        value = state.pop(entry)
        # One by one, so that each keeps its name; timm converts what comes with the entry that it knows CLIP by.
        probe = {"visual.conv1.weight": value, entry: value}
        (inner,) = [
            converted
            for converted in checkpoint_filter_fn(probe, cast(Any, trunk))
            if entry == "visual.conv1.weight" or converted != "stem.conv1.conv.weight"
        ]
        if inner == "head.proj.weight":
            found.put("image_projection", entry, value.T)
        elif inner == "head.proj.bias":
            found.put("image_projection_bias", entry, value)
        else:
            found.put(f"image_tower.trunk.{inner}", entry, value)
    return image


def _text(
    text: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, quick: bool
) -> TextTowerConfig:
    """Take the text tower's tensors out of `state`; return its configuration."""
    _only(text, TEXTS, "text tower", spec)
    width, vocabulary = int(text.get("width", 512)), int(text.get("vocab_size", 49_408))
    pool = text.get("pool_type", "argmax")
    clips = vocabulary == TextTowerConfig().vocabulary and not text.get("hf_tokenizer_name")
    if pool not in ("argmax", "last") or (pool == "argmax" and not clips):
        raise _unsupported(
            spec, f"with a text tower whose feature is pooled by {pool!r}, of {vocabulary:,} tokens"
        )
    for entry in [entry for entry in state if TEXT.match(entry)]:
        inner, value = entry.removeprefix("text."), state[entry]
        if inner in ("text_projection", "text_projection.weight"):
            found.put("text_projection", entry, value if inner == "text_projection" else value.T)
        elif inner == "text_projection.bias":
            found.put("text_projection_bias", entry, value)
        elif block := _of_block(inner, "transformer.resblocks.", {}):
            found.put(f"text_tower.blocks.{block}", entry, value)
        elif inner.startswith("ln_final."):
            found.put(inner.replace("ln_final", "text_tower.norm"), entry, value)
        elif inner == "positional_embedding" or inner.startswith("token_embedding."):
            found.put(f"text_tower.{inner}", entry, value)
        else:
            continue
        del state[entry]
    if (
        text.get("proj_type") == "none"
    ):  # the feature is the embedding: a matrix of ones on its diagonal changes nothing
        found.put("text_projection", "no projection", torch.eye(width))
    return TextTowerConfig(
        width=width,
        depth=int(text.get("layers", 12)),
        heads=int(text.get("heads", 8)),
        mlp=_hidden(width, text),
        activation=_activation(text, quick, spec),
        context=int(text.get("context_length", 77)),
        vocabulary=vocabulary,
        bidirectional=bool(text.get("no_causal_mask")),
        pool="end" if pool == "argmax" else "last",
        norm_eps=_eps(text),
        projection_bias="text_projection_bias" in found.weights,
    )


def _of_block(entry: str, prefix: str, besides: Mapping[str, str]) -> str:
    """Return what we call a tensor of a block, from the block's number on; empty where the entry is none."""
    if not entry.startswith(prefix):
        return ""
    index, _, inner = entry.removeprefix(prefix).partition(".")
    for theirs, ours in BLOCK.items():
        if inner.startswith(theirs):
            return f"{index}.{besides.get(ours, ours)}{inner.removeprefix(theirs)}"
    return ""


def _hidden(width: int, tower: Mapping[str, Any]) -> int:
    """Return the hidden width of a tower's MLPs; 0 where it is four times the width."""
    hidden = int(width * float(tower.get("mlp_ratio", 4.0)))
    return 0 if hidden == 4 * width else hidden


def _eps(tower: Mapping[str, Any]) -> float:
    return float((tower.get("norm_kwargs") or {}).get("eps", 1e-5))


def _activation(tower: Mapping[str, Any], quick: bool, spec: str) -> Activation:
    options = tower.get("act_kwargs") or {}
    if quick and not options:
        return "quick_gelu"
    if options == {"approximate": "tanh"} and not quick:
        return "gelu_tanh"
    if options:
        raise _unsupported(spec, f"with an activation with the options {options}")
    return "gelu"


def _views(stated: Mapping[str, Any], size: int, spec: str) -> tuple[ViewsConfig, list[str]]:
    """Return what pictures have to be like, and what of it slip does otherwise."""
    stated = {**PREPROCESSING, **{key: value for key, value in stated.items() if value is not None}}
    mode = str(stated["resize_mode"])
    views, notes = views_of(
        size, stated["mean"], stated["std"], str(stated["interpolation"]), spec, squash=mode == "squash"
    )
    if mode not in ("squash", "shortest"):
        notes.append(f"pictures were fitted for {spec} by {mode!r}; here they are cropped at their middle")
    return views, notes


def _only(options: Mapping[str, Any], known: frozenset[str], tower: str, spec: str) -> None:
    """Raise CheckpointError where a tower has options that are not understood here, and that are set."""
    others = sorted(
        key for key, value in options.items() if key not in known and value not in (None, False, 0, "")
    )
    if others:
        raise _unsupported(spec, f"with options of its {tower} that slip has not: {', '.join(others)}")


def _unsupported(spec: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"The model is one of open_clip {what}, which slip does not load",
        got=spec,
        fix="open_clip, which is installed with slip, loads it itself: `open_clip.create_model_and_transforms`",
    )
