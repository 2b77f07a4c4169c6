"""CLIP and SigLIP as Hugging Face's transformers writes them; transformers itself is not needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openslip.config import (
    Activation,
    Config,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    TextTowerConfig,
    ViewsConfig,
)
from openslip.errors import CheckpointError
from openslip.files import expand
from openslip.interop import dual_encoder, foreign, hub, open_clip, timm, tokenizers
from openslip.interop.digests import Digests
from openslip.interop.filling import Mapped, pretrained_of
from openslip.interop.preprocessing import views_of
from openslip.interop.weight_files import INDEX, as_scalar, described_by, parts_of, read_config, read_weights
from openslip.models.weights import Origin, Pretrained

FILES = ("model.safetensors", "model.safetensors" + INDEX, "pytorch_model.bin", "pytorch_model.bin" + INDEX)
"""Names of the files of weights in a folder or repository, preferred names first."""
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers for the ways to resize pictures."""
LAYER = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "proj",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
"""Parts of a layer, and their names in our text tower."""
IN_TRUNK = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "qkv": "attn.qkv"}
"""Names in our text tower, and those in timm's vision transformer that differ."""
CLIP: dict[str, Any] = {
    "text": {
        "vocab_size": 49_408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49_407,
    },
    "vision": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "views": {"mean": open_clip.PREPROCESSING["mean"], "std": open_clip.PREPROCESSING["std"]},
}
"""transformers' defaults for values that a CLIP's config.json leaves out."""
SIGLIP: dict[str, Any] = {
    "text": {
        "vocab_size": 32_000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 64,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
    "vision": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": True,
    },
    "views": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}
KINDS = {
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
    dual_encoder.MODEL: CLIP,
}
"""transformers' names of the models that are read here, and the defaults of their configurations."""


def read(name: str, spec: str) -> Pretrained:
    """Return the model that follows `hf:`: a repository of the hub, `owner/name`, or a folder, or a file in one.

    The files there decide: a model of transformers, open_clip, timm, or one of ours. Raises CheckpointError.
    """
    path = expand(name)
    if path.exists():
        from openslip import interop

        found = interop.read(path)
        return replace(found, origin=replace(found.origin, spec=spec))
    if not hub.is_name(name):
        raise CheckpointError(
            "This is neither a folder nor the name of a model on the hub",
            got=name,
            fix="Write hf:owner/name, as on the model's page, perhaps with @ and a revision",
        )
    if hub.fetch(name, [open_clip.SETTINGS], optional=True):
        return open_clip.read_hub(name, spec)
    config = hub.fetch(name, ["config.json"], optional=True)
    if config is None and hub.fetch(name, ["adapter_config.json"], optional=True):
        raise CheckpointError(
            f"The repository of the hub holds {foreign.KINDS[0].what}", got=name, fix=foreign.KINDS[0].fix
        )
    weights = hub.fetch(name, FILES)
    if weights is None and hub.fetch(name, ["openslip.json"], optional=True):
        raise foreign.graphs(spec)
    if weights is None:
        raise CheckpointError(
            "The repository of the hub holds no weights that slip reads",
            got=name,
            cause=f"It has none of {', '.join(FILES)}",
            fix="Give a CLIP or SigLIP of transformers, a model of open_clip or timm, or one of slip's",
        )
    if _is_ours(weights):
        from openslip.interop import ours

        found = ours.read_file(weights)
        return replace(found, origin=replace(found.origin, spec=spec))
    if foreign.a_classifier(weights):
        raise foreign.no_embeddings(spec)
    if config is None:
        raise foreign.unknown(weights, read_weights(weights)[0])
    if "architecture" in read_config(config):
        return timm.read(name, spec)
    if weights.name.endswith(INDEX):
        for part in parts_of(weights):
            hub.fetch(name, [part])
    own = tokenizers.FILES if KINDS.get(str(read_config(config).get("model_type"))) is SIGLIP else ()
    for file in (*PREPROCESSING, *own):
        hub.fetch(name, [file], optional=True)
    return read_folder(config.parent, spec, weights=weights)


