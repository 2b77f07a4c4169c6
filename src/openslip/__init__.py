"""SLIP: image-text models with self-supervision, trained on your own pictures.

    import openslip

    model = openslip.load("runs/small-data")            # or a file of weights, or a released SLIP .pt file
    images = model.encode_image(["a.jpg", "b.jpg"])  # (2, embed_dim), unit length
    texts = model.encode_text(["a red bicycle"])     # (1, embed_dim), unit length
    similarity = images @ texts.T

    found = model.encode_image(paths, errors="skip")  # goes on without pictures that cannot be used
    found.values, found.kept, found.skipped           # (K, embed_dim), K indices, and the skipped pictures with reasons

    openslip.embed(model, "photos/", "vectors")       # once; then only what is new or has changed
    openslip.Index.open("vectors").search("a red bicycle", top=5)

Models come in evaluation mode, and any number of threads may use one at once. docs/use.md describes all calls.

Importing this package is cheap; PyTorch is imported when something is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from openslip import recipes
    from openslip.classifier import FinetunedClassifier, LinearClassifier, ZeroShotClassifier
    from openslip.config import Config
    from openslip.data.sources import open_source
    from openslip.encoder import Encoded, Encoder
    from openslip.errors import SlipError
    from openslip.evaluation.results import Results
    from openslip.exports import export
    from openslip.exports.pull import pull
    from openslip.exports.push import push
    from openslip.interop import load
    from openslip.interop.mixing import mix
    from openslip.pictures import find_pictures
    from openslip.search.embed import embed
    from openslip.search.index import Index
    from openslip.training.train import train

    __version__: str

__all__ = [
    "Config",
    "Encoded",
    "Encoder",
    "FinetunedClassifier",
    "Index",
    "LinearClassifier",
    "SlipError",
    "ZeroShotClassifier",
    "create",
    "embed",
    "evaluate",
    "export",
    "find_pictures",
    "load",
    "mix",
    "open_source",
    "pull",
    "push",
    "recipes",
    "train",
]

_HOMES = {
    "Config": "openslip.config",
    "Encoded": "openslip.encoder",
    "Encoder": "openslip.encoder",
    "FinetunedClassifier": "openslip.classifier",
    "Index": "openslip.search.index",
    "LinearClassifier": "openslip.classifier",
    "SlipError": "openslip.errors",
    "ZeroShotClassifier": "openslip.classifier",
    "embed": "openslip.search.embed",
    "export": "openslip.exports",
    "find_pictures": "openslip.pictures",
    "load": "openslip.interop",
    "mix": "openslip.interop.mixing",
    "open_source": "openslip.data.sources",
    "pull": "openslip.exports.pull",
    "push": "openslip.exports.push",
    "train": "openslip.training.train",
}


def create(recipe: str | Config) -> Encoder:
    """Return a freshly initialised model for a recipe's name or a configuration, ready to encode.

    The model is in evaluation mode, like a loaded model. To train the model in a loop of your own, first call
    `encoder.model.train()`, and call `encoder.eval()` before you encode with it. The weights that the configuration's
    `init` names are for training, and not read here; `openslip.load` takes the same names.

    Raises ConfigError for an unknown recipe or a configuration whose values do not fit together.
    """
    from openslip import recipes
    from openslip.encoder import Encoder

    return Encoder.from_config(recipes.get(recipe) if isinstance(recipe, str) else recipe)


def evaluate(model: Encoder | str | Path, *tasks: str, **options: Any) -> Results:
    """Measure a model, and return every number with its interval and sample count; nothing is written.

    The list of results prints as a table.

    model: a loaded model, or what `load` takes. tasks: `zeroshot:photos/`, `retrieval:test.csv`, and all other tasks of
    `slip evaluate`. options: fields of the protocols' classes that all these tasks have, such as `k`.

    Raises ConfigError for no task or a wrong task, DataError and EvaluationError for a task that cannot be measured,
    and the errors of `load`.
    """
    from openslip.encoder import Encoder
    from openslip.errors import ConfigError
    from openslip.evaluation import suite
    from openslip.evaluation.results import Results
    from openslip.interop import load

    if not tasks:
        raise ConfigError("There is no task to measure", fix='Name one: evaluate(model, "zeroshot:photos/")')
    parsed = [suite.parse_task(one, **options) for task in tasks for one in suite.each(task)]
    return Results(suite.run(model if isinstance(model, Encoder) else load(model), parsed))


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return import_module("openslip.recipes")
    if name == "__version__":
        from importlib.metadata import version

        return version("openslip")
    if name not in _HOMES:
        raise AttributeError(f"module 'openslip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
