"""Classifiers trained on augmented pictures, which can resume: SLIP's third protocol, end-to-end finetuning by BEiT's
recipe, and SLIP's second protocol, one linear layer on a frozen tower by SGD."""

from openslip.evaluation.finetune.recipe import FinetuneRecipe, LinearRecipe, recipe_for
from openslip.evaluation.finetune.run import Finetune, LinearBySgd

__all__ = ["Finetune", "FinetuneRecipe", "LinearBySgd", "LinearRecipe", "recipe_for"]
