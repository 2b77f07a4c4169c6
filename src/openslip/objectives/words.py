"""Bag of words: a linear layer predicts from an image which tokens its caption has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from openslip.collectives import add_up, world
from openslip.needs import IMAGE, TEXT, Need
from openslip.objectives.contrast import row_blocks
from openslip.objectives.objective import At, Curve, Dims, Objective
from openslip.ranges import FROM_0, FROM_1

CLIPS = 49_408
"""Tokens of CLIP's vocabulary, from which the chart of the loss takes the value of chance."""
LIKELIEST = 10
"""The caption's tokens are looked for among this many of the image's likeliest tokens."""

# Shape suffixes: N images, B of a block, K tokens of a caption, V tokens of the vocabulary, W width of the feature.


class Words(Objective):
    """L = −1/N Σ_n Σ_c ŷ_nc log softmax(x_n)_c, with the logits x of one linear layer (SuperCLIP, section 3.2).

    "SuperCLIP: CLIP with Simple Classification Supervision" (Zhao et al. 2025), after SuperClass (Huang et al. 2024).
    ŷ_n is the bag of the tokens of caption n, each once, weighted by its inverse document frequency and divided by the
    sum of the weights. With several `captions` of an image the bag has the tokens of all of them. The weight of token c
    is log((1 + D) / (1 + D_c)). D captions were seen so far, this batch's included, and D_c of them have c.
    The paper has D in the place of 1 + D, and takes D_c from the whole data set. Our weight is never negative, and a
    token that all captions have weighs nothing.

    Start, end and padding are no targets. Where all tokens of a caption weigh nothing, they weigh alike. A caption
    without a token adds nothing to the loss.

    D and D_c are buffers of integers, added up over the processes. So the loss of a step is a function of the captions
    seen before and of the whole batch. A step that is left out because its loss is not finite counts no captions.
    """

    name = "words"
    title = "Bag of words"
    views = (IMAGE,)
    needs = (Need("image"), Need(TEXT, "ids"))
    curves = (
        Curve(
            "words_loss",
            "Bag-of-words loss",
            "lower is better; chance: log of the 49,408 tokens of CLIP's vocabulary",
            "low",
            lambda *_: math.log(CLIPS),
        ),
        Curve(
            "words_acc",
            "Words found",
            f"share of the caption's weighted words among the {LIKELIEST} likeliest",
            "high",
            lambda *_: LIKELIEST / CLIPS,
        ),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        reads: Literal["feature", "tokens"] = "feature"
        """What the layer reads of the image. feature: the tower's output, which all else is computed from. tokens: the
        mean of a vision transformer's patch tokens, as in the paper. Take tokens where patch tokens are used later, as
        for segmentation."""
        captions: Annotated[int, FROM_1] = 1
        """How many captions of each image a step takes. The tokens of all of them together are the target."""
        block: Annotated[int, FROM_0] = 512
        """Rows of the logits over the vocabulary that are held at a time; 0 holds them all. Lower it where memory is
        short: a row is 200 kB with CLIP's vocabulary."""

    config: Config
    captions: Tensor
    """D, an integer."""
    captions_with: Tensor
    """(V,) integers, D_c of each token c."""
    special: Tensor
    """(3,) ids that are no targets; -1 where there are fewer."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.head = nn.Linear(dims.width, dims.vocabulary)
        self.register_buffer("captions", torch.zeros((), dtype=torch.long))
        self.register_buffer("captions_with", torch.zeros(dims.vocabulary, dtype=torch.long))
        # In the state, because a run that goes on learns of its tokenizer only with its weights.
        special = [*dims.special, *[-1] * (3 - len(dims.special))]
        self.register_buffer("special", torch.tensor(special, dtype=torch.long))

    @classmethod
    def needs_for(cls, config: Config) -> tuple[Need, ...]:
        return (Need("image", config.reads), replace(cls.needs[1], captions=config.captions))

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return `image` (N, W), what the layer reads, and `bags` (N, K) int64, each caption's tokens, each token once.

        An entry of a bag that holds no token is -1.
        """
        image, ids = (features[need] for need in self.needs_for(self.config))
        image = image.to(self.head.weight.dtype)
        bag = bags(ids.flatten(1), self.special)
        return {"image": image.mean(1) if image.ndim == 3 else image, "bags": bag}

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `words_loss` (the same, detached) and `words_acc` for a batch.

        `embeddings` come from `embed`. `words_acc`, in [0, 1], is the share of the target on the image's 10 likeliest
        tokens, a mean over images.
        """
        image, tokens = embeddings["image"], embeddings["bags"]
        there, ids = tokens >= 0, tokens.clamp(min=0)
        new = torch.zeros_like(self.captions_with).scatter_add_(0, ids.flatten(), there.flatten().long())
        self.new = len(image) * world(), add_up(new)
        captions, captions_with = self.captions + self.new[0], self.captions_with + self.new[1]
        targets = shares(captions, captions_with[ids], there, image.dtype)
        weight, bias, learns = self.head.weight, self.head.bias, torch.is_grad_enabled()
        loss, found = _CrossEntropy.apply(image, weight, bias, ids, targets, self.config.block, learns)
        return {"loss": loss, "words_loss": loss.detach(), "words_acc": found}

    def after_step(self, model: Any, at: At) -> None:
        """Count the captions of the step."""
        super().after_step(model, at)
        captions, captions_with = self.new
        self.captions += captions
        self.captions_with += captions_with


def bags(ids: Tensor, special: Tensor) -> Tensor:
    """Return the different tokens of each row of ids (N, K), without the special ones (S,); -1 elsewhere."""
    ids = ids.masked_fill((ids[..., None] == special).any(2), -1).sort(1).values
    again = torch.zeros_like(ids, dtype=torch.bool)
    again[:, 1:] = ids[:, 1:] == ids[:, :-1]
    return ids.masked_fill(again, -1)


def shares(captions: Tensor, captions_with: Tensor, there: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the targets of the tokens of bags (N, K), which add up to 1 in each row that has a token.

    captions: how many were seen. captions_with (N, K): how many of them have the token. there (N, K): whether an entry
    holds a token at all.
    """
    weights = (captions.to(dtype).log1p() - captions_with.to(dtype).log1p()) * there
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, there.to(dtype))
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)


