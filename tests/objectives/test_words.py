"""The bag of words against the paper's formulas, token by token."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from objectives.cases import DIMS, captions, chances, make, trained
from openslip.needs import TEXT, Need
from openslip.objectives import At, Words, parse
from openslip.objectives.words import bags
from toys import make_inputs, make_student, make_tiny_config, small_loss, with_loss

VOCABULARY = 30
PAD, START, END = 0, 28, 29
FEW = replace(DIMS, width=4, vocabulary=VOCABULARY, special=(PAD, START, END))
IMAGE, IDS = Need("image"), Need(TEXT, "ids")
MODEL: Any = SimpleNamespace(logit_scale=None)


def batch(n: int, seed: int = 0, longest: int = 6) -> dict[Need, Tensor]:
    """Return features of n images, and captions of up to so many tokens out of few, so that some come twice."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(n, longest + 2, dtype=torch.long)
    for row in ids:
        length = int(torch.randint(0, longest + 1, (), generator=generator))
        row[0], row[length + 1] = START, END
        row[1 : length + 1] = torch.randint(1, 12, (length,), generator=generator)
    image = 3 * torch.randn(n, FEW.width, dtype=torch.float64, generator=generator)
    return {IMAGE: image.requires_grad_(), IDS: ids}


def plain(words: Words, batch: dict[Need, Tensor], before: list[Tensor]) -> tuple[Tensor, float]:
    """The slow, obvious twin: caption by caption, token by token. before: the captions of the steps before."""

    def texts(ids: Tensor) -> list[list[int]]:
        return [sorted(set(row) - {PAD, START, END}) for row in ids.tolist()]

    own = texts(batch[IDS])
    seen = [text for ids in before for text in texts(ids)] + own
    having = Counter(token for text in seen for token in text)
    total, found = torch.zeros((), dtype=torch.float64), 0.0
    for image, text in zip(batch[IMAGE], own):
        weights = {token: math.log((1 + len(seen)) / (1 + having[token])) for token in text}
        if not sum(weights.values()):
            weights = dict.fromkeys(text, 1.0)
        shares = {token: weight / sum(weights.values()) for token, weight in weights.items()}
        logits = torch.stack([words.head.weight[c] @ image + words.head.bias[c] for c in range(VOCABULARY)])
        probabilities = logits.exp() / logits.exp().sum()
        for token, share in shares.items():
            total = total - share * probabilities[token].log()
        likeliest = sorted(range(VOCABULARY), key=lambda c: logits[c].item())[-10:]
        found += sum(share for token, share in shares.items() if token in likeliest)
    return total / len(own), found / len(own)


def words_of(**options: Any) -> Words:
    return make("words", dims=FEW, **options)