def read_folder(folder: Path, spec: str, *, weights: Path | None = None) -> Pretrained:
    """Return the model of a folder as transformers writes it: config.json, weights, and how pictures are prepared.

    weights: the folder's file of weights, if that is known. Raises CheckpointError.
    """
    settings = folder / "config.json"
    config = read_config(settings)
    kind = str(config.get("model_type", ""))
    if kind not in KINDS:
        raise _other_kind(config, settings)
    state, files = read_weights(weights or _weights_in(folder))
    found = Mapped()
    for entry in [entry for entry in state if entry.endswith("position_ids")]:
        found.unused[entry] = "numbers that count the positions from 0"
        del state[entry]
    defaults, flat = KINDS[kind], kind.endswith("_vision_model")
    siglip = defaults is SIGLIP
    state = {entry.removeprefix("model."): value for entry, value in state.items()}
    text = TextTowerConfig()
    with described_by(spec):
        vision = {**defaults["vision"], **(config if flat else config.get("vision_config") or {})}
        if kind == dual_encoder.MODEL:
            dual_encoder.check(config, spec)
            state = dual_encoder.renamed(state)
            vision |= dual_encoder.sizes_of(vision)
            image = dual_encoder.image(vision, _sizes(vision, spec), state, found, spec)
        else:
            image = _image(vision, state, found, spec, siglip=siglip)
        if not flat:
            stated = {**defaults["text"], **(config.get("text_config") or {})}
            text = _text(stated, state, found, spec, siglip=siglip)
        embed_dim = int(vision["hidden_size"] if siglip else config.get("projection_dim", 512))
        views, read_, notes = _views(folder, int(vision["image_size"]), defaults["views"], spec)
    if siglip and not flat:
        own = tokenizers.of_transformers(folder, spec)
        found.put("text_tower.tokenizer", "its tokenizer", own)
        text = replace(text, tokenizer=len(own))
    for entry, ours in {"logit_scale": "logit_scale", "logit_bias": "objective.siglip.bias"}.items():
        if entry in state and not flat:
            found.put(ours, entry, as_scalar(state.pop(entry)))
    if flat and "visual_projection.weight" in state:
        found.unused["visual_projection.weight"] = (
            "a projection into a space of texts, without the text tower"
        )
        del state["visual_projection.weight"]
    for entry, value in state.items():  # `pretrained_of` says what they are
        found.put(f"image_tower.{entry}" if entry.startswith("vis") else f"text_tower.{entry}", entry, value)
    return pretrained_of(
        Config(
            name=folder.name if spec == str(folder) else spec.partition(":")[2] or spec,
            views=views,
            model=ModelConfig(image=image, text=text, embed_dim=embed_dim),
            objective=ObjectiveConfig() if flat else ObjectiveConfig(loss="siglip" if siglip else "clip"),
        ),
        found.weights,
        Origin(spec, "transformers", Digests([*files, settings, *read_])),
        theirs=found.theirs,
        unused=found.unused,
        notes=notes,
    )


def _weights_in(folder: Path) -> Path:
    """Return a folder's file of weights, or its list of such files. Raises CheckpointError."""
    named = [folder / name for name in FILES if (folder / name).is_file()]
    if found := [*named, *sorted(folder.glob("*.safetensors"))]:
        return found[0]
    raise CheckpointError(
        "The folder holds no weights beside its config.json",
        got=str(folder),
        fix=f"Copy {FILES[0]} into it as well",
    )


def _is_ours(weights: Path) -> bool:
    from openslip.interop import ours
    from openslip.training.saving import metadata

    if weights.suffix != ".safetensors":
        return False
    entries, texts = metadata.read_header(weights)
    return metadata.KEY in texts and ours.is_ours(entries)


def _other_kind(config: Mapping[str, Any], path: Path) -> CheckpointError:
    kind = str(config.get("model_type", ""))
    if kind == "siglip2":
        what, fix = (
            "The model is a SigLIP 2 for pictures of any shape (NaFlex), which slip does not load",
            "Take one of a fixed size, such as google/siglip2-base-patch16-224",
        )
    elif kind in ("clip_text_model", "siglip_text_model"):
        what, fix = (
            "The model is a text tower alone, without images",
            "Give the whole model, with both towers",
        )
    elif kind:
        what, fix = (
            "The model is one of transformers, and neither a CLIP nor a SigLIP",
            "For an image tower alone, take a model of timm (`--init timm:NAME`)",
        )
    else:
        what, fix = (
            "The configuration is neither one of transformers nor one of timm",
            "Give the folder of a CLIP or SigLIP of transformers, or of a model of timm or open_clip",
        )
    return CheckpointError(what, got=f"model_type {kind or 'missing'}, in {path}", fix=fix)


