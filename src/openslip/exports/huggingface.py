"""Export to transformers: a folder for `from_pretrained` or a hub repository, with processor and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from openslip.data.tokenizer import END, START
from openslip.encoder import Encoder
from openslip.errors import ExportError
from openslip.exports import timm
from openslip.exports.plan import TEXTS as EVERY_TEXT
from openslip.exports.plan import Consumer, Plan, cannot
from openslip.exports.tokenizer_files import TEXTS, TokenizerFiles, clip_vocabulary, of_own
from openslip.interop.filling import in_full_precision
from openslip.interop.huggingface import ACTIVATIONS, IN_TRUNK, LAYER, RESAMPLING
from openslip.models.weights import Pretrained

USAGE = """from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained("PLACE"), AutoProcessor.from_pretrained("PLACE")
inputs = processor(text=["a red bicycle"], images=[picture], return_tensors="pt", padding=True, truncation=True)
outputs = model(**inputs)
print(outputs.image_embeds @ outputs.text_embeds.T)"""
CLEANING = (
    "transformers' tokenizer does not clean texts as slip's does: broken letters (ftfy) and HTML such as &amp; stay, "
    "and captions with them have other embeddings"
)
THEIRS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
"""transformers' names of activations, by ours."""


def plan(encoder: Encoder, source: Pretrained) -> Plan:
    """Return how the model is written for transformers. Raises ExportError if transformers has no such model.

    A model with CLIP's own image tower becomes a CLIPModel, a SigLIP a SiglipModel. Any other becomes a
    VisionTextDualEncoderModel with CLIP's text tower: a plain vision transformer is a Dinov2Model whose layers are
    scaled by 1, and a tower of timm stays one.
    """
    try:
        import transformers
    except ImportError:
        raise ExportError(
            "transformers is not installed. It writes and reads this format",
            fix="Run `pip install 'openslip[transformers]'`",
        ) from None

    config, model = encoder.config.model, encoder.model
    if model.text_tower is None:
        raise cannot("huggingface", "it has no text tower", "Export the image tower with --to timm")
    _check(config)
    weights = in_full_precision(model.state_dict())
    made = (
        _siglip(encoder, weights, source, model.text_tower.own_tokenizer)
        if _is_siglip(config)
        else _clip(encoder, weights)
        if _is_clip(config.image)
        else _dual(encoder, weights)
    )

    def write(place: Path) -> None:
        with torch.device("meta"):
            empty = getattr(transformers, made.kind)(made.settings)
        own = {name: (_newer(name), value) for name, value in empty.state_dict().items()}
        filled = {name: _fitting(newer, made.state, value) for name, (newer, value) in own.items()}
        if unplaced := made.state.keys() - {newer for newer, _ in own.values()}:
            raise ExportError(
                "The installed transformers has no place for some weights",
                got=", ".join(sorted(unplaced)[:3]),
                fix="Install another version of transformers",
            )
        with quiet():
            empty.save_pretrained(place, state_dict=filled)
        _write_pictures(place, encoder, made)
        _write_tokenizer(place, encoder, made)

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in made.state.values()),
        library="transformers",
        majors=(5,),
        usage=USAGE.replace("padding=True", f"padding={made.padding}"),
        notes=made.notes,
        texts=made.texts,
    )


@dataclass(frozen=True)
class Made:
    """A model of transformers: its class and configuration, the tensors under its names, and what people should know.

    processor: the class that puts pictures and texts together. tokenizer: the files of a tokenizer that the weights
    bring; None for CLIP's. texts: texts of which the tokenizer makes the same ids as slip's. padding: the argument of
    the tokenizer's calls, as Python source.
    """

    kind: str
    settings: Any
    state: dict[str, Tensor]
    processor: str
    notes: tuple[str, ...] = (CLEANING,)
    tokenizer: TokenizerFiles | None = None
    texts: tuple[str, ...] = TEXTS
    padding: str = "True"


def _clip(encoder: Encoder, weights: dict[str, Tensor]) -> Made:
    """Return a model as a CLIPModel."""
    from transformers import CLIPConfig

    config = encoder.config.model
    settings = CLIPConfig(
        text_config=_text_options(config.text),
        vision_config=_vision_options(config.image, encoder.size),
        projection_dim=config.embed_dim,
    )
    return Made(
        "CLIPModel", settings, _clip_state(weights) | _texts_and_projections(weights), "CLIPProcessor"
    )


