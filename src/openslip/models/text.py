"""The text tower: CLIP's transformer and variants of it. Only the one output that is used is computed."""

from __future__ import annotations

import torch
from timm.layers.activations import GELUTanh, QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

from openslip.config import Activation, TextTowerConfig
from openslip.errors import ConfigError
from openslip.models.lora import split_linear

VOCABULARY = 49_408
END_OF_TEXT = 49_407
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,
    "gelu_tanh": GELUTanh,
}

# Shapes: N captions, L tokens, D width, H heads, K width of a head.


class TextTower(nn.Module):
    """Maps each caption to a feature: the output at one token, after the final norm, not projected.

    Radford et al. 2021, section 2.4: pre-norm blocks, causal attention, QuickGELU. The feature is at the end-of-text
    token, the last of the vocabulary; the last block computes that token alone. `width` is the feature's dimension.
    Under the causal mask no token sees a later one, so columns after the last end-of-text are left out.

    If attention is bidirectional, or the feature is that of the last token (Zhai et al. 2023, SigLIP), a feature
    depends on the padding. The tower is then `padded`, and takes only rows of `context` tokens.

    If the weights bring their own tokenizer, its bytes are the buffer `tokenizer` (see `openslip.data.own_tokenizer`),
    so the tokenizer is saved with the weights.
    """

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        if config.depth < 1 or config.heads < 1 or config.width < 1 or config.width % config.heads:
            raise ConfigError(
                "The text tower needs a depth of at least 1 and a width that its heads divide",
                got=f"width {config.width}, depth {config.depth}, heads {config.heads}",
                fix="Change model.text.width, model.text.depth or model.text.heads.",
            )
        self.width = config.width
        self.context = config.context
        self.pool = config.pool
        self.padded = config.padded
        self.end = config.vocabulary - 1
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context, config.width))
        blocks = [TextBlock(config) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        if config.tokenizer:
            self.register_buffer("tokenizer", torch.zeros(config.tokenizer, dtype=torch.uint8))
        self._initialise(blocks)

    def _initialise(self, blocks: list[TextBlock]) -> None:
        """Initialise as CLIP does. As in CLIP, biases of the MLP keep torch's default."""
        residual = self.width**-0.5 * (2 * len(blocks)) ** -0.5
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in blocks:
            nn.init.normal_(block.qkv.weight, std=self.width**-0.5)
            nn.init.normal_(block.proj.weight, std=residual)
            nn.init.normal_(block.fc1.weight, std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.fc2.weight, std=residual)
            nn.init.zeros_(block.qkv.bias)
            nn.init.zeros_(block.proj.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, L), L up to `context` (if `padded`, equal to it), to features (N, width)."""
        length = tokens.shape[1]
        if length > self.context or (self.padded and length < self.context):
            differ = "more" if length > self.context else "fewer"
            raise ConfigError(
                f"The captions have {differ} tokens than the text tower's context",
                got=f"{length} tokens, context {self.context}",
                fix="Tokenise them with the model's own tokenizer.",
            )
        tokens, position = self.used(tokens)
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.norm(last(x, position))

    @property
    def own_tokenizer(self) -> bytes:
        """The bytes of the weights' own tokenizer, empty for CLIP's tokenizer."""
        held = getattr(self, "tokenizer", None)
        return b"" if held is None else held.cpu().numpy().tobytes()

    def used(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of token ids (N, L) that features depend on, and the features' positions (N,)."""
        if self.pool == "last":
            return tokens, torch.full((tokens.shape[0],), tokens.shape[1] - 1, device=tokens.device)
        position = end_of_text(tokens, self.end)
        return (tokens if self.padded else cut(tokens, position)), position

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return patterns of the names of embeddings and blocks (timm's protocol for layers)."""
        return {"stem": r"^token_embedding|^positional_embedding", "blocks": r"^blocks\.(\d+)"}


class TextBlock(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        width, hidden, eps = config.width, config.mlp or 4 * config.width, config.norm_eps
        self.heads = config.heads
        self.causal = not config.bidirectional
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, hidden)
        self.act = ACTIVATIONS[config.activation]()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, end: Tensor | None = None) -> Tensor:
        """Map (N, L, D) to (N, L, D), or to the outputs (N, D) at one position `end` (N,) of each row."""
        if end is None:
            x = x + self._attend(self.norm1(x))
            return x + self._mlp(self.norm2(x))
        rows = torch.arange(x.shape[0], device=x.device)  # torch.export keeps this size open, unlike len
        y = x[rows, end] + self._attend_one(self.norm1(x), rows, end)
        return y + self._mlp(self.norm2(y))

    def _attend(self, x_NLD: Tensor) -> Tensor:
        n, length, width = x_NLD.shape
        qkv = self.qkv(x_NLD).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y_NHLK = F.scaled_dot_product_attention(*qkv.unbind(0), is_causal=self.causal)
        return self.proj(y_NHLK.transpose(1, 2).reshape(n, length, width))

    def _attend_one(self, x_NLD: Tensor, rows: Tensor, end: Tensor) -> Tensor:
        """Apply attention with position `end` of each row as the only query: (N, L, D) to (N, D)."""
        n, length, width = x_NLD.shape
        query, key_value = split_linear(self.qkv, [width, 2 * width])
        q_NH1K = query(x_NLD[rows, end]).view(n, self.heads, 1, -1)
        kv = key_value(x_NLD).view(n, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = (
            (torch.arange(length, device=x_NLD.device) <= end[:, None])[:, None, None]
            if self.causal
            else None
        )
        y_NH1K = F.scaled_dot_product_attention(q_NH1K, *kv.unbind(0), attn_mask=seen)
        return self.proj(y_NH1K.reshape(n, width))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def end_of_text(tokens: Tensor, end: int = END_OF_TEXT) -> Tensor:
    """Return the position (N,) of each row's last end-of-text token, whose id is `end`.

    For a row without such a token (cut off by the reference implementation's truncation), the position is that of the
    largest id, as in the reference.
    """
    is_end = tokens == end
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    last = (is_end * positions).amax(1)
    return torch.where(is_end.any(1), last, tokens.argmax(1))


def cut(tokens: Tensor, end: Tensor) -> Tensor:
    """Drop the columns after the last position of `end`, as no feature depends on them.

    Tokens on an accelerator and compiled code stay as they are: the width would have to be waited for, and the graph
    would break. For them the tokenizer has cut the columns before the tokens are sent.
    """
    if tokens.device.type != "cpu" or torch.compiler.is_compiling() or not len(tokens):
        return tokens
    return tokens[:, : int(end.max()) + 1]