def _image(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, *, siglip: bool
) -> ImageTowerConfig:
    """Take the image tower's tensors out of `state`; return its configuration."""
    if siglip and not vision.get("vision_use_head", True):
        raise _unsupported(spec, "a SigLIP without its pooling")
    if int(vision.get("num_channels", 3)) != 3:
        raise _unsupported(spec, f"for pictures of {vision['num_channels']} channels")
    trunk = "image_tower.trunk."
    names = {
        "vision_model.embeddings.patch_embedding.weight": "patch_embed.proj.weight",
        "vision_model.embeddings.patch_embedding.bias": "patch_embed.proj.bias",
        "vision_model.embeddings.class_embedding": "cls_token",
        "vision_model.embeddings.position_embedding.weight": "pos_embed",
        "vision_model.pre_layrnorm.weight": "norm_pre.weight",
        "vision_model.pre_layrnorm.bias": "norm_pre.bias",
        "vision_model.post_layernorm.weight": "norm.weight",
        "vision_model.post_layernorm.bias": "norm.bias",
        "vision_model.head.probe": "attn_pool.latent",
        **{
            f"vision_model.head.{theirs}.{kind}": f"attn_pool.{ours}.{kind}"
            for theirs, ours in {
                "attention.out_proj": "proj",
                "layernorm": "norm",
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
            }.items()
            for kind in ("weight", "bias")
        },
    }
    for entry, ours in names.items():
        if entry in state:
            value = state.pop(entry)
            if ours == "cls_token":
                value = value.reshape(1, 1, -1)
            found.put(trunk + ours, entry, value[None] if ours == "pos_embed" else value)
    for kind in ("weight", "bias"):  # queries, keys and values, one below the other
        entry = f"vision_model.head.attention.in_proj_{kind}"
        if entry in state:
            value = state.pop(entry)
            width = len(value) // 3
            found.put(f"{trunk}attn_pool.q.{kind}", entry, value[:width])
            found.put(f"{trunk}attn_pool.kv.{kind}", entry, value[width:])
    if not siglip and "text_projection.weight" in state and "visual_projection.weight" in state:
        found.put("image_projection", "visual_projection.weight", state.pop("visual_projection.weight").T)
    _layers("vision_model.", f"{trunk}blocks.", IN_TRUNK, state, found)
    return ImageTowerConfig(
        name="vit",
        patch=int(vision["patch_size"]),
        pool="attention" if siglip else "token",
        class_tokens=0 if siglip else 1,
        pre_norm=not siglip,
        unprojected=siglip,
        **_sizes(vision, spec),
    )


def _text(
    text: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, *, siglip: bool
) -> TextTowerConfig:
    """Take the text tower's tensors out of `state`; return its configuration."""
    vocabulary, end = int(text["vocab_size"]), text.get("eos_token_id")
    # Files of 2022 say 2, and mean the largest id of a text, as transformers itself does.
    if not siglip and (vocabulary != TextTowerConfig().vocabulary or end not in (2, vocabulary - 1)):
        raise _unsupported(
            spec, f"a CLIP with another tokenizer ({vocabulary:,} tokens, {end} at the end of a text)"
        )
    names = {
        "text_model.embeddings.token_embedding.weight": "text_tower.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "text_tower.positional_embedding",
        "text_model.final_layer_norm.weight": "text_tower.norm.weight",
        "text_model.final_layer_norm.bias": "text_tower.norm.bias",
        "text_model.head.weight": "text_projection",
        "text_model.head.bias": "text_projection_bias",
        "text_projection.weight": "text_projection",
    }
    for entry, ours in names.items():
        if entry in state:
            value = state.pop(entry)
            found.put(ours, entry, value.T if ours == "text_projection" else value)
    _layers("text_model.", "text_tower.blocks.", {}, state, found)
    return TextTowerConfig(
        context=int(text["max_position_embeddings"]),
        vocabulary=vocabulary,
        bidirectional=siglip,
        pool="last" if siglip else "end",
        projection_bias=siglip,
        **_sizes(text, spec),
    )


