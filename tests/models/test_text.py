from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.config import TextTowerConfig
from openslip.errors import ConfigError
from openslip.models.text import END_OF_TEXT, TextTower, cut, end_of_text

START = 49_406
CONFIG = TextTowerConfig(width=32, depth=3, heads=4, context=20)


def _tower() -> TextTower:
    torch.manual_seed(0)
    tower = TextTower(CONFIG).double()
    with torch.no_grad():  # larger than initialised, so that a wrong position or mask shows
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower


def _tokens(*lengths: int, width: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.zeros(len(lengths), width or max(lengths) + 2, dtype=torch.int64)
    for row, length in zip(rows, lengths):
        row[0] = START
        row[1 : length + 1] = torch.randint(1, 49_000, (length,), generator=generator)
        row[length + 1] = END_OF_TEXT
    return rows


def _slow(tower: TextTower, tokens: Tensor) -> Tensor:
    """CLIP's text transformer as the paper writes it, one caption and one head at a time."""
    features = []
    for row in tokens:
        x = tower.token_embedding.weight[row] + tower.positional_embedding[: len(row)]
        later = torch.full((len(row), len(row)), -torch.inf, dtype=x.dtype).triu(1)
        for block in cast(Any, tower.blocks):
            q, k, v = block.qkv(block.norm1(x)).chunk(3, dim=-1)
            heads = []
            for i in range(block.heads):
                part = slice(i * 8, i * 8 + 8)
                heads.append((q[:, part] @ k[:, part].T / 8**0.5 + later).softmax(-1) @ v[:, part])
            x = x + block.proj(torch.cat(heads, dim=-1))
            y = block.fc1(block.norm2(x))
            x = x + block.fc2(y * torch.sigmoid(1.702 * y))
        x = tower.norm(x)
        ends = (row == END_OF_TEXT).nonzero()
        features.append(x[int(ends[-1]) if len(ends) else int(row.argmax())])
    return torch.stack(features)


def test_equals_the_slow_twin_in_values_and_gradients() -> None:
    tower, tokens = _tower(), _tokens(3, 18, 1, 7, width=20)
    probe = torch.randn(4, 32, dtype=torch.float64)
    ours = tower(tokens)
    theirs = _slow(tower, tokens)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    parameters = list(tower.parameters())
    gradients = torch.autograd.grad((ours * probe).sum(), parameters)
    expected = torch.autograd.grad((theirs * probe).sum(), parameters)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-11)


def test_padding_to_the_context_changes_nothing() -> None:
    tower, short = _tower(), _tokens(3, 9, 5)
    padded = F.pad(short, (0, CONFIG.context - short.shape[1]))
    torch.testing.assert_close(tower(short), tower(padded), rtol=1e-12, atol=1e-12)


def test_a_caption_does_not_depend_on_its_batch() -> None:
    tower, tokens = _tower(), _tokens(2, 18, 6)
    torch.testing.assert_close(tower(tokens)[2], tower(tokens[2:])[0], rtol=1e-12, atol=1e-12)


def test_what_follows_the_end_changes_nothing() -> None:
    tower, tokens = _tower(), _tokens(3, 9)
    changed = tokens.clone()
    changed[0, 6:] = 123
    assert torch.equal(end_of_text(changed), end_of_text(tokens))
    torch.testing.assert_close(tower(changed), tower(tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("row", "position"),
    [
        ([START, 5, END_OF_TEXT, 0, 0], 2),
        ([START, END_OF_TEXT, 0, 0, 0], 1),
        ([START, 5, 6, 7, END_OF_TEXT], 4),
        ([START, 5, END_OF_TEXT, 6, END_OF_TEXT], 4),  # "<|endoftext|>" written in the caption itself
        ([END_OF_TEXT, 0, 0, 0, 0], 0),
        ([START, 5, 6, 7, 8], 0),  # cut off: the reference read at the largest id, the start token
        ([5, 6, 900, 7, 8], 2),
        ([0, 0, 0, 0, 0], 0),
    ],
)
def test_end_of_text_position(row: list[int], position: int) -> None:
    assert end_of_text(torch.tensor([row])).tolist() == [position]


def test_rows_without_an_end_read_at_their_largest_id() -> None:
    tower, tokens = _tower(), _tokens(3, 9)
    tokens[1] = torch.tensor([START, *range(100, 110)])
    tokens[0, 0] = 17
    torch.testing.assert_close(tower(tokens), _slow(tower, tokens), rtol=1e-10, atol=1e-12)


def test_cut_keeps_up_to_the_last_end() -> None:
    tokens = _tokens(3, 7, width=20)
    assert cut(tokens, end_of_text(tokens)).shape == (2, 9)
    assert cut(tokens[:0], end_of_text(tokens[:0])).shape == (0, 20)


def test_more_tokens_than_the_context_is_said() -> None:
    with pytest.raises(ConfigError, match="21 tokens, context 20"):
        _tower()(_tokens(3, width=21))


@pytest.mark.parametrize("config", [TextTowerConfig(width=30, heads=4), TextTowerConfig(depth=0)])
def test_what_makes_no_tower_is_said(config: TextTowerConfig) -> None:
    with pytest.raises(ConfigError, match=r"model\.text"):
        TextTower(config)


def test_initialisation_is_clips() -> None:
    torch.manual_seed(0)
    tower = TextTower(TextTowerConfig(width=256, depth=2, heads=4))
    block: Any = tower.blocks[1]
    expected = {
        tower.token_embedding.weight: 0.02,
        tower.positional_embedding: 0.01,
        block.qkv.weight: 256**-0.5,
        block.proj.weight: 256**-0.5 / 2,
        block.fc1.weight: 512**-0.5,
        block.fc2.weight: 256**-0.5 / 2,
    }
    for parameter, std in expected.items():
        assert parameter.std().item() == pytest.approx(std, rel=0.03)
    assert not block.qkv.bias.any()
    assert not block.proj.bias.any()


def test_bf16_autocast_runs_forward_and_backward() -> None:
    tower = TextTower(CONFIG)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = tower(_tokens(3, 9))
    features.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())
