"""The card of a classifier: its classes, what it was finetuned on and from, how good it is, and its limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from openslip.classifier import FinetunedClassifier
from openslip.config import as_typed
from openslip.errors import SlipError
from openslip.evaluation import KEPT_IN, Result
from openslip.evaluation.finetune.recipe import LinearRecipe
from openslip.evaluation.results import COLUMNS_SHOWN, FILE
from openslip.evaluation.results import read as read_results
from openslip.exports import card
from openslip.exports.history import History, history
from openslip.exports.plan import Plan
from openslip.interop import ours
from openslip.report.description import image_tower
from openslip.training.fixed import millions

SHOWN = 50
"""Classes that the card lists. The others are counted."""


def write(
    given: Path,
    classifier: FinetunedClassifier,
    plan: Plan,
    to: str,
    place: Path,
    title: str,
    wanted: card.Wanted,
) -> None:
    """Write the card of an exported classifier into its folder. given: what was exported."""
    text = rendered(given, classifier, plan, to, title, wanted)
    (place / card.NAME).write_text(text, encoding="utf-8")


def rendered(
    given: Path, classifier: FinetunedClassifier, plan: Plan, to: str, title: str, wanted: card.Wanted
) -> str:
    """Return the text of a card. It begins with the front matter for the hub, between lines of dashes."""
    results, told = _results(given), _run_of(given)
    base = card.base_model(told.init) if told else ""
    names = classifier.names
    data = {
        "front_matter": Markup(_front_matter(to, wanted, base)),
        "title": title,
        "count": len(names),
        "names": names[:SHOWN],
        "more": len(names) - SHOWN,
        "notes": Markup(wanted.notes),
        "usage": Markup(card.usage(plan, wanted.repository or title, hub=bool(wanted.repository))),
        "remarks": (*plan.of_version(), *plan.notes),
        "model": _model(classifier),
        "training": _training(given, classifier, told, results),
        "columns": COLUMNS_SHOWN,
        "results": card.rows(results),
        "license": card.licence(wanted),
        "base_model": base,
    }
    return card.environment().get_template("classifier.md.j2").render(data)


def _front_matter(to: str, wanted: card.Wanted, base: str) -> str:
    """Return the YAML that the hub reads."""
    from huggingface_hub import ModelCardData

    values: dict[str, Any] = {
        "library_name": card.LIBRARIES.get(to, to),
        "pipeline_tag": "image-classification",
        "license": wanted.license or None,
        "base_model": base or None,
        "tags": ["openslip", "image-classification"],
    }
    return ModelCardData(**values).to_yaml().strip()


def _model(classifier: FinetunedClassifier) -> list[tuple[str, str]]:
    """Return what the classifier is, by topic."""
    views, recipe = classifier.model.config.views, classifier.recipe
    count = sum(value.numel() for value in classifier.module.parameters())
    fit = (
        f"the middle {100 * recipe.crop:.3g} % of the short side"
        if views.fit == "crop"
        else "squashed to a square"
    )
    return [
        ("Image tower", image_tower(classifier.model.config)),
        ("Head", f"linear, {len(classifier.names)} classes"),
        ("Parameters", millions(count)),
        (
            "Pictures",
            f"{views.size} × {views.size} pixels, {recipe.interpolation}, {fit}; mean {as_typed(views.mean)}, "
            f"deviation {as_typed(views.std)}",
        ),
    ]


def _training(
    given: Path, classifier: FinetunedClassifier, told: History | None, results: list[Result]
) -> list[str]:
    """Return sentences: what the classifier was finetuned on and how, and what its tower had learned before."""
    about, recipe = classifier.about, classifier.recipe
    name = next((card.last_parts(result.task.partition(":")[2]) for result in results), "")
    on = f" of {name}" if name else ""
    frozen = recipe.name == LinearRecipe.name
    what = "A layer on the frozen tower was trained" if frozen else "Tower and head were finetuned"
    lines = [
        f"{what} on {about['images']:,} labelled pictures{on}, by the recipe {recipe.name}: "
        f"{recipe.epochs} epochs in batches of {min(recipe.batch, about['images'] // 2 * 2)}, seed {about['seed']}",
        f"The tower was trained before with the loss `{card.last_parts(classifier.model.config.objective.loss)}`",
    ]
    if told is None:
        return [*lines, "What it was trained on before is not known here"]
    for source, records in card.sources(told):
        lines.append(f"The tower was trained before on {source}, {records} records")
    return lines


def _results(given: Path) -> list[Result]:
    """Return the results of the classifier in a folder."""
    try:
        return read_results(given / FILE) if given.is_dir() else []
    except SlipError:
        return []


def _run_of(given: Path) -> History | None:
    """Return what the run says that contains a finetuning; None if no run contains it."""
    folder = Path(os.path.abspath(given))
    run = folder.parent.parent
    inside = folder.parent.name in KEPT_IN and (run / ours.SETTINGS).is_file()
    return history(run, "latest") if inside else None
