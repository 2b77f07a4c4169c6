"""What training minimises: one file an objective, each with its views, needs, heads, state, loss, curves and options.

`objective` is the contract, `combine` the sum of several and the text it is written as, `contrast` and `heads` what
several share. A new objective is one file here and one name in `combine.REGISTRY`.
"""

from openslip.objectives.byol import Byol
from openslip.objectives.clip import Clip
from openslip.objectives.combine import REGISTRY, Loss, Sum, complete, known, parse
from openslip.objectives.distil import Distil, Preserve
from openslip.objectives.lejepa import LeJepa
from openslip.objectives.objective import At, Curve, Dims, LogitScale, Objective, cosine_momentum
from openslip.objectives.siglip import SigLip
from openslip.objectives.simclr import SimClr
from openslip.objectives.words import Words

__all__ = [
    "REGISTRY",
    "At",
    "Byol",
    "Clip",
    "Curve",
    "Dims",
    "Distil",
    "LeJepa",
    "LogitScale",
    "Loss",
    "Objective",
    "Preserve",
    "SigLip",
    "SimClr",
    "Sum",
    "Words",
    "complete",
    "cosine_momentum",
    "known",
    "parse",
]
