"""DINO: from each crop, large or small, the student predicts the teacher's classes of another, large crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from openslip.needs import SSL_VIEWS, Need, View
from openslip.objectives.objective import At
from openslip.objectives.prototypes import PrototypeObjective, PrototypeOptions, curves_of
from openslip.ranges import FROM_0


class Dino(PrototypeObjective):
    """L = mean of H(p(g), q(v)) over global crops g and crops v ≠ g of an image (Caron et al. 2021, equation 3).

    The global crops are the two self-supervised views, which the teacher sees. The student sees the global and the
    local crops. `PrototypeObjective` defines p, q and H. With two global and L local crops there are 2 (L + 1) pairs;
    the loss is the mean over pairs and images. Added to `clip` it is SILC (Naeem et al. 2023), with one difference:
    SILC's captions go with both global crops, and here captions go with a view of their own.
    """

    name = "dino"
    title = "DINO"
    curves = curves_of("dino", "crops")

    @dataclass(frozen=True, kw_only=True)
    class Config(PrototypeOptions):
        local: Annotated[int, FROM_0] = 4
        """Small local crops of each image, drawn as `views.local` says. The plan shows what share of a large view each
        costs. 0 trains on the two large views alone. The paper goes up to 10. Raise it for features of parts of
        pictures, if you have the compute."""

    @classmethod
    def views_for(cls, config: Any) -> tuple[View, ...]:
        return (*SSL_VIEWS, *(View(f"local_{number}", "local") for number in range(1, config.local + 1)))

    @classmethod
    def needs_for(cls, config: Any) -> tuple[Need, ...]:
        students = tuple(Need(view.name) for view in cls.views_for(config))
        teachers = tuple(Need(view.name, by="teacher") for view in SSL_VIEWS)
        return students if config.average == "head" else (*students, *teachers)

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return the bottleneck (N, dim): `student_…` of each view, `teacher_…` of each global view."""
        views = [view.name for view in self.views_for(self.config)]
        embeddings = {f"student_{name}": self.projector(features[Need(name)]) for name in views}
        by = "student" if self.config.average == "head" else "teacher"
        for view in SSL_VIEWS:
            seen = features[Need(view.name, by=by)]
            embeddings[f"teacher_{view.name}"] = self.averaged("projector", seen)
        return embeddings

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss` and, detached, `dino_loss`, `dino_entropy`, `dino_kl` and `dino_used` for a batch.

        `embeddings` come from `embed`. `dino_entropy` is H(p, p), a mean over global crops and images; `dino_kl` is
        the rest of the loss, KL(p ‖ q); `dino_used`, from 1 to `prototypes`, is the exponential of the entropy of the
        mean of p over the batch.
        """
        students, targets = (
            {name.removeprefix(by): rows for name, rows in embeddings.items() if name.startswith(by)}
            for by in ("student_", "teacher_")
        )
        rows = students[SSL_VIEWS[0].name]
        return self.compared(students, targets, rows.new_full((len(rows),), 1 / len(rows)), at)
