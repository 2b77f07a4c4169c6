"""What training minimises. An objective names the embeddings it needs and turns them into named losses.

A new objective is one file here and one line in `combine.REGISTRY`.
"""

from openslip.objectives.clip import Clip
from openslip.objectives.combine import REGISTRY, Objective, Sum, parse
from openslip.objectives.simclr import SimClr

__all__ = ["REGISTRY", "Clip", "Objective", "SimClr", "Sum", "parse"]