def _dual(encoder: Encoder, weights: dict[str, Tensor]) -> Made:
    """Return a model as a VisionTextDualEncoderModel."""
    from transformers import VisionTextDualEncoderConfig

    config = encoder.config.model
    options, vision = _other(encoder, weights)
    settings = VisionTextDualEncoderConfig(
        vision_config=options,
        text_config=_text_options(config.text) | {"model_type": "clip_text_model"},
        projection_dim=config.embed_dim,
    )
    listed = "transformers' zero-shot pipeline takes the model, but prints that its kind is not on a list"
    state = vision | _texts_and_projections(weights)
    processor = "VisionTextDualEncoderProcessor"
    return Made("VisionTextDualEncoderModel", settings, state, processor, (CLEANING, listed))


def _siglip(encoder: Encoder, weights: dict[str, Tensor], source: Pretrained, own: bytes) -> Made:
    """Return a model as a SiglipModel. own: the bytes of its tokenizer."""
    from transformers import SiglipConfig

    config, tokenizer = encoder.config.model, of_own(own)
    if tokenizer.clean not in ("none", "siglip"):
        raise cannot(
            "huggingface", f"its tokenizer cleans texts in a way transformers does not ({tokenizer.clean})"
        )
    text = _text_options(config.text) | {"projection_size": config.embed_dim}
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        del text[token]
    settings = SiglipConfig(text_config=text, vision_config=_vision_options(config.image, encoder.size))
    bias = source.weights.get("objective.siglip.bias", torch.zeros(()))
    state = (
        _siglip_state(weights)
        | _text_state(weights)
        | {
            "text_model.head.weight": weights["text_projection"].T,
            "text_model.head.bias": weights["text_projection_bias"],
            "logit_scale": weights["logit_scale"].reshape(1),
            "logit_bias": bias.detach().float().reshape(1),
        }
    )
    return Made(
        "SiglipModel",
        settings,
        state,
        "SiglipProcessor",
        (),
        tokenizer,
        texts=EVERY_TEXT,
        padding='"max_length"',
    )


def _load(place: Path) -> Consumer:
    from transformers import AutoModel, AutoProcessor

    with quiet():
        model: Any = AutoModel.from_pretrained(place).eval()
    processor: Any = AutoProcessor.from_pretrained(place)

    def image(pictures: Tensor) -> Tensor:
        return _vectors(model.get_image_features(pixel_values=pictures))

    def text(texts: list[str]) -> Tensor:
        padding = "max_length" if model.config.model_type == "siglip" else True
        given = processor(text=texts, return_tensors="pt", padding=padding, truncation=True)
        return _vectors(model.get_text_features(**given))

    def picture(one: Image.Image) -> Tensor:
        return processor(images=[one], return_tensors="pt")["pixel_values"][0]

    return Consumer(image, text, picture)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars for what takes a moment."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _vectors(given: Any) -> Tensor:
    """Return the embeddings. transformers 4 gives a tensor, and 5 an object that holds the tensor."""
    return given if isinstance(given, Tensor) else given.pooler_output


def _check(config: ModelConfig) -> None:
    """Raise ExportError for a model that fits no class of transformers."""
    if _is_siglip(config):
        return
    text, image = config.text, config.image
    if text.tokenizer:
        raise cannot("huggingface", "it has its own tokenizer, but is not a SigLIP as in transformers")
    if text.pool != "end" or text.bidirectional:
        raise cannot(
            "huggingface", "its text tower sees all tokens at once, but CLIP's in transformers does not"
        )
    if text.truncation != "keep-end":
        raise cannot(
            "huggingface",
            f"it cuts long texts with model.text.truncation {text.truncation}, but transformers keeps the end token",
            "Train with keep-end, or export with --to reference",
        )
    if image.unprojected or image.projection_bias or text.projection_bias:
        raise cannot(
            "huggingface",
            "its projections have a bias, or it has no projection of images",
            "Export it with --to open_clip",
        )


def _is_siglip(config: ModelConfig) -> bool:
    """Say whether both towers are those of a SigLIP in transformers."""
    image, text = config.image, config.text
    return (
        image.name == "vit"
        and image.pool == "attention"
        and image.class_tokens == 0
        and not image.pre_norm
        and image.unprojected
        and text.pool == "last"
        and text.bidirectional
        and text.projection_bias
        and text.tokenizer > 0
    )


def _is_clip(image: ImageTowerConfig) -> bool:
    """Say whether an image tower is of CLIP's kind."""
    return image.name == "vit" and image.pool == "token" and image.class_tokens == 1 and image.pre_norm


