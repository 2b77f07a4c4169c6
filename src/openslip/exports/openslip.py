"""Export to our own format: a folder with the card and one safetensors file that describes its own model."""

from __future__ import annotations

from pathlib import Path

from openslip.encoder import Encoder
from openslip.exports.plan import Consumer, Plan
from openslip.interop import load, ours
from openslip.models.weights import Pretrained
from openslip.training.saving import metadata

USAGE = """import openslip
model = openslip.load("PLACE")
image = model.encode_image(["a.jpg"])
text = model.encode_text(["a red bicycle"])"""


def plan(encoder: Encoder, source: Pretrained) -> Plan:
    """Return how the model is written for `openslip.load`. Every model can be written."""
    weights = encoder.model.state_dict()

    def write(place: Path) -> None:
        place.mkdir()
        metadata.write_model(place / ours.WEIGHTS, weights, encoder.config)

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in weights.values()),
        library="openslip",
        majors=(0,),
        usage=USAGE if encoder.model.text_tower is not None else USAGE.rpartition("\n")[0],
        gives="features" if encoder.model.text_tower is None else "embeddings",
    )


def _load(place: Path) -> Consumer:
    model = load(place)
    if model.model.text_tower is None:
        return Consumer(model.image_features, picture=model.preprocess)
    return Consumer(model.encode_image, model.encode_text, model.preprocess)
