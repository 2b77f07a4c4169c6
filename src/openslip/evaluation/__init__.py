"""Honest measurements of a model: one file a protocol, all behind one small interface.

Every number is a `Result`, with its count of samples and its 95 % interval. Importing this package is cheap: each
protocol imports what it needs. `suite` turns names such as `zeroshot:scenes` into evaluators and runs them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from openslip.evaluation.measures import lower_is_better, measure

if TYPE_CHECKING:
    from openslip.encoder import Encoder
    from openslip.evaluation.outcomes import Answers, Outcomes

__all__ = [
    "COLUMNS",
    "KEPT_IN",
    "ON_CAPTIONED",
    "TRAINED",
    "Evaluator",
    "Result",
    "lower_is_better",
    "measure",
    "settings",
]

ON_CAPTIONED = ("retrieval", "geometry")
"""Protocols that measure on captioned pictures; the other protocols take labelled pictures."""
TRAINED = ("linear", "finetune")
"""Protocols that train a classifier, which a run keeps."""
KEPT_IN = ("linear", "linear-paper", "finetune")
"""Folders of a run that hold a folder for each classifier that the run keeps."""


@dataclass(frozen=True)
class Result:
    """One measured number.

    task: what was measured, `protocol:dataset`, for example `zeroshot:cifar10`.
    metric: for example `top1`, `mean_per_class`, `text_recall@10`.
    value: in the unit that `openslip.evaluation.measures` has for the metric, mostly a share in [0, 1]. The first
    result of a task stands for the task.
    count: samples (or queries) that the value is a mean over; 0 if the count is not known.
    low, high: 95 % interval of the value, for other samples drawn in the same way (see `openslip.evaluation.metrics`).
    Both are nan if no honest interval is known, for example for numbers that another library computed.
    skipped: samples that could not be read; `count` leaves them out.
    data: the path or address of the data, or `scenes:…`. It tells data with the same short name apart.
    split: `train`, `val`, `test`, or `all` for data without splits. prompts: the prompts for the classes.
    settings: other settings that differ from the protocol's defaults, for example `k=5`.
    checkpoint: the state of the model, for example `step-00000400`. content: a digest of the pictures, labels and names
    that were measured, which tells them from other data at the same location. classifier: the folder that keeps the
    classifier trained for this measurement, a linear probe or a finetuned classifier. Each of these is empty if it is
    not known, as in files of earlier versions.
    outcomes: the data that the value was computed from, for comparisons with another model. answers: on the first
    result of a classifier's task, the answer to each sample. Both are kept in a file beside the results;
    `openslip.evaluation.kept_outcomes.recall` gives them back to results that were read.
    """

    task: str
    metric: str
    value: float
    count: int
    low: float
    high: float
    skipped: int = 0
    data: str = ""
    split: str = ""
    prompts: str = ""
    settings: str = ""
    checkpoint: str = ""
    content: str = ""
    classifier: str = dataclasses.field(default="", compare=False)
    outcomes: Outcomes | None = dataclasses.field(default=None, repr=False, compare=False)
    answers: Answers | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def identity(self) -> tuple[str, ...]:
        """What was measured. Results with equal identities measure the same, and the newer result counts."""
        facts = (self.data, self.split, self.prompts, self.settings, self.checkpoint, self.content)
        return (self.task, self.metric, *facts)

    @property
    def key(self) -> str:
        """`task/metric`. Measurements of different sets may share a key; `suite.keys` gives distinct names."""
        return f"{self.task}/{self.metric}"

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, ready for JSON. JSON has no nan, so None marks an interval that is not known."""
        return {name: plain(getattr(self, name)) for name in COLUMNS}


def plain(value: Any) -> Any:
    """Return a value, or None for nan."""
    return None if isinstance(value, float) and math.isnan(value) else value


COLUMNS = tuple(
    field.name for field in dataclasses.fields(Result) if field.name not in ("outcomes", "answers")
)
"""The fields of a result that are written to files."""


class Evaluator(Protocol):
    """One measurement that is ready to run: it knows its data, and takes a model."""

    @property
    def name(self) -> str:
        """`protocol:dataset`; the `task` of its results."""
        ...

    def about(self) -> dict[str, str]:
        """Return the result fields that tell this measurement from others of the same name. May open the data."""
        ...

    def check(self) -> None:
        """Open the data far enough to know that they can be used, and keep them for the measurements to come.

        Raises DataError, EvaluationError or ConfigError.
        """
        ...

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`, and leave it as it was.

        Raises EvaluationError if this protocol cannot measure the model, DataError if the data cannot be used.
        """
        ...


def settings(evaluator: Any, *names: str) -> str:
    """Return the named fields of a dataclass that differ from their defaults, as `k=5, temperature=0.1`."""
    defaults = {field.name: field.default for field in dataclasses.fields(evaluator)}
    values = {name: getattr(evaluator, name) for name in names}
    return ", ".join(f"{name}={value}" for name, value in values.items() if value != defaults[name])