@given(n=st.integers(1, 7), block=st.integers(0, 8), seed=st.integers(0, 100), steps=st.integers(0, 2))
def test_equals_the_formulas_token_by_token(n, block, seed, steps) -> None:
    words, before = words_of(block=block), []
    for step in range(steps):
        earlier = batch(n, 1000 + seed + step)
        words(earlier, At())
        words.after_step(MODEL, At())
        before.append(earlier[IDS])
    features = batch(n, seed)
    expected, found = plain(words, features, before)
    ours = words(features, At())
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(ours["words_loss"], ours["loss"].detach())
    assert ours["words_acc"].item() == pytest.approx(found, abs=1e-9)
    if any(len(set(row) - {PAD, START, END}) for row in features[IDS].tolist()):
        inputs = [features[IMAGE], *trained(words).values()]
        for one, other in zip(
            torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(expected, inputs)
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_its_gradient_is_that_of_its_values() -> None:
    words, features = words_of(block=2), batch(5)
    parameters = list(trained(words))

    def loss(image: Tensor, *values: Tensor) -> Tensor:
        given = (features | {IMAGE: image}, At())
        return torch.func.functional_call(words, dict(zip(parameters, values)), given)["loss"]

    inputs = [features[IMAGE], *(value.detach().requires_grad_() for value in trained(words).values())]
    assert torch.autograd.gradcheck(loss, inputs)


def test_it_is_not_differentiated_twice() -> None:
    features = batch(3)
    loss = words_of()(features, At())["loss"]
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(loss, features[IMAGE], create_graph=True)


def test_a_frozen_tower_gets_no_gradient_and_the_layer_the_same() -> None:
    words, features = words_of(), batch(4)
    loss = words(features, At())["loss"]
    expected = torch.autograd.grad(loss, words.head.weight)
    found = torch.autograd.grad(
        words(features | {IMAGE: features[IMAGE].detach()}, At())["loss"], words.head.weight
    )
    assert torch.equal(found[0], expected[0])
    with torch.no_grad():
        assert torch.equal(words(features, At())["loss"], loss)


def test_who_knows_nothing_has_the_log_of_the_vocabulary() -> None:
    words = make("words")
    with torch.no_grad():
        for parameter in trained(words).values():
            parameter.zero_()
    ids = captions(6, DIMS, torch.Generator().manual_seed(0))
    features = {IMAGE: torch.randn(6, DIMS.width, dtype=torch.float64), IDS: ids}
    assert words(features, At())["words_loss"].item() == pytest.approx(math.log(DIMS.vocabulary))
    loss, found = chances(Words, 6)
    assert loss == pytest.approx(math.log(49_408))
    assert found == pytest.approx(10 / 49_408)


def test_who_knows_the_target_has_its_entropy() -> None:
    """The layer of one image whose logits are the logarithms of the target: no loss is lower."""
    words, features = words_of(), batch(1)
    features[IDS] = torch.tensor([[START, 7, 3, 9, 3, END]])
    target = torch.zeros(VOCABULARY, dtype=torch.float64)
    text = sorted(set(features[IDS][0].tolist()) - {PAD, START, END})
    target[text] = 1 / len(text)  # of a single caption all tokens weigh alike
    with torch.no_grad():
        words.head.weight.zero_()
        words.head.bias.copy_((target + 1e-12).log())
    result = words(features, At())
    assert result["loss"].item() == pytest.approx(math.log(len(text)))
    assert result["words_acc"].item() == pytest.approx(1)


def test_the_bag_has_each_token_once_and_no_special_one() -> None:
    ids = torch.tensor([[START, 7, 3, 7, 7, END, PAD], [START, END, PAD, PAD, PAD, PAD, PAD]])
    found = bags(ids, torch.tensor([PAD, START, END]))
    assert [sorted(token for token in row if token >= 0) for row in found.tolist()] == [[3, 7], []]
    assert found.shape == ids.shape
    unknown = bags(ids, torch.tensor([-1, -1, -1]))
    assert sorted(token for token in unknown[1].tolist() if token >= 0) == [PAD, START, END]


def test_what_all_captions_have_weighs_nothing_even_if_it_is_not_known_for_special() -> None:
    known, unknown = words_of(), words_of()
    unknown.special.fill_(-1)
    features = batch(6, seed=1)
    features[IDS] = features[IDS][:, :5].clone()  # without an end that all have, and without padding
    features[IDS][:, 1:] = torch.randint(1, 12, (6, 4), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(known(features, At())["loss"], unknown(features, At())["loss"])


def test_a_caption_without_tokens_adds_nothing() -> None:
    words, features = words_of(), batch(2)
    features[IDS] = torch.tensor([[START, 5, 6, END], [START, END, PAD, PAD]])
    alone = {IMAGE: features[IMAGE][:1], IDS: features[IDS][:1]}
    result = words(features, At())
    torch.testing.assert_close(result["loss"], words(alone, At())["loss"] / 2)
    gradient = torch.autograd.grad(result["loss"], features[IMAGE])[0]
    assert gradient[1].abs().max() == 0 < gradient[0].abs().max()


def test_rare_tokens_weigh_more() -> None:
    words, features = words_of(), batch(4)
    features[IDS] = torch.tensor([[START, 5, 6, END], *[[START, 5, 7, END]] * 3])
    with torch.no_grad():
        words.head.weight.zero_()
        words.head.bias.zero_()
    gradient = torch.autograd.grad(words(features, At())["loss"], words.head.bias)[0] - 1 / VOCABULARY
    # 5 is in all four captions, 6 in one, 7 in three: 6 has all of the first target, 7 all of the others.
    assert gradient[[5, 6, 7]].tolist() == pytest.approx([0, -1 / 4, -3 / 4])


def test_captions_are_counted_after_the_step_and_not_where_it_is_left_out() -> None:
    loss = small_loss("words")
    total = loss.build(FEW).double()
    words: Any = total["words"]
    features = batch(5)
    both = {"words": features}
    total(both, At())
    assert words.captions.item() == 0
    before = copy.deepcopy(words.state_dict())
    total.after_step(MODEL, At(), torch.tensor(False))
    assert all(torch.equal(value, before[key]) for key, value in words.state_dict().items())
    total.after_step(MODEL, At(), torch.tensor(True))
    assert words.captions.item() == 5
    counted = Counter(token for row in features[IDS].tolist() for token in set(row) - {PAD, START, END})
    assert words.captions_with.tolist() == [counted[c] for c in range(VOCABULARY)]
    first = total(both, At())["words_loss"]
    words.load_state_dict(before)
    assert total(both, At())["words_loss"] != first


def test_counts_are_exact_where_floats_would_not_be() -> None:
    words = words_of().half().double()
    words.captions.fill_(2**40)
    words.captions_with[5] = 2**40 - 1
    features = batch(1)
    features[IDS] = torch.tensor([[START, 5, END]])
    words(features, At())
    words.after_step(MODEL, At())
    assert words.captions.item() == 2**40 + 1
    assert words.captions_with[5].item() == 2**40


def test_it_reads_the_feature_or_the_mean_of_the_patch_tokens() -> None:
    words = make("words", dims=FEW, reads="tokens")
    assert words.needs_for(words.config)[0] == Need("image", "tokens")
    tokens = torch.randn(3, 7, FEW.width, dtype=torch.float64, requires_grad=True)
    given = {Need("image", "tokens"): tokens, IDS: batch(3)[IDS]}
    mean = {IMAGE: tokens.mean(1), IDS: given[IDS]}
    torch.testing.assert_close(words(given, At())["loss"], words_of()(mean, At())["loss"])


@pytest.mark.parametrize("reads", ["feature", "tokens"])
def test_a_student_trains_by_it(reads) -> None:
    """Of a real tower, with the special ids of CLIP's tokenizer."""
    config = with_loss(make_tiny_config(), "words", reads=reads)
    student, inputs = make_student(config), make_inputs(config)
    assert student.model.text_tower is None
    words: Any = student.objective["words"]
    assert words.special.tolist() == [0, 49_406, 49_407]
    student(inputs, At())["loss"].backward()
    assert words.head.weight.grad.abs().max() > 0
    assert all(p.grad is not None for p in student.model.image_tower.parameters())


def test_clip_with_it_is_superclip() -> None:
    assert parse(replace(make_tiny_config().objective, loss="clip + words", options={})).title == "SuperCLIP"


def test_memory_holds_one_block_of_logits() -> None:
    """No tensor on the way, there or back, has N · V numbers, and none of a block waits for the backward pass."""
    n, block, saved = 64, 4, []
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    largest = max(largest, tensor.numel())
            return out

    words = make("words", dims=replace(FEW, vocabulary=1000), block=block)
    features = batch(n)
    with Watch(), torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        words(features, At())["loss"].backward()
    assert largest == 1000 * max(block, FEW.width)
    assert max(tensor.numel() for tensor in saved) <= 1000 * FEW.width


def test_the_target_of_several_captions_is_the_bag_of_all_their_tokens() -> None:
    several, one = words_of(captions=2), words_of()
    features = batch(5)
    ids = torch.stack([features[IDS], batch(5, seed=1)[IDS]], 1)
    joined = {IMAGE: features[IMAGE], IDS: ids.flatten(1)}
    found = several({IMAGE: features[IMAGE], replace(IDS, captions=2): ids}, At())
    torch.testing.assert_close(found["loss"], one(joined, At())["loss"], rtol=0, atol=0)
