"""Models of public libraries at small width, with random weights, saved as the libraries save them.

Each case makes a folder (or file) and gives what the library itself makes of pictures and texts; `CASES` are what the
readers take, as docs/formats.md lists it.
"""

from __future__ import annotations

import functools
import io
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TEXTS = [
    "a",
    "a photo of a cat, <b>bold</b> &amp; ünïcode 🙂",
    "",
    "The quick brown fox — jumps!  Over the lazy dog.",
    "word " * 40,
]
"""Short and long ones, none, and odd ones."""
VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT: dict[str, Any] = {"context_length": 12, "vocab_size": 49_408, "width": 32, "heads": 2, "layers": 2}

DINOV2: dict[str, Any] = {
    "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "layerscale_value": 0.7,
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What a library wrote, and what it makes of pictures (N, 3, S, S) and texts, not normalised."""

    spec: str
    size: int
    image: Callable[[Tensor], Tensor]
    text: Callable[[list[str]], Tensor] | None = None


@dataclass(frozen=True)
class Case:
    library: str
    architecture: str
    make: Callable[[Path], Made]


def open_clip(
    text: dict[str, Any] | None = None, tokenizer: str = "", **config: Any
) -> Callable[[Path], Made]:
    """Return what makes a model of open_clip of a configuration, with its tokenizer where it is not CLIP's."""

    def make(folder: Path) -> Made:
        import open_clip
        from open_clip.push_to_hf_hub import save_for_hf

        own = {"siglip": _unigram, "bert": _bert}[tokenizer]() if tokenizer else b""
        texts = TEXT | (text or {})
        described: dict[str, Any] = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": texts} | config
        if own:
            (folder / "tokenizer.json").write_bytes(own)
            (folder / "tokenizer_config.json").write_text(
                json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | SPECIAL[tokenizer])
            )
            texts["hf_tokenizer_name"] = "here"
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": described, "preprocess_cfg": {}})
        )
        model = shaken(open_clip.create_model(f"local-dir:{folder}", load_weights=False))
        saver: Any = Silent()
        save_for_hf(model, saver, described, str(folder), safe_serialization=True)
        split = open_clip.get_tokenizer(f"local-dir:{folder}")
        size = described["vision_cfg"]["image_size"]
        return Made(
            f"open_clip:{folder}", size, model.encode_image, lambda given: model.encode_text(split(given))
        )

    return make


class Silent:
    """A tokenizer that has nothing to save, for open_clip, which has no way to save CLIP's."""

    def save_pretrained(self, folder: str) -> None:
        pass


def clip(**text: Any) -> Callable[[Path], Made]:
    """Return what makes a CLIP of transformers."""

    def make(folder: Path) -> Made:
        from transformers import CLIPConfig, CLIPModel

        from openslip.data.tokenizer import Tokenizer

        act = text.get("hidden_act", "quick_gelu")
        config = CLIPConfig(
            text_config=_transformers(**{"vocab_size": 49_408, "eos_token_id": 49_407} | text),
            vision_config=_transformers(image_size=32, patch_size=8, hidden_act=act),
            projection_dim=24,
        )
        model = shaken(CLIPModel(config))
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            json.dumps(
                {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True,
                 "resample": 3, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
            )
        )  # fmt: skip
        return Made(
            f"hf:{folder}",
            32,
            lambda x: pooled(model.get_image_features(x)),
            lambda given: pooled(model.get_text_features(Tokenizer(12, padded=True)(given))),
        )

    return make


def dual(vision: dict[str, Any]) -> Callable[[Path], Made]:
    """Return what makes a VisionTextDualEncoderModel of transformers, with CLIP's text tower."""

    def make(folder: Path) -> Made:
        from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

        from openslip.data.tokenizer import Tokenizer

        text = _transformers(vocab_size=49_408, eos_token_id=49_407, model_type="clip_text_model")
        model = VisionTextDualEncoderModel(
            VisionTextDualEncoderConfig(vision_config=dict(vision), text_config=text, projection_dim=24)
        )
        shaken(model).save_pretrained(folder)
        return Made(
            f"hf:{folder}",
            32,
            lambda x: pooled(model.get_image_features(pixel_values=x)),
            lambda given: pooled(model.get_text_features(Tokenizer(12, padded=True)(given))),
        )

    return make