def _layers(
    prefix: str, ours: str, besides: Mapping[str, str], state: dict[str, Tensor], found: Mapped
) -> None:
    """Take a tower's layers out of `state`; queries, keys and values become one matrix."""
    pattern = re.compile(re.escape(prefix) + r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
    thirds: dict[tuple[str, str], dict[str, Tensor]] = {}
    for entry in [*state]:
        match = pattern.fullmatch(entry)
        if match is None:
            continue
        index, part, kind = match.groups()
        if part in LAYER:
            name = besides.get(LAYER[part], LAYER[part])
            found.put(f"{ours}{index}.{name}.{kind}", entry, state.pop(entry))
        elif part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            thirds.setdefault((index, kind), {})[part[10]] = state[entry]
    for (index, kind), each in thirds.items():
        if each.keys() == {"q", "k", "v"}:
            layer = f"{prefix}encoder.layers.{index}.self_attn."
            value = torch.cat([each[part] for part in "qkv"])
            found.put(
                f"{ours}{index}.{besides.get('qkv', 'qkv')}.{kind}", f"{layer}{{q,k,v}}_proj.{kind}", value
            )
            for part in "qkv":
                del state[f"{layer}{part}_proj.{kind}"]


def _sizes(tower: Mapping[str, Any], spec: str) -> dict[str, Any]:
    """Return the sizes that both towers have, by our names."""
    act = str(tower["hidden_act"])
    if act not in ACTIVATIONS:
        raise _unsupported(spec, f"one with the activation {act!r}")
    width, hidden = int(tower["hidden_size"]), int(tower["intermediate_size"])
    return {
        "width": width,
        "depth": int(tower["num_hidden_layers"]),
        "heads": int(tower["num_attention_heads"]),
        "mlp": 0 if hidden == 4 * width else hidden,
        "activation": ACTIVATIONS[act],
        "norm_eps": float(tower["layer_norm_eps"]),
    }


def _views(
    folder: Path, size: int, defaults: Mapping[str, Any], spec: str
) -> tuple[ViewsConfig, list[Path], list[str]]:
    """Return how pictures are prepared, the files that say so, and sentences on what slip does otherwise."""
    notes: list[str] = []
    path = next((folder / name for name in PREPROCESSING if (folder / name).is_file()), None)
    stated = read_config(path) if path is not None else {}
    stated = stated.get("image_processor", stated)
    if path is None:
        notes.append(
            f"{spec} has no {PREPROCESSING[0]}: pictures are prepared as for the first models of its kind"
        )
    resample, sides = stated.get("resample", 3), stated.get("size") or {}
    cropped = bool(stated.get("do_center_crop"))
    squashed = isinstance(sides, Mapping) and {"height", "width"} <= sides.keys() and not cropped
    crop = stated.get("crop_size") if cropped else sides
    wanted = crop.get("height", crop.get("shortest_edge")) if isinstance(crop, Mapping) else crop
    if isinstance(wanted, int) and wanted != size:
        notes.append(
            f"{spec} prepares pictures of {wanted} pixels, but its model takes {size}: slip prepares pictures of {size}"
        )
    short = sides.get("shortest_edge") if isinstance(sides, Mapping) else sides
    if cropped and isinstance(short, int) and isinstance(wanted, int) and short != wanted:
        notes.append(
            f"for {spec}, pictures were resized to {short} pixels and cropped to {wanted}; here they are resized to "
            f"{size} and cropped to a square"
        )
    normalised = stated.get("do_normalize") is not False
    views, told = views_of(
        size,
        stated.get("image_mean") or defaults["mean"] if normalised else (0.0, 0.0, 0.0),
        stated.get("image_std") or defaults["std"] if normalised else (1.0, 1.0, 1.0),
        RESAMPLING.get(resample, "") if isinstance(resample, int) else str(resample),
        spec,
        squash=squashed or (path is None and defaults is SIGLIP["views"]),
    )
    return views, [] if path is None else [path], [*notes, *told]


def _unsupported(spec: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"The model is {what}, which slip does not load",
        got=spec,
        fix="transformers loads it: `AutoModel.from_pretrained(FOLDER)`",
    )
