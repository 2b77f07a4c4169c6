"""Tokenizers beside weights, as the hub has them for SigLIP and SigLIP 2."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

from interop.public import sentencepiece
from openslip.data.own_tokenizer import OwnTokenizer
from openslip.errors import CheckpointError
from openslip.interop import tokenizers
from openslip.interop.tokenizers import of_transformers


def ids(folder, text: str) -> list[int]:
    own = of_transformers(folder, "spec").numpy().tobytes()
    return OwnTokenizer(own, 12, padded=True)(text)[0].tolist()


@pytest.fixture
def gemma(tmp_path):
    """Byte pairs whose file puts a start before a text, which its settings leave out."""
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.decoder = normalizers.Replace(" ", "▁"), decoders.Replace("▁", " ")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer.train_from_iterator(
        ["a quick brown fox"] * 9, trainers.BpeTrainer(vocab_size=40, special_tokens=special)
    )
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True}
    settings |= {"pad_token": "<pad>", "eos_token": {"content": "<eos>"}, "bos_token": "<bos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_siglip_2_ends_texts_as_its_settings_say(gemma) -> None:
    found = ids(gemma, "a fox")
    assert found[0] > 3
    end = found.index(1)
    assert found[end + 1 :] == [0] * (11 - end)
    settings = json.loads((gemma / "tokenizer_config.json").read_text()) | {"do_lower_case": True}
    (gemma / "tokenizer_config.json").write_text(json.dumps(settings))
    assert ids(gemma, "A FOX") == found


def test_siglips_sentencepiece_drops_punctuation(tmp_path) -> None:
    (tmp_path / "spiece.model").write_bytes(sentencepiece())
    assert ids(tmp_path, "A Cat!") == ids(tmp_path, "a cat")


def test_a_tokenizer_that_is_damaged_or_not_there(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="neither tokenizer.json nor spiece.model"):
        of_transformers(tmp_path, "spec")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="bytes hold no tokenizer"):
        of_transformers(tmp_path, "spec")


def test_a_way_of_using_it_that_only_open_clip_has(tmp_path) -> None:
    text = {"hf_tokenizer_name": "owner/name", "tokenizer_mode": "clips"}
    with pytest.raises(CheckpointError, match="in a way that slip does not support"):
        tokenizers.of_open_clip(text, tmp_path, "spec")