def siglip(folder: Path) -> Made:
    """Make a SigLIP of transformers, with a sentencepiece model of its own."""
    from transformers import SiglipConfig, SiglipModel, SiglipTokenizer

    config = SiglipConfig(
        text_config=_transformers(vocab_size=200), vision_config=_transformers(image_size=32, patch_size=8)
    )
    model = shaken(SiglipModel(config))
    model.save_pretrained(folder)
    (folder / "spiece.model").write_bytes(sentencepiece())
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "size": {"height": 32, "width": 32},
                "resample": 3,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            }
        )
    )
    split = SiglipTokenizer(str(folder / "spiece.model"))

    def text(given: list[str]) -> Tensor:
        ids = split(given, padding="max_length", max_length=12, truncation=True, return_tensors="pt")
        return pooled(model.get_text_features(ids["input_ids"]))

    return Made(f"hf:{folder}", 32, lambda x: pooled(model.get_image_features(x)), text)


def timm(name: str, size: int) -> Callable[[Path], Made]:
    """Return what makes an image tower of timm, with its classifier."""

    def make(folder: Path) -> Made:
        import timm
        from timm.models import save_for_hf

        model = shaken(timm.create_model(name, num_classes=7))
        save_for_hf(model, str(folder), safe_serialization=True)
        model.reset_classifier(0)
        return Made(f"timm:{folder}", size, model)

    return make


def _transformers(**values: Any) -> dict[str, Any]:
    shape = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    return shape | ({"max_position_embeddings": 12} if "vocab_size" in values else {}) | values


def shaken(model: nn.Module) -> Any:
    """Return a model in evaluation mode whose parameters and statistics are all random: zeros and ones hide faults."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.03)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=draw) * 0.03)
            elif name.endswith("running_var"):
                buffer.copy_(0.8 + 0.4 * torch.rand(buffer.shape, generator=draw))
    return model.eval()


def pooled(output: Any) -> Tensor:
    """Return the embeddings that a model of transformers gives, by itself or in a table of outputs."""
    return getattr(output, "pooler_output", output)


@functools.cache
def sentencepiece() -> bytes:
    """Return a small sentencepiece model as SigLIP's."""
    import sentencepiece as library

    draw = random.Random(0)
    words = [
        "a",
        "an",
        "the",
        "photo",
        "of",
        "cat",
        "dog",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "word",
        "lazy",
    ]
    captions = [" ".join(draw.choices(words, k=draw.randint(2, 9))) for _ in range(400)]
    file = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_writer=file, vocab_size=40, model_type="unigram", pad_id=-1, bos_id=-1,
        eos_id=1, unk_id=0, minloglevel=2,
    )  # fmt: skip
    return file.getvalue()


@functools.cache
def _unigram() -> bytes:
    """Return a tokenizer.json with an end of text, as the hub has it for open_clip's SigLIP."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator(
        ["a photo of a cat", "the quick brown fox jumps over the lazy dog", "word"] * 20, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer.to_str().encode()


@functools.cache
def _bert() -> bytes:
    """Return a tokenizer.json with a start and an end, as BERT's, which CLIPA has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.train_from_iterator(["a photo of a cat", "the quick brown fox", "word"] * 20, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str().encode()


def _trunk(name: str, size: int, pool: str, projection: str | None = "linear", **more: Any) -> dict[str, Any]:
    return {"image_size": size, "timm_model_name": name, "timm_pool": pool, "timm_proj": projection, **more}


