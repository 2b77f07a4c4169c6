"""ONNX graphs in one folder, with all that a program must know in one small JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable
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
PIXELS = """import json, numpy as np, {library}
from PIL import Image
about = json.load(open("PLACE/openslip.json"))["image"]
size, resampling = about["size"], Image.Resampling[about["interpolation"].upper()]
picture = picture.convert("RGB")
{fit}
pixels = np.float32((np.float32(picture) / 255 - about["mean"]) / about["std"]).transpose(2, 0, 1)[None]
"""
"""Lines of Python that make `pixels` of a `picture`."""
RUN = """{output} = onnxruntime.InferenceSession("PLACE/image.onnx").run(None, {{"pixels": pixels}})[0]"""
CROP = """picture = picture.resize([size * side // min(picture.size) for side in picture.size], resampling)
left, upper = (round((side - size) / 2) for side in picture.size)
picture = picture.crop((left, upper, left + size, upper + size))"""
SQUASH = "picture = picture.resize((size, size), resampling)"
IDS = """
from tokenizers import Tokenizer
tokens = Tokenizer.from_file("PLACE/tokenizer.json").encode_batch(["a red bicycle", "a dog"])
ids = np.int64([one.ids for one in tokens])
"""
"""Lines of Python that make `ids` of texts."""
TEXT = """text = onnxruntime.InferenceSession("PLACE/text.onnx").run(None, {"ids": ids})[0]
print(image @ text.T)"""
UNCUT, CUT = "one.ids for", "one.ids[:{context}] for"
"""In these lines: token ids as the tokenizer gives them, and cut, for a tokenizer that does not cut long texts."""


def check(encoder: Encoder, tokenizer: Any) -> None:
    """Accept every model: all can be laid out like this."""


def notes(encoder: Encoder, tokenizer: Any) -> list[str]:
    """Return what users should know about the folder."""
    if encoder.model.text_tower is None:
        return ["the model has no text tower, so image.onnx gives the image tower's features, of length 1"]
    return [WITHOUT_TOKENIZER if tokenizer is None else ROUGHLY]


def usage(encoder: Encoder, tokenizer: Any) -> str:
    """Return lines that embed a `picture` and texts, without torch and without slip."""
    lines = pixels("onnxruntime", encoder.config.views.fit) + RUN.format(output="image")
    return lines + (ids(encoder, tokenizer) + TEXT if tokenizer is not None else "")


def pixels(library: str, fit: str) -> str:
    """Return lines that make `pixels` of a `picture`. library: what else they import. fit: as in `config.views`."""
    return PIXELS.format(library=library, fit=SQUASH if fit == "squash" else CROP)


def ids(encoder: Encoder, tokenizer: Any) -> str:
    """Return lines that make `ids` of texts."""
    text = encoder.config.model.text
    return IDS.replace(UNCUT, CUT.format(context=text.context)) if tokenizer.truncation is None else IDS


def write(place: Path, encoder: Encoder, settings: dict[str, Any], tokenizer: Any) -> None:
    """Write the files beside the graphs."""
    (place / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    if tokenizer is not None:
        tokenizer.save(str(place / TOKENIZER), pretty=False)


def load(place: Path, encoder: Encoder) -> Consumer:
    """Read the folder from its own files alone. Without a tokenizer.json, the model's tokenizer gives the ids."""
    settings = json.loads((place / SETTINGS).read_text())
    image = settings["image"]
    run_image = runner(place / image["file"], image["input"])
    if "text" not in settings:
        return Consumer(lambda pixels: run_image(pixels.numpy()), None, lambda one: prepared(image, one))
    described = settings["text"]
    run_text, ids = runner(place / described["file"], described["input"]), ids_of(place, settings, encoder)

    def text(texts: list[str]) -> Tensor:
        # The first text goes alone, so that batch and length differ from the example the graph was made from.
        return torch.cat([run_text(ids(texts[:1])), run_text(ids(texts[1:]))])

    def pictures(pixels: Tensor) -> Tensor:
        return torch.cat([run_image(pixels[:1].numpy()), run_image(pixels[1:].numpy())])

    return Consumer(pictures, text, lambda one: prepared(image, one))


def ids_of(place: Path, settings: dict[str, Any], encoder: Encoder) -> Callable[[list[str]], np.ndarray]:
    """Return a function from texts to ids (N, L) int64, with the folder's tokenizer, or else the model's own."""
    described = settings["text"]
    if not described["tokenizer"]:
        return lambda texts: encoder.tokenize(texts).numpy()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(place / described["tokenizer"]))

    def ids(texts: list[str]) -> np.ndarray:
        rows = [one.ids[: described["context"]] for one in tokenizer.encode_batch(texts)]
        return np.array(rows, dtype=np.int64)

    return ids


def prepared(image: dict[str, Any], picture: Image.Image) -> Tensor:
    """Prepare a picture as the settings say, with Pillow and numpy alone."""
    size, resampling = image["size"], Image.Resampling[image["interpolation"].upper()]
    picture = picture.convert("RGB")
    if image["fit"] == "squash":
        picture = picture.resize((size, size), resampling)
    else:
        short, resized = min(picture.size), image.get("resize", size)
        picture = picture.resize(
            (resized * picture.width // short, resized * picture.height // short), resampling
        )
        left, upper = (round((side - size) / 2) for side in picture.size)
        picture = picture.crop((left, upper, left + size, upper + size))
    levels = np.asarray(picture, np.float32) / 255
    ready = (levels - np.float32(image["mean"])) / np.float32(image["std"])
    return torch.from_numpy(ready.transpose(2, 0, 1).copy())