def sizes(tower: ImageTowerConfig | TextTowerConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "hidden_act": THEIRS[tower.activation],
        "layer_norm_eps": tower.norm_eps,
    }


def _text_options(text: TextTowerConfig) -> dict[str, Any]:
    return sizes(text) | {
        "intermediate_size": text.mlp or 4 * text.width,
        "max_position_embeddings": text.context,
        "vocab_size": text.vocabulary,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }


def _vision_options(image: ImageTowerConfig, size: int) -> dict[str, Any]:
    return sizes(image) | {
        "intermediate_size": image.mlp or 4 * image.width,
        "image_size": size,
        "patch_size": image.patch,
    }


def _text_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the text tower's tensors under transformers' names."""
    state = {
        "text_model.embeddings.token_embedding.weight": weights["text_tower.token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["text_tower.positional_embedding"],
        "text_model.final_layer_norm.weight": weights["text_tower.norm.weight"],
        "text_model.final_layer_norm.bias": weights["text_tower.norm.bias"],
    }
    return state | _layers("text_tower.blocks.", "text_model.encoder.layers.", LAYER, {}, weights)


def _texts_and_projections(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the text tower, both projections and the logit scale under transformers' names."""
    return _text_state(weights) | {
        "visual_projection.weight": weights["image_projection"].T,
        "text_projection.weight": weights["text_projection"].T,
        "logit_scale": weights["logit_scale"],
    }


def _siglip_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of SigLIP's image tower under transformers' names."""
    trunk, theirs = "image_tower.trunk.", "vision_model."
    state = {
        f"{theirs}embeddings.position_embedding.weight": weights[f"{trunk}pos_embed"][0],
        f"{theirs}head.probe": weights[f"{trunk}attn_pool.latent"],
    }
    parts = {"attention.out_proj": "proj", "layernorm": "norm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for kind in ("weight", "bias"):
        state[f"{theirs}embeddings.patch_embedding.{kind}"] = weights[f"{trunk}patch_embed.proj.{kind}"]
        state[f"{theirs}post_layernorm.{kind}"] = weights[f"{trunk}norm.{kind}"]
        thirds = [weights[f"{trunk}attn_pool.{part}.{kind}"] for part in ("q", "kv")]
        state[f"{theirs}head.attention.in_proj_{kind}"] = torch.cat(thirds)
        for their, ours in parts.items():
            state[f"{theirs}head.{their}.{kind}"] = weights[f"{trunk}attn_pool.{ours}.{kind}"]
    return state | _layers(f"{trunk}blocks.", f"{theirs}encoder.layers.", LAYER, IN_TRUNK, weights)


def _clip_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of CLIP's own image tower under transformers' names."""
    trunk, theirs = "image_tower.trunk.", "vision_model."
    state = {
        f"{theirs}embeddings.class_embedding": weights[f"{trunk}cls_token"].reshape(-1),
        f"{theirs}embeddings.patch_embedding.weight": weights[f"{trunk}patch_embed.proj.weight"],
        f"{theirs}embeddings.position_embedding.weight": weights[f"{trunk}pos_embed"][0],
    }
    for kind in ("weight", "bias"):
        state[f"{theirs}pre_layrnorm.{kind}"] = weights[f"{trunk}norm_pre.{kind}"]
        state[f"{theirs}post_layernorm.{kind}"] = weights[f"{trunk}norm.{kind}"]
    return state | _layers(f"{trunk}blocks.", f"{theirs}encoder.layers.", LAYER, IN_TRUNK, weights)


