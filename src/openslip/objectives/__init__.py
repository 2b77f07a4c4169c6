"""What training minimises: one file for each objective, with its views, needs, heads, state, loss, curves and options.

`objective` is the contract. `combine` has the sum of several objectives, and the text that it is written as. Objectives
share `contrast` and `heads`. A new objective is one file here and one name in `combine.REGISTRY`.
"""

from openslip.objectives.byol import Byol
from openslip.objectives.clip import Clip
from openslip.objectives.combine import REGISTRY, Loss, Sum, complete, known, parse
from openslip.objectives.dino import Dino
from openslip.objectives.distil import Distil, Preserve
from openslip.objectives.ibot import Ibot
from openslip.objectives.lejepa import LeJepa
from openslip.objectives.mocov3 import MoCoV3
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
    "Dino",
    "Distil",
    "Ibot",
    "LeJepa",
    "LogitScale",
    "Loss",
    "MoCoV3",
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
