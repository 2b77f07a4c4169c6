"""The SLIP paper's numbers, which are shown beside a user's numbers only if protocol and data agree.

The numbers are those of Mu, Kirillov, Wagner and Xie 2022 (arXiv 2112.12750): top-1 on ImageNet's validation set, for
models that were trained with batches of 4,096.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from openslip.data.labelled import imagenet
from openslip.data.labelled.prompts import PromptSet, called
from openslip.evaluation import Result
from openslip.evaluation.outcomes import Answers

VALIDATION = 50_000
"""Images of ImageNet's validation set: 50 of each class."""
_SETTINGS = {"zeroshot": "", "linear": "preset=paper", "finetune": "preset=paper"}
"""The settings with which each protocol is the paper's: linear by SGD, and BEiT's recipe."""
PROMPTS = "imagenet7"
"""The paper's templates for ImageNet's classes."""


@dataclass(frozen=True)
class Published:
    """A row of the paper: image tower, method, data, epochs; top-1 in percent by protocol, None if there is none."""

    tower: str
    method: str
    data: str
    epochs: int
    zeroshot: float | None
    linear: float | None
    finetune: float | None


PUBLISHED = (
    Published("ViT-S/16", "CLIP", "YFCC15M", 25, 32.7, 59.3, 78.2),
    Published("ViT-S/16", "SimCLR", "YFCC15M", 25, None, 58.1, 79.9),
    Published("ViT-S/16", "SLIP", "YFCC15M", 25, 38.3, 66.4, 80.3),
    Published("ViT-S/16", "SLIP", "YFCC15M", 50, 39.3, 67.6, 80.7),
    Published("ViT-S/16", "SLIP", "YFCC15M", 100, 39.5, 68.3, 80.7),
    Published("ViT-B/16", "CLIP", "YFCC15M", 25, 37.6, 66.5, 80.5),
    Published("ViT-B/16", "SimCLR", "YFCC15M", 25, None, 64.0, 82.5),
    Published("ViT-B/16", "SLIP", "YFCC15M", 25, 42.8, 72.1, 82.6),
    Published("ViT-B/16", "SLIP", "YFCC15M", 50, 44.1, 73.0, 82.9),
    Published("ViT-B/16", "SLIP", "YFCC15M", 100, 45.0, 73.6, 83.4),
    Published("ViT-L/16", "CLIP", "YFCC15M", 25, 40.4, 70.5, 81.0),
    Published("ViT-L/16", "SimCLR", "YFCC15M", 25, None, 66.7, 84.0),
    Published("ViT-L/16", "SLIP", "YFCC15M", 25, 46.2, 76.0, 84.2),
    Published("ViT-L/16", "SLIP", "YFCC15M", 50, 47.4, 75.8, 84.7),
    Published("ViT-L/16", "SLIP", "YFCC15M", 100, 47.9, 75.1, 84.8),
    Published("ViT-B/16", "CLIP", "CC3M", 40, 17.1, 53.3, 79.5),
    Published("ViT-B/16", "SLIP", "CC3M", 40, 23.0, 65.4, 81.4),
    Published("ViT-B/16", "CLIP", "CC12M", 35, 36.5, 69.0, 82.1),
    Published("ViT-B/16", "SLIP", "CC12M", 35, 40.7, 73.7, 83.1),
)


def agrees(result: Result, answers: Answers | None) -> str:
    """Return the protocol of a measurement if it was made with the paper's protocol and data; else ""."""
    protocol = result.task.partition(":")[0]
    settings = re.sub(r"(, )?precision=\w+$", "", result.settings)  # the paper's was mixed precision, too
    if (result.metric, result.count, settings) != ("top1", VALIDATION, _SETTINGS.get(protocol)):
        return ""
    if protocol == "zeroshot" and result.prompts != asked_with(PROMPTS):
        return ""
    if answers is None:
        return ""
    sizes = Counter(answers.labels.tolist())
    return protocol if imagenet.labels_of(answers.class_names) and set(sizes.values()) == {50} else ""


def asked_with(templates: str) -> str:
    """Return the `prompts` of results that were measured on ImageNet's classes with these templates."""
    return PromptSet("imagenet", (), ()).with_templates(called(templates)).name
