from __future__ import annotations

import io
import json
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, SiglipTokenizer

from openslip.config import TextTowerConfig
from openslip.data import own_tokenizer
from openslip.data.own_tokenizer import OwnTokenizer, from_json, from_sentencepiece, tokenizer_of
from openslip.data.tokenizer import Tokenizer as ClipTokenizer
from openslip.errors import CheckpointError, ConfigError, DataError

TEXT = "a photo of the dog cat red house running blue sky über straße 日本 naïve don t it s 12 3"
ODD = [
    "a photo of a dog",
    "  A  Photo,of\tthe\nDOG!! ",
    "",
    "   ",
    "...",
    "ÜBER_STRASSE it's",
    "日本　語",
    "a▁photo",
    "▁",
    "naïve ﬁ ½",
    "emoji 🐶 dog",
    "a\u200bphoto",
    "&amp; the <b>",
    "x" * 300,
    "ａｂｃ e\u0301",
    "!a",
    "- a the   sky",
    "a dog " * 40,
]


def _captions() -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(TEXT.split(), k=draw.randint(2, 9))).capitalize() + "." for _ in range(400)]


@pytest.fixture(scope="module")
def spiece() -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_captions()),
        model_writer=file,
        vocab_size=70,
        model_type="unigram",
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=0,
        minloglevel=2,
    )
    return file.getvalue()


def _bert() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        _captions(), trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _gemma() -> Tokenizer:
    """Byte pairs without a start, as Gemma's for SigLIP 2."""
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    special = ["<pad>", "<eos>", "<unk>"]
    tokenizer.train_from_iterator(_captions(), trainers.BpeTrainer(vocab_size=120, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


def test_a_sentencepiece_model_gives_what_transformers_siglip_tokenizer_does(
    spiece: bytes, tmp_path: Path
) -> None:
    (tmp_path / "spiece.model").write_bytes(spiece)
    theirs = SiglipTokenizer(str(tmp_path / "spiece.model"))
    ours = OwnTokenizer(from_sentencepiece(spiece), 16, padded=True)
    for text in ODD:
        expected = theirs([text], padding="max_length", max_length=16, truncation=True)["input_ids"]
        assert ours(text).tolist() == expected, text


def test_a_sentencepiece_model_gives_what_sentencepiece_does(spiece: bytes) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    ours = OwnTokenizer(from_sentencepiece(spiece, clean="none"), 16)
    for text in [*ODD, "</s>", "<unk> a </s> dog"]:
        assert ours.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize(
    ("make", "pad", "ends"), [(_bert, "[PAD]", (2, 3)), (_gemma, "<pad>", (None, 1))], ids=["bert", "gemma"]
)
def test_a_tokenizer_json_gives_what_transformers_does(
    make: Any, pad: str, ends: tuple[int | None, int]
) -> None:
    tokenizer = make()
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), pad_token=pad)
    ours = OwnTokenizer(from_json(tokenizer.to_str(), pad=pad), 12, padded=True)
    assert (ours.start, ours.end, ours.pad) == (*ends, 0)
    for text in ODD:
        expected = theirs([text], padding="max_length", max_length=12, truncation=True)["input_ids"]
        assert ours(text).tolist() == expected, text
    together = OwnTokenizer(ours.data, 12)(["a", "a dog", ""])
    assert together.tolist() == theirs(["a", "a dog", ""], padding=True)["input_ids"]


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_texts_are_cleaned_as_by_open_clip(clean: Any) -> None:
    from open_clip.tokenizer import get_clean_fn

    text = _gemma().to_str()
    plain, ours = (OwnTokenizer(from_json(text, pad=0, clean=name), 20) for name in ("none", clean))
    for odd in ODD:
        assert ours.encode(odd) == plain.encode(get_clean_fn(clean)(odd)), odd


def test_letters_can_be_made_small_as_transformers_does_for_siglip_2() -> None:
    text = _gemma().to_str()
    plain, small = (OwnTokenizer(from_json(text, pad=0, lowercase=low), 20) for low in (False, True))
    assert small.encode("The  DOG") == plain.encode("the  dog") != plain.encode("The  DOG")


def test_it_is_small_to_send_and_read_once() -> None:
    tokenizer = OwnTokenizer(from_json(_bert().to_str(), pad=0), 12)
    tokenizer("a dog")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy._loaded() is tokenizer._loaded()
    assert torch.equal(copy("a dog"), tokenizer("a dog"))
    assert copy.vocabulary_size == tokenizer.vocabulary_size > 50
    assert copy([]).shape == (0, 2)