class _CrossEntropy(torch.autograd.Function):
    """The mean cross-entropy of bags, and the share of the targets among the likeliest tokens; by blocks of rows.

    With p = softmax(x), the gradient of a row's loss by its logits is (Σ_c ŷ_c) p − ŷ, known as soon as the logits are.
    So the gradients of image and layer are computed in the forward pass, and no logits are kept or computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image_NW: Tensor,
        weight_VW: Tensor,
        bias_V: Tensor,
        ids_NK: Tensor,
        targets_NK: Tensor,
        block: int,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        losses_N, found_N = image_NW.new_empty(2, len(image_NW)).unbind()
        gradients = [torch.zeros_like(x) for x in (image_NW, weight_VW, bias_V)] if learns else []
        for part in row_blocks(len(image_NW), block):
            ids_BK, targets_BK = ids_NK[part], targets_NK[part]
            logits_BV = torch.addmm(bias_V, image_NW[part], weight_VW.T)
            all_B, whole_B = logits_BV.logsumexp(1), targets_BK.sum(1)
            losses_N[part] = whole_B * all_B - (targets_BK * logits_BV.gather(1, ids_BK)).sum(1)
            likeliest = logits_BV.topk(min(LIKELIEST, logits_BV.shape[1])).indices
            found_N[part] = (targets_BK * (ids_BK[..., None] == likeliest[:, None]).any(2)).sum(1)
            if not gradients:
                continue
            g_image_NW, g_weight_VW, g_bias_V = gradients
            g_BV = logits_BV.sub_(all_B[:, None]).exp_().mul_(whole_B[:, None])
            g_BV.scatter_add_(1, ids_BK, -targets_BK).div_(len(image_NW))
            if ctx.needs_input_grad[0]:  # else the tower is frozen
                torch.mm(g_BV, weight_VW, out=g_image_NW[part])
            g_weight_VW.addmm_(g_BV.T, image_NW[part])
            g_bias_V += g_BV.sum(0)
        found = found_N.mean()
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(found)
        return losses_N.mean(), found

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("The loss `words` is differentiable once: not with create_graph=True")
        return *(grad_outputs[0] * gradient for gradient in ctx.saved_tensors), None, None, None, None
