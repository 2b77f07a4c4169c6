"""Export a classifier to our own format: a folder with the card and one safetensors file that describes itself."""

from __future__ import annotations

from pathlib import Path

from openslip.classifier import FinetunedClassifier
from openslip.evaluation.finetune import state
from openslip.exports.plan import Consumer, Plan
from openslip.interop import ours
from openslip.training.saving.tensors import write_tensors

USAGE = """import openslip
classify = openslip.FinetunedClassifier("PLACE")
probabilities = classify(["a.jpg", "b.jpg"])
print(classify.names, probabilities)"""


def plan(classifier: FinetunedClassifier) -> Plan:
    """Return how the classifier is written for `openslip.FinetunedClassifier`. Every classifier can be written."""
    weights = classifier.module.state_dict()
    header = state.header(classifier.model.config, dict(classifier.about), classifier.recipe.epochs)

    def write(place: Path) -> None:
        place.mkdir()
        write_tensors(place / ours.WEIGHTS, weights, metadata=header)

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in weights.values()),
        library="openslip",
        majors=(0,),
        usage=USAGE,
        gives="logits",
    )


def _load(place: Path) -> Consumer:
    model = FinetunedClassifier(place).model
    return Consumer(model.image_features, picture=model.preprocess)
