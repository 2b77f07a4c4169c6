"""ONNX graphs in one folder, with all that a program has to know in one small JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openslip.encoder import Encoder
from openslip.exports.graphs import Files, runner
from openslip.exports.plan import Consumer
from openslip.exports.tokenizer_files import TOKENIZER

FILES = Files("image.onnx", "text.onnx", "pixels", "ids", "embeddings")
SETTINGS = "openslip.json"
ROUGHLY = (
    "tokenizer.json does not repair broken letters, or replace rare HTML, as slip's tokenizer does: captions with them "
    "have other embeddings"
)
WITHOUT_TOKENIZER = (
    "the library `tokenizers` alone gives other token ids than the tokenizer of the model, so tokenizer.json is left "
    "out"
)
IMAGE = """import json, numpy as np, onnxruntime
from PIL import Image
about = json.load(open("PLACE/openslip.json"))["image"]
size, resampling = about["size"], Image.Resampling[about["interpolation"].upper()]
picture = picture.convert("RGB")
{fit}
levels = (np.float32(picture) / 255 - np.float32(about["mean"])) / np.float32(about["std"])
session = onnxruntime.InferenceSession("PLACE/image.onnx")
image = session.run(None, {{"pixels": levels.transpose(2, 0, 1)[None]}})[0]"""
CROP = """picture = picture.resize([size * side // min(picture.size) for side in picture.size], resampling)
left, upper = (round((side - size) / 2) for side in picture.size)
picture = picture.crop((left, upper, left + size, upper + size))"""
SQUASH = "picture = picture.resize((size, size), resampling)"
TEXT = """
from tokenizers import Tokenizer
tokens = Tokenizer.from_file("PLACE/tokenizer.json").encode_batch(["a red bicycle", "a dog"])
session = onnxruntime.InferenceSession("PLACE/text.onnx")
text = session.run(None, {"ids": np.int64([one.ids for one in tokens])})[0]
print(image @ text.T)"""
UNCUT, CUT = "one.ids for", "one.ids[:{context}] for"
"""Of the lines: token ids as the tokenizer gives them, and where it does not cut texts that are too long."""


def check(encoder: Encoder, tokenizer: Any) -> None:
    """Every model can be laid out like this."""


def notes(encoder: Encoder, tokenizer: Any) -> list[str]:
    """Return what people should know of the folder."""
    if encoder.model.text_tower is None:
        return ["the model has no text tower, so image.onnx gives the image tower's features, of length 1"]
    return [WITHOUT_TOKENIZER if tokenizer is None else ROUGHLY]


def usage(encoder: Encoder, tokenizer: Any) -> str:
    """Return lines that embed a `picture` and texts, without torch and without slip."""
    lines = IMAGE.format(fit=SQUASH if encoder.config.views.fit == "squash" else CROP)
    if tokenizer is None:
        return lines
    text = encoder.config.model.text
    cut = CUT.format(context=text.context) if tokenizer.truncation is None else UNCUT
    return lines + TEXT.replace(UNCUT, cut)


def write(place: Path, encoder: Encoder, settings: dict[str, Any], tokenizer: Any) -> None:
    """Write what lies beside the graphs."""
    (place / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    if tokenizer is not None:
        tokenizer.save(str(place / TOKENIZER), pretty=False)


def load(place: Path, encoder: Encoder) -> Consumer:
    """Read the folder by its own files alone; without a tokenizer.json, the model's own gives the ids."""
    settings = json.loads((place / SETTINGS).read_text())
    image = settings["image"]
    run_image = runner(place / image["file"], image["input"])
    if "text" not in settings:
        return Consumer(lambda pixels: run_image(pixels.numpy()), None, lambda one: prepared(image, one))
    described = settings["text"]
    run_text = runner(place / described["file"], described["input"])
    if described["tokenizer"]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(place / described["tokenizer"]))

        def ids(texts: list[str]) -> np.ndarray:
            rows = [one.ids[: described["context"]] for one in tokenizer.encode_batch(texts)]
            return np.array(rows, dtype=np.int64)

    else:

        def ids(texts: list[str]) -> np.ndarray:
            return encoder.tokenize(texts).numpy()

    def text(texts: list[str]) -> Tensor:
        # The first alone: another batch, of another length, than the example that the graph was made of.
        return torch.cat([run_text(ids(texts[:1])), run_text(ids(texts[1:]))])

    def pictures(pixels: Tensor) -> Tensor:
        return torch.cat([run_image(pixels[:1].numpy()), run_image(pixels[1:].numpy())])

    return Consumer(pictures, text, lambda one: prepared(image, one))


def prepared(image: dict[str, Any], picture: Image.Image) -> Tensor:
    """Prepare a picture by what the settings say of it, with Pillow and numpy alone."""
    size, resampling = image["size"], Image.Resampling[image["interpolation"].upper()]
    picture = picture.convert("RGB")
    if image["fit"] == "squash":
        picture = picture.resize((size, size), resampling)
    else:
        short = min(picture.size)
        picture = picture.resize((size * picture.width // short, size * picture.height // short), resampling)
        left, upper = (round((side - size) / 2) for side in picture.size)
        picture = picture.crop((left, upper, left + size, upper + size))
    levels = np.asarray(picture, np.float32) / 255
    ready = (levels - np.float32(image["mean"])) / np.float32(image["std"])
    return torch.from_numpy(ready.transpose(2, 0, 1).copy())
