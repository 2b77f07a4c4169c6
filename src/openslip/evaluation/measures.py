"""The metrics: the title and the unit of each, and whether higher or lower is better."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A kind of number. title: its name in words.

    unit: `share`, a number in [0, 1] that tables show in percent; `rank`, from 1; `number`, of any size. better:
    `higher`, `lower`, or empty for a number that describes a model and is neither good nor bad.
    """

    title: str
    unit: Literal["share", "rank", "number"] = "share"
    better: Literal["higher", "lower", ""] = "higher"

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value."""
        return {"share": (0.0, 1.0), "rank": (1.0, math.inf), "number": (-math.inf, math.inf)}[self.unit]

    def text(self, value: float, *, sign: bool = False) -> str:
        """Return a value as tables show it: a share in percent, without the unit. sign: show + too, for differences."""
        if math.isnan(value):
            return "–"
        plus = "+" if sign else ""
        match self.unit:
            case "share":
                return f"{100 * value:{plus}.1f}"
            case "rank":
                return f"{value:{plus}.1f}"
        return f"{value:{plus}#.3g}".removesuffix(".")  # -2.60 beside -2.74

    def with_unit(self, value: float, spread: float | None = None) -> str:
        """Return a value as `text` does, with `%` after a share; `–` alone if there is no number.

        spread: the standard deviation over seeds, which follows as ` ± 0.5`; None for one run.
        """
        return self.text(value) + ("" if math.isnan(value) else self.mark) + self.spread(spread)

    def spread(self, deviation: float | None) -> str:
        """Return ` ± 0.5`, to follow a mean over seeds; "" if no deviation is known."""
        return "" if deviation is None or math.isnan(deviation) else f" ± {self.text(deviation)}"

    @property
    def mark(self) -> str:
        """The unit after a value: `%` for a share, else nothing."""
        return "%" if self.unit == "share" else ""


MEASURES = {
    "top1": Measure("top-1"),
    "top5": Measure("top-5"),
    "top1_top5": Measure("mean of top-1 and top-5"),
    "mean_per_class": Measure("mean per class"),
    "mean_per_category": Measure("mean per category"),
    "roc_auc": Measure("ROC AUC"),
    "mean_average_precision": Measure("mean average precision"),
    "ece": Measure("calibration error", better="lower"),
    "mean_iou": Measure("mean IoU"),
    "pixel_accuracy": Measure("pixel accuracy"),
    "accuracy": Measure("accuracy"),
    "text_acc": Measure("right captions"),
    "image_acc": Measure("right pictures"),
    "nmi": Measure("normalised mutual information"),
    "lrap": Measure("label ranking average precision"),
    "cosine_spearman": Measure("rank correlation", "number"),
    "text_score": Measure("right caption of a pair"),
    "image_score": Measure("right picture of a pair"),
    "group_score": Measure("both pairs right"),
    "alignment": Measure("alignment", "number", "lower"),
    "image_uniformity": Measure("uniformity of pictures", "number", "lower"),
    "text_uniformity": Measure("uniformity of captions", "number", "lower"),
    "modality_gap": Measure("modality gap", "number", ""),
    "image_effective_rank": Measure("effective rank of pictures", "number", "higher"),
    "text_effective_rank": Measure("effective rank of captions", "number", "higher"),
    "logit_scale": Measure("logit scale", "number", ""),
}
"""The metrics by name. `measure` recognises recall at a rank, few-shot accuracies and ranks by their endings."""
_DIRECTIONS = {"text_": "picture → text ", "image_": "text → picture ", "": ""}
_OF_RANKS = {"ndcg": "nDCG", "map": "MAP", "mrr": "MRR", "hit_rate": "hit rate"}


def measure(metric: str) -> Measure:
    """Return the measure of a metric, given its name or a key `task/metric`. An unknown metric is a share, and higher
    is better.

    `METRIC[PART]` is the metric of a part of the samples, such as a category.
    """
    name = metric.rpartition("/")[2]
    if part := re.fullmatch(r"([^\[]+)\[(.+)\]", name):
        whole = measure(part[1])
        return replace(whole, title=f"{whole.title}, {part[2]}")
    if known := MEASURES.get(name):
        return known
    if found := re.fullmatch(r"(text_|image_|)recall@(\d+)", name):
        return Measure(f"{_DIRECTIONS[found[1]]}recall@{found[2]}")
    if found := re.fullmatch(r"(ndcg|map|mrr|recall|hit_rate)_at_(\d+)", name):
        return Measure(f"{_OF_RANKS.get(found[1], found[1])}@{found[2]}")
    if found := re.fullmatch(r"(\w+?)(_spread)?@(\d+)shot", name):
        title = f"{measure(found[1]).title}, {found[3]} a class"
        return Measure(f"spread of {title}", better="") if found[2] else Measure(title)
    if found := re.fullmatch(r"(text_|image_|)(\w*rank)", name):
        return Measure(f"{_DIRECTIONS[found[1]]}{found[2].replace('_', ' ')}", "rank", "lower")
    return Measure(name.replace("_", " "))


def lower_is_better(metric: str) -> bool:
    """Return whether lower is better for a metric, given its name or a key `task/metric`."""
    return measure(metric).better == "lower"
