"""Honest measurements of a model: one file a protocol, all behind one small interface.

Every number is a `Result`: it carries how many samples it rests on and its 95 % interval. Importing this package is
cheap; the protocols (one file each) import what they need, and `suite` turns names such as `zeroshot:scenes` into
evaluators and runs them.
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
"""Protocols that measure on captioned pictures; the others take labelled ones."""
TRAINED = ("linear", "finetune")
"""Protocols that train a classifier, which a run keeps."""
KEPT_IN = ("linear", "linear-paper", "finetune")
"""Folders of a run with a folder for each classifier that it keeps."""


@dataclass(frozen=True)
class Result:
    """One measured number.

    task: what was measured, `protocol:dataset`, for example `zeroshot:cifar10`.
    metric: for example `top1`, `mean_per_class`, `text_recall@10`.
    value: in the unit that `openslip.evaluation.measures` has for the metric, mostly a share in [0, 1]. The first
    result of a task stands for the task.
    count: samples (or queries) that the value is a mean over; 0 where that is not known.
    low, high: 95 % interval of the value, for other samples drawn as these were (see `openslip.evaluation.metrics`);
    both nan where no honest one is known, as of numbers that another library computed.
    skipped: samples that could not be read, and so are not in `count`.
    data: what was measured on, which tells it from others of its short name: a path, an address, `scenes:…`.
    split: `train`, `val`, `test`, or `all` of data without splits. prompts: what the classes were asked for with.
    settings: what else differs from the protocol's defaults, for example `k=5`.
    checkpoint: of which state of the model, for example `step-00000400`. content: a digest of the pictures, labels and
    names that were measured, which tells them from others that lay at the same location. classifier: the folder that
    keeps what was trained to be measured, a linear probe or a finetuned classifier. Each is empty where it is not
    known, as in files of earlier versions.
    outcomes: what the value was computed from, for comparisons with another model. answers: on the first result of a
    classifier's task, what was said of each sample. Both are kept in a file of their own, and are no part of others
    (see `openslip.evaluation.kept_outcomes`, whose `recall` gives them to results that were read).
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
        """What was measured: results of equal identities are measurements of the same, and the newer one counts."""
        facts = (self.data, self.split, self.prompts, self.settings, self.checkpoint, self.content)
        return (self.task, self.metric, *facts)

    @property
    def key(self) -> str:
        """`task/metric`. Measurements of different sets may share it: `suite.keys` gives names that do not."""
        return f"{self.task}/{self.metric}"

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, ready for JSON, which has no nan: None stands for an interval that is not known."""
        return {name: plain(getattr(self, name)) for name in COLUMNS}


def plain(value: Any) -> Any:
    """Return a value, None in the place of nan."""
    return None if isinstance(value, float) and math.isnan(value) else value


COLUMNS = tuple(
    field.name for field in dataclasses.fields(Result) if field.name not in ("outcomes", "answers")
)
"""The fields of a result that files have."""


class Evaluator(Protocol):
    """One measurement, made ready: knows its data, waits for a model."""

    @property
    def name(self) -> str:
        """`protocol:dataset`; the `task` of its results."""
        ...

    def about(self) -> dict[str, str]:
        """Return the fields of its results that tell it from others of its name, by field. May open the data."""
        ...

    def check(self) -> None:
        """Open the data, as far as it takes to know that they can be used, and keep them for the measurements to come.

        Raises DataError, EvaluationError or ConfigError.
        """
        ...

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`, leaving it as it was.

        Raises EvaluationError when this model cannot be measured this way, DataError when the data cannot be used.
        """
        ...


def settings(evaluator: Any, *names: str) -> str:
    """Return those of a dataclass's fields that differ from their defaults, as `k=5, temperature=0.1`."""
    defaults = {field.name: field.default for field in dataclasses.fields(evaluator)}
    values = {name: getattr(evaluator, name) for name in names}
    return ", ".join(f"{name}={value}" for name, value in values.items() if value != defaults[name])
