"""End-to-end finetuning: SLIP's third protocol, BEiT's recipe, resumable."""

from openslip.evaluation.finetune.recipe import FinetuneRecipe, recipe_for
from openslip.evaluation.finetune.run import Finetune

__all__ = ["Finetune", "FinetuneRecipe", "recipe_for"]
