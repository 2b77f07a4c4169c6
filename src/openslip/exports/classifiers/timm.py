"""Export a classifier to timm: image tower and head, in timm's own place, in a folder for `local-dir:` or the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from torch import Tensor

from openslip.classifier import FinetunedClassifier
from openslip.evaluation.finetune.data import prepared
from openslip.exports.plan import Consumer, Plan, cannot
from openslip.exports.timm import described
from openslip.interop.filling import in_full_precision
from openslip.models.blank import without_initialising

USAGE = """import timm
model = timm.create_model("local-dir:PLACE", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
probabilities = model(transform(picture).unsqueeze(0)).softmax(dim=-1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()])"""


def plan(classifier: FinetunedClassifier) -> Plan:
    """Return how the classifier is written for timm. Raises ExportError if timm has no such tower, or no place for
    a linear head on the tower's feature."""
    settings, state = of_timm(classifier)

    def write(place: Path) -> None:
        write_folder(place, settings, state)

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in state.values()),
        library="timm",
        majors=(1,),
        usage=USAGE,
        gives="logits",
    )


def of_timm(classifier: FinetunedClassifier, to: str = "timm") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return timm's config.json of the classifier, and the tensors under timm's names. Raises ExportError as `plan`."""
    config, tower, names = classifier.model.config, classifier.module.tower, classifier.names
    settings = described(config, tower, to)
    pretrained = settings["pretrained_cfg"] | prepared(classifier.recipe, config.views)
    settings |= {
        "num_classes": len(names),
        "label_names": list(names),
        "pretrained_cfg": pretrained | {"num_classes": len(names)},
    }
    trunk = in_full_precision(tower.trunk.state_dict())
    options = dict(settings.get("model_args") or {})
    if "global_pool" in settings:
        options["global_pool"] = settings["global_pool"]
    with without_initialising():
        there = timm.create_model(settings["architecture"], num_classes=len(names), **options).state_dict()
    head = _in_place(there, trunk, classifier, pretrained.get("classifier"))
    if not head or there.keys() != (trunk | head).keys():
        raise cannot(
            to,
            f"timm's {settings['architecture']} has more between the feature and the classes than a linear layer",
            "Export it with --to onnx or openslip",
        )
    return settings, {name: value.contiguous() for name, value in (trunk | head).items()}


def _in_place(
    there: dict[str, Tensor], trunk: dict[str, Tensor], classifier: FinetunedClassifier, called: Any
) -> dict[str, Tensor]:
    """Return the head's tensors under timm's names. A tower that averages two heads, such as DeiT's with a token for
    distillation, gets the head twice."""
    own = classifier.module.head.state_dict()
    state = {}
    for place in [called] if isinstance(called, str) else list(called or ()):
        for kind, value in own.items():
            name = f"{place}.{kind}"
            if name in there and name not in trunk and there[name].numel() == value.numel():
                state[name] = value.float().reshape(
                    there[name].shape
                )  # some heads are convolutions of one pixel
    return state


def write_folder(place: Path, settings: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Write the folder that timm reads."""
    place.mkdir()
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    (place / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _load(place: Path) -> Consumer:
    from timm.data import create_transform, resolve_model_data_config

    model = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    settings: Any = resolve_model_data_config(model)
    picture: Any = create_transform(**settings)
    return Consumer(image=model, picture=picture)