def _other(encoder: Encoder, weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return transformers' description of another image tower, and its tensors under transformers' names."""
    image, trunk, theirs = encoder.config.model.image, "image_tower.trunk.", "vision_model."
    plain = image.name == "vit" and image.pool == "token" and image.class_tokens == 1 and not image.mlp
    if not plain:
        settings = timm.described(encoder.config, encoder.model.image_tower, "huggingface")
        options = {
            "model_type": "timm_wrapper",
            "architecture": settings["architecture"],
            "model_args": settings.get("model_args") or {},
            "num_labels": 0,
            "initializer_range": 0.02,
            "do_pooling": True,
            "hidden_size": encoder.model.image_tower.width,
            "pretrained_cfg": settings["pretrained_cfg"],
        }
        state = {
            name.replace(trunk, f"{theirs}timm_model.", 1): value
            for name, value in weights.items()
            if name.startswith(trunk)
        }
        return options, state
    options = sizes(image) | {
        "model_type": "dinov2",
        "image_size": encoder.size,
        "patch_size": image.patch,
        "mlp_ratio": 4,
        "layerscale_value": 1.0,
    }
    state = {
        f"{theirs}embeddings.cls_token": weights[f"{trunk}cls_token"],
        f"{theirs}embeddings.mask_token": torch.zeros(1, image.width),
        f"{theirs}embeddings.position_embeddings": weights[f"{trunk}pos_embed"],
    }
    for kind in ("weight", "bias"):
        state[f"{theirs}embeddings.patch_embeddings.projection.{kind}"] = weights[
            f"{trunk}patch_embed.proj.{kind}"
        ]
        state[f"{theirs}layernorm.{kind}"] = weights[f"{trunk}norm.{kind}"]
    layer = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention.o_proj": "proj",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
    }
    state |= _layers(f"{trunk}blocks.", f"{theirs}encoder.layer.", layer, IN_TRUNK, weights, "attention.")
    for index in range(image.depth):
        for part in ("layer_scale1", "layer_scale2"):
            state[f"{theirs}encoder.layer.{index}.{part}.lambda1"] = torch.ones(image.width)
    return options, state


def _layers(
    ours: str,
    theirs: str,
    layer: dict[str, str],
    besides: dict[str, str],
    weights: dict[str, Tensor],
    attention: str = "self_attn.",
) -> dict[str, Tensor]:
    """Return the tensors of a tower's blocks under transformers' names: queries, keys and values apart."""
    state = {}
    for name, value in weights.items():
        if not name.startswith(ours):
            continue
        index, _, inner = name.removeprefix(ours).partition(".")
        part, _, kind = inner.rpartition(".")
        if part == besides.get("qkv", "qkv"):
            for letter, third in zip("qkv", value.chunk(3)):
                state[f"{theirs}{index}.{attention}{letter}_proj.{kind}"] = third
            continue
        (called,) = [one for one, plain in layer.items() if besides.get(plain, plain) == part]
        state[f"{theirs}{index}.{called}.{kind}"] = value
    return state


NEWER = {
    "text_model.text_model.": "text_model.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""transformers' names of parts of a model before 5.6 (text towers) and 5.18 (Dinov2Model) → its names now."""


def _newer(name: str) -> str:
    """Return today's name for a parameter that the installed transformers calls `name`."""
    for older, newer in NEWER.items():
        name = name.replace(older, newer)
    return name


def _fitting(name: str, state: dict[str, Tensor], place: Tensor) -> Tensor:
    """Return the tensor for a place in a model. Raises ExportError if there is none of that shape."""
    if name in state and state[name].shape == place.shape:
        return state[name].to(torch.float32 if place.is_floating_point() else place.dtype).contiguous()
    if name.endswith("position_ids"):
        return torch.arange(place.shape[-1]).expand(place.shape)
    raise ExportError(
        "The installed transformers wants weights that the model does not have",
        got=f"{name} {tuple(place.shape)}",
        fix="Install another version of transformers",
    )


def _write_pictures(place: Path, encoder: Encoder, made: Made) -> None:
    """Write how pictures are prepared."""
    views, size = encoder.config.views, encoder.size
    crop, square = views.fit == "crop", {"height": size, "width": size}
    settings = {
        "image_processor_type": "CLIPImageProcessor" if crop else "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size} if crop else square,
        "do_center_crop": crop,
        **({"crop_size": square} if crop else {}),
        "resample": next(number for number, name in RESAMPLING.items() if name == views.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(views.mean),
        "image_std": list(views.std),
        "processor_class": made.processor,
    }
    (place / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _write_tokenizer(place: Path, encoder: Encoder, made: Made) -> None:
    """Write the tokenizer: CLIP's, or the one that the weights bring."""
    from transformers import CLIPTokenizer

    context = encoder.config.model.text.context
    if made.tokenizer is not None:
        settings = json.loads(made.tokenizer.config)
        settings |= {"model_max_length": context, "processor_class": made.processor}
        settings["model_input_names"] = ["input_ids"]  # no mask: SigLIP's texts see their padding
        (place / "tokenizer.json").write_text(made.tokenizer.tokenizer)
        (place / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        return
    vocabulary, merges = clip_vocabulary()
    pairs: Any = merges
    CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=context).save_pretrained(place)
