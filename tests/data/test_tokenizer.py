from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openslip.data import tokenizer as tokenizer_module
from openslip.data.tokenizer import Tokenizer
from openslip.errors import ConfigError, DataError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def oracle() -> Any:
    """open_clip's own tokenizer, untouched."""
    return tokenizer_module.open_clip_tokenizer().SimpleTokenizer()


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: repr(case["text"][:20]))
def test_ids_equal_the_reference(case: dict) -> None:
    assert Tokenizer().encode(case["text"]) == case["ids"]
    assert Tokenizer().encode(case["text"]) == case["ids"]  # once more, from the cache


def test_special_ids_equal_the_reference() -> None:
    tokenizer = Tokenizer()
    assert (tokenizer.vocabulary_size, tokenizer.start, tokenizer.end, tokenizer.context) == (
        GOLDEN["vocabulary"],
        GOLDEN["start"],
        GOLDEN["end"],
        77,
    )


@given(st.text(max_size=60) | st.text(st.characters(max_codepoint=127), max_size=60))
@example("\x00a\x00b NUL")
@example("\x1b[31mred\x1b[0m \x07 \x0b\x0c\x1c\x7f \r\n \x85 \u2028")
@example("&amp;amp;amp; &#1; &#xD800; &lt;end&gt;")
@example("\ud800 lone surrogate")
@example("שלום \u202eעולם\u202c left")
@example("👩🏽‍🚀👩🏽‍🚀 naïve Σας ΟΔΟΣ ﬁ İ ſ")
@example("it's 'S IT'RE 'tis")
@settings(deadline=None, max_examples=300)
def test_ids_equal_open_clips(oracle: Any, text: str) -> None:
    expected = oracle.encode(text)
    assert Tokenizer().encode(text) == expected
    assert Tokenizer().encode(text) == expected


def test_rows() -> None:
    tokens = Tokenizer()(["a photo of a cat", "", "dog"])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [
        [49406, 320, 1125, 539, 320, 2368, 49407],
        [49406, 49407, 0, 0, 0, 0, 0],
        [49406, 1929, 49407, 0, 0, 0, 0],
    ]
    assert Tokenizer()("dog").tolist() == [[49406, 1929, 49407]]
    assert Tokenizer()([]).shape == (0, 2)


def test_an_over_long_caption_keeps_its_end(oracle: Any) -> None:
    text = " ".join(["word"] * 100)
    assert Tokenizer()(text).tolist() == [[49406] + [2653] * 75 + [49407]]
    assert torch.equal(Tokenizer()(text), oracle(text))
    assert Tokenizer(truncation="reference")(text).tolist() == [[49406] + [2653] * 76]
    for count in (74, 75, 76):  # at the edge: 75 fit
        ids = [2653] * count
        text = " ".join(["word"] * count)
        assert Tokenizer()(text).tolist() == [[49406, *ids[:75], 49407]]
        assert Tokenizer(truncation="reference")(text).tolist() == [[49406, *ids, 49407][:77]]
    assert Tokenizer(context=5)("a photo of a cat").tolist() == [[49406, 320, 1125, 539, 49407]]


def test_spelt_out_special_tokens_are_text() -> None:
    for text in ("<end_of_text>", "a <start_of_text> b", "<|endoftext|>", "<|startoftext|>"):
        assert not {49406, 49407} & set(Tokenizer().encode(text))


@pytest.mark.parametrize(
    "text", ["dog " * 25_000, "naïve " * 16_000, "xq" * 50_000, "猫犬鳥" * 11_000, "?!" * 50_000]
)
def test_a_hundred_kilobytes(text: str) -> None:
    start = time.perf_counter()
    tokens = Tokenizer()(text)
    assert time.perf_counter() - start < 5
    assert tokens.shape == (1, 77)
    assert tokens[0, -1] == 49407


def test_pieces_of_a_long_word_do_not_change_what_fits(oracle: Any) -> None:
    text = "xq" * 3000
    assert Tokenizer()(text)[0, :-1].tolist() == [49406, *oracle.encode(text)[:75]]


def test_the_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "_CACHED_WORDS", 50)
    vocabulary = tokenizer_module._Vocabulary()
    for n in range(500):
        vocabulary.encode(f"word{n} " + "y" * 100 + str(n), 1000)
    assert len(vocabulary._words) <= 50
    assert len(vocabulary._bpe.__self__.cache) == 0


def test_threads_get_the_same_tokens() -> None:
    """Words that nobody has seen, the same ones in all threads at once."""
    texts = [f"new{n}word{n % 7} <end_of_text> strange{n}" for n in range(300)]
    vocabulary = tokenizer_module._Vocabulary()
    expected = [tokenizer_module._Vocabulary().encode(text, 1000) for text in texts[:20]]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: [vocabulary.encode(text, 1000) for text in texts], range(8)))
    assert all(found == together[0] for found in together)
    assert together[0][:20] == expected


def test_pickles_small() -> None:
    tokenizer = Tokenizer(context=20, truncation="reference")
    tokenizer.encode("a cat")
    data = pickle.dumps(tokenizer)
    assert len(data) < 200
    copy = pickle.loads(data)
    assert (copy.context, copy.truncation) == (20, "reference")
    assert torch.equal(copy("a cat"), tokenizer("a cat"))


def test_does_not_import_the_whole_of_open_clip() -> None:
    code = "from openslip.data.tokenizer import Tokenizer; Tokenizer()('cat'); import sys; print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="at least 3"):
        Tokenizer(context=2)
    with pytest.raises(ConfigError, match="keep-end"):
        Tokenizer(truncation="keepend")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="must be text"):
        Tokenizer()([None])  # type: ignore[list-item]