def test_text_that_is_none_and_text_that_cannot_be_encoded() -> None:
    tokenizer = OwnTokenizer(from_json(_bert().to_str(), pad=0), 12)
    with pytest.raises(DataError, match="must be text"):
        tokenizer(["a", 3])  # type: ignore[list-item]
    assert tokenizer("\ud800 a").shape[0] == 1
    assert tokenizer("a " * 1_000_000).shape == (1, 12)


def test_a_token_that_the_model_lacks_is_said() -> None:
    config = TextTowerConfig(vocabulary=20, context=12)
    tokenizer = tokenizer_of(config, from_json(_bert().to_str(), pad=0))
    with pytest.raises(DataError, match="of 20 tokens"):
        tokenizer("a photo of the dog")


def test_clips_tokenizer_without_bytes() -> None:
    tokenizer = tokenizer_of(TextTowerConfig(pool="last", context=9), b"")
    assert isinstance(tokenizer, ClipTokenizer)
    assert tokenizer("a dog").tolist() == [[49_406, 320, 1929, 49_407, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (bytes(100), "is empty"),
        (b"{", "bytes hold no tokenizer"),
        (b"[]", "bytes hold no tokenizer"),
        (b"[" * 100_000, "bytes hold no tokenizer"),
        (b'{"version": 1, "clean": "none", "pad": -1, "start": null, "end": null, "tokenizer": ""}', "bytes"),
        (b'{"version": 1, "clean": "eval", "pad": 1, "start": null, "end": null, "tokenizer": ""}', "bytes"),
        (
            b'{"version": 2, "clean": "none", "pad": 1, "start": null, "end": null, "tokenizer": ""}',
            "version",
        ),
    ],
)
def test_bytes_that_are_no_tokenizer(data: bytes, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        OwnTokenizer(data, 12)


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"type": "BPE"}}', b"\xff\xfe", "[" * 100_000])
def test_a_tokenizer_json_that_is_none(text: str | bytes) -> None:
    with pytest.raises(CheckpointError, match="bytes hold no tokenizer"):
        from_json(text, pad=0)


def test_a_tokenizer_that_lacks_what_is_asked() -> None:
    text = _bert().to_str()
    with pytest.raises(CheckpointError, match="which token fills rows up"):
        from_json(text)
    with pytest.raises(CheckpointError, match="no such token"):
        from_json(text, pad="<pad>")
    with pytest.raises(ConfigError, match="clean"):
        from_json(text, pad=0, clean="all")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError):
        from_sentencepiece(b"\x00" * 20)
    odd = json.loads(text)
    odd["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 2
        + [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
    }
    with pytest.raises(CheckpointError, match="more around a text"):
        from_json(json.dumps(odd), pad=0)


def test_dropout_of_merges_is_left_out() -> None:
    """It would split the same text otherwise each time: a run would not go on as it was."""
    merges = models.BPE({"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}, [("a", "b"), ("ab", "c")], dropout=0.9)
    tokenizer = OwnTokenizer(from_json(Tokenizer(merges).to_str(), pad=0), 12)
    assert all(tokenizer.encode("abcabcabc") == [4, 4, 4] for _ in range(5))


def test_a_tokenizer_that_gives_up_on_a_text_says_so() -> None:
    endless, nothing = _bert(), Tokenizer(models.WordLevel({"a": 0}, unk_token="none"))
    endless.normalizer = normalizers.Replace(Regex("(x+x+)+y"), "b")
    for inner in (endless, nothing):
        tokenizer = OwnTokenizer(from_json(inner.to_str(), pad=0, ends=(None, None)), 12)
        with pytest.raises(DataError, match="cannot split a text"):
            tokenizer("x" * 60)
    with pytest.raises(CheckpointError, match="bytes hold no tokenizer"):
        from_json(Tokenizer(models.WordLevel({"b": 0}, unk_token="none")).to_str(), pad=0)


def test_a_tokenizer_that_blows_texts_up_is_refused() -> None:
    tokenizer = _bert()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * 40)
    with pytest.raises(CheckpointError, match="characters of one"):
        from_json(tokenizer.to_str(), pad=0)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = from_json(_bert().to_str(), pad=0)
    monkeypatch.setattr(own_tokenizer, "_loaded", {})
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"openslip\[transformers\]"):
        OwnTokenizer(data, 12)("a dog")