SPECIAL = {
    "siglip": {"pad_token": "</s>", "eos_token": "</s>"},
    "bert": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"},
}
SIGLIP_TEXT: dict[str, Any] = {
    "vocab_size": 80, "no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"}, "width": 96, "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip
CASES = (
    Case("open_clip", "ViT of OpenAI and its successors, QuickGELU", open_clip(quick_gelu=True)),
    Case("open_clip", "ViT, GELU (LAION, DataComp, MetaCLIP)", open_clip()),
    Case("open_clip", "ViT with another width of its MLPs (g, bigG)",
         open_clip({"mlp_ratio": 3.7}, vision_cfg=VISION | {"mlp_ratio": 3.4})),
    Case("open_clip", "CLIPA: mean of the patches, text without a mask",
         open_clip({"pool_type": "last", "no_causal_mask": True}, custom_text=True, vision_cfg=VISION | {
             "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True, "pos_embed_type": "sin_cos_2d"})),
    Case("open_clip", "CLIPA with BERT's tokenizer",
         open_clip({"pool_type": "last", "no_causal_mask": True, "vocab_size": 90,
                    "tokenizer_kwargs": {"strip_sep_token": True}}, "bert", custom_text=True)),
    Case("open_clip", "SigLIP: attention pooling, tokenizer of its own",
         open_clip(SIGLIP_TEXT, "siglip", embed_dim=96, init_logit_bias=-10, custom_text=True,
                   vision_cfg=_trunk("test_vit3", 160, "map", "none"))),
    Case("open_clip", "ResNet-50 of OpenAI (timm's resnet50_clip)",
         open_clip(vision_cfg={"image_size": 64, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None})),
    Case("open_clip", "ConvNeXt and other towers of timm, linear projection",
         open_clip(vision_cfg=_trunk("test_convnext", 160, "", timm_drop_path=0.1))),
    Case("open_clip", "towers of timm with timm's own projection (EVA-02, ViTamin, MobileCLIP, PE)",
         open_clip(vision_cfg=_trunk("test_vit", 160, "token", None))),
    Case("open_clip", "towers of timm, projection with a bias",
         open_clip(vision_cfg=_trunk("test_resnet", 64, "avg", timm_proj_bias=True))),
    Case("transformers", "CLIPModel, QuickGELU", clip()),
    Case("transformers", "CLIPModel, GELU, files of 2022 (end of text 2)", clip(hidden_act="gelu", eos_token_id=2)),
    Case("transformers", "SiglipModel", siglip),
    Case("transformers", "VisionTextDualEncoderModel: Dinov2Model, and CLIP's text tower", dual(DINOV2)),
    Case("transformers", "VisionTextDualEncoderModel: a tower of timm, and CLIP's text tower",
         dual({"model_type": "timm_wrapper", "architecture": "test_resnet", "num_labels": 0, "hidden_size": 96,
               "pretrained_cfg": {"input_size": [3, 32, 32]}})),
    Case("timm", "VisionTransformer", timm("test_vit", 160)),
    Case("timm", "EfficientNet", timm("test_efficientnet", 160)),
    Case("timm", "ConvNeXt", timm("test_convnext", 160)),
)  # fmt: skip
"""What is read, by library and architecture."""


@functools.cache
def difference(case: Case) -> float:
    """Return by how much embeddings of a model that is read differ from the library's, relative to the largest one."""
    import openslip

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made = case.make(Path(folder))
        encoder = openslip.load(made.spec)
        images = torch.randn(3, 3, made.size, made.size, generator=torch.Generator().manual_seed(1))
        pairs = [(made.image(images), encoder.encode_image(images, normalize=False))]
        if made.text is not None:
            pairs.append((made.text(TEXTS), encoder.encode_text(TEXTS, normalize=False)))
            for text in TEXTS:  # alone, that is of another length
                pairs.append((made.text([text]), encoder.encode_text(text, normalize=False)))
    return max(float((theirs - ours).abs().max() / theirs.abs().max()) for theirs, ours in pairs)
