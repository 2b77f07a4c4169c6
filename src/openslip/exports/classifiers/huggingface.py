"""Export a classifier to transformers: a folder for `AutoModelForImageClassification` and its pipeline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from openslip.classifier import FinetunedClassifier
from openslip.config import ImageTowerConfig
from openslip.errors import ExportError
from openslip.exports.classifiers.timm import of_timm, write_folder
from openslip.exports.huggingface import quiet, sizes
from openslip.exports.plan import Consumer, Plan
from openslip.interop.filling import in_full_precision
from openslip.interop.huggingface import RESAMPLING

USAGE = """from transformers import pipeline
classify = pipeline("image-classification", model="PLACE")
print(classify(picture))"""
NEEDS_TIMM = "the image tower is one of timm, so timm must be installed where transformers reads the folder"
LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Parts of a block in files of transformers' ViT, by timm's names. Queries, keys and values are apart."""


def plan(classifier: FinetunedClassifier) -> Plan:
    """Return how the classifier is written for transformers. Raises ExportError if transformers is not installed.

    A plain vision transformer whose feature is the class token becomes a ViTForImageClassification. Any other tower
    becomes a TimmWrapperForImageClassification: timm's own folder, which timm reads as well.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise ExportError(
            "transformers is not installed. It reads this format",
            fix="Run `pip install 'openslip[transformers]'`",
        ) from None
    image, notes = classifier.model.config.model.image, ()
    if _is_vit(image):
        settings, state = _vit(classifier)
    else:
        settings, state = of_timm(classifier, "huggingface")
        settings |= {"architectures": ["TimmWrapperForImageClassification"], "model_type": "timm_wrapper"}
        if settings["pretrained_cfg"].get("fixed_input_size"):  # which timm looks up by itself
            settings["model_args"] = {"img_size": classifier.model.size, **(settings.get("model_args") or {})}
        notes = (NEEDS_TIMM,)

    def write(place: Path) -> None:
        write_folder(place, settings, state)
        if _is_vit(image):
            pictures = json.dumps(_pictures(classifier), indent=2) + "\n"
            (place / "preprocessor_config.json").write_text(pictures)

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in state.values()),
        library="transformers",
        majors=(5,),
        usage=USAGE,
        notes=notes,
        gives="logits",
    )


def _is_vit(image: ImageTowerConfig) -> bool:
    """Say whether an image tower is transformers' ViT."""
    return image.name == "vit" and image.pool == "token" and image.class_tokens == 1 and not image.pre_norm


def _vit(classifier: FinetunedClassifier) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration of a ViTForImageClassification, and the tensors under the names that its files have."""
    config, names = classifier.model.config, classifier.names
    image = config.model.image
    settings = sizes(image) | {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "intermediate_size": image.mlp or 4 * image.width,
        "image_size": config.views.size,
        "patch_size": image.patch,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    weights = in_full_precision(classifier.module.state_dict())
    trunk, state = "tower.trunk.", {}
    alone = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
    }
    for name, value in weights.items():
        part, _, kind = name.removeprefix(trunk).rpartition(".")
        if name.startswith("head."):
            state[f"classifier.{kind}"] = value
        elif part.startswith("blocks."):
            index, _, inner = part.removeprefix("blocks.").partition(".")
            theirs = f"vit.encoder.layer.{index}."
            if inner == "attn.qkv":
                for called, third in zip(("query", "key", "value"), value.chunk(3)):
                    state[f"{theirs}attention.attention.{called}.{kind}"] = third
            else:
                state[f"{theirs}{LAYER[inner]}.{kind}"] = value
        else:
            state[f"{alone[part]}.{kind}" if part else alone[kind]] = value
    return settings, {name: value.contiguous() for name, value in state.items()}


def _pictures(classifier: FinetunedClassifier) -> dict[str, Any]:
    """Return how transformers must prepare pictures: as the finetuning's test did."""
    views, recipe = classifier.model.config.views, classifier.recipe
    crop, square = views.fit == "crop", {"height": views.size, "width": views.size}
    return {
        "image_processor_type": "CLIPImageProcessor" if crop else "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": math.floor(views.size / recipe.crop)} if crop else square,
        "do_center_crop": crop,
        **({"crop_size": square} if crop else {}),
        "resample": next(number for number, name in RESAMPLING.items() if name == recipe.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(views.mean),
        "image_std": list(views.std),
    }


def _load(place: Path) -> Consumer:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    with quiet():
        model: Any = AutoModelForImageClassification.from_pretrained(place).eval()
    processor: Any = AutoImageProcessor.from_pretrained(place)
    return Consumer(
        lambda pictures: model(pixel_values=pictures).logits,
        picture=lambda one: processor(images=[one.convert("RGB")], return_tensors="pt")["pixel_values"][0],
    )
