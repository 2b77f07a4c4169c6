"""Export to timm: the image tower alone, in a folder for timm's `local-dir:` or a hub repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from openslip.config import Config
from openslip.encoder import Encoder
from openslip.exports.plan import Consumer, Plan, cannot
from openslip.interop.filling import in_full_precision
from openslip.interop.timm import VITS, pool_of
from openslip.models.vision import POOLS, ImageTower
from openslip.models.weights import Pretrained

USAGE = """import timm
model = timm.create_model("local-dir:PLACE", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = model(transform(picture).unsqueeze(0))"""
VIT = {"fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head"}
"""What timm says of each of its towers, here of a plain vision transformer."""


def described(config: Config, tower: ImageTower, to: str = "timm") -> dict[str, Any]:
    """Return timm's config.json of an image tower. Raises ExportError, for the format `to`, if timm has none."""
    image, views, trunk = config.model.image, config.views, tower.trunk
    architecture, options = image.name, dict[str, Any]()
    if image.name == "vit":
        if image.norm_eps not in VITS:
            raise cannot(to, f"its norms have an eps of {image.norm_eps:g}, and timm's have 1e-06 or 1e-05")
        architecture = VITS[image.norm_eps]
        options |= {
            "img_size": views.size,
            "patch_size": image.patch,
            "embed_dim": image.width,
            "depth": image.depth,
            "num_heads": image.heads,
            "global_pool": POOLS[image.pool],
            "class_token": bool(image.class_tokens),
            "pre_norm": image.pre_norm,
            "act_layer": image.activation,
        }
        if image.mlp:
            options["mlp_ratio"] = (image.mlp + 0.5) / image.width  # which timm rounds down
    usual = dict(getattr(trunk, "pretrained_cfg", None) or VIT)
    pretrained = {
        "custom_load": False,
        "input_size": [3, views.size, views.size],
        "interpolation": views.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash" if views.fit == "squash" else "center",
        "mean": list(views.mean),
        "std": list(views.std),
        "num_classes": 0,
        **{key: usual[key] for key in VIT if key in usual},
    }
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": tower.width,
        "pretrained_cfg": pretrained,
        **({"global_pool": pool} if (pool := pool_of(trunk)) and not options else {}),
        **({"model_args": options} if options else {}),
    }


def plan(encoder: Encoder, source: Pretrained) -> Plan:
    """Return how the image tower is written for timm. Raises ExportError if timm has no such tower.

    A plain vision transformer is one of timm's with other numbers (`model_args`); any other tower is timm's own.
    """
    trunk, settings = encoder.model.image_tower.trunk, described(encoder.config, encoder.model.image_tower)
    state = {name: value.contiguous() for name, value in in_full_precision(trunk.state_dict()).items()}
    notes = ()
    if encoder.model.image_projection is not None:
        notes = ("timm has the image tower's features: the projection to the space of texts is left out",)

    def write(place: Path) -> None:
        place.mkdir()
        save_file(state, place / "model.safetensors", metadata={"format": "pt"})
        (place / "config.json").write_text(json.dumps(settings, indent=2) + "\n")

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in state.values()),
        library="timm",
        majors=(1,),
        usage=USAGE,
        notes=notes,
        gives="features",
    )


def _load(place: Path) -> Consumer:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    settings: Any = resolve_model_data_config(model)
    picture: Any = create_transform(**settings)
    return Consumer(image=model, picture=picture)
