"""Classifiers trained on augmented pictures, resumable: end-to-end finetuning by BEiT's recipe, SLIP's third protocol,
and one linear layer on a frozen tower by SGD, its second."""

from openslip.evaluation.finetune.recipe import FinetuneRecipe, LinearRecipe, recipe_for
from openslip.evaluation.finetune.run import Finetune, LinearBySgd

__all__ = ["Finetune", "FinetuneRecipe", "LinearBySgd", "LinearRecipe", "recipe_for"]
