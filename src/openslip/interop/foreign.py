"""Weights of other projects, by the names of their entries: whose they are, and what is still refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from openslip.errors import CheckpointError
from openslip.files import read_json
from openslip.training.saving import metadata


@dataclass(frozen=True)
class Kind:
    """A kind of weights, known by the names of their entries.

    what: whose weights they are, for messages. pattern: matches the beginning of a name. configs: files that describe
    the model, for which there is a reader. fix: what to do without these files. may_be_timms: whether the file's name
    may tell which image tower of timm the weights are.
    """

    what: str
    pattern: str
    configs: tuple[str, ...] = ()
    fix: str = ""
    may_be_timms: bool = False


KINDS = (
    Kind("adapters (LoRA) alone, and not the model that they are for", r".*lora_[AB]\.", fix="Merge them into their "
         "model with peft (`merge_and_unload`), save that, and give its folder"),
    Kind("a CLIP or SigLIP of Hugging Face's transformers", r"(model\.)?(vision|text)_model\.", ("config.json",),
         "Copy its config.json beside the file, or give the folder that transformers wrote"),
    Kind("a CLIP of OpenAI or open_clip", r"(text\.)?transformer\.resblocks\.|visual\.(trunk\.|conv1\.|class_emb)",
         ("open_clip_config.json",), "Name its architecture: open_clip:NAME@{path}, such as open_clip:ViT-B-32@{path}. "
         "`open_clip.list_models()` lists the names"),
    Kind("an image encoder of a self-supervised method", r"(encoder_q|encoder_k|backbone|student|teacher)\.",
         fix="Save its image tower alone, with timm's names, and name its architecture: timm:NAME@FILE"),
    Kind("an image model of timm or torchvision",
         r"(patch_embed\.|cls_token$|conv_stem\.|stem\.|stages\.|layer1\.0\.|features\.0\.)", ("config.json",),
         "Name its architecture: timm:NAME@{path}, such as timm:resnet50@{path}. `timm.list_models()` lists the names",
         may_be_timms=True),
    Kind("a model of Hugging Face's transformers", r"(encoder|model|transformer|bert|distilbert)\."
         r"(layers?|embeddings|h|encoder)\.", (), "Give a model of images and texts: a CLIP or SigLIP"),
    Kind("weights of another architecture or project", "", fix="Give a run, a file that `slip consolidate` wrote, a "
         "released SLIP checkpoint, or a CLIP of open_clip or transformers", may_be_timms=True),
)  # fmt: skip
"""Weights are of the first kind whose pattern matches the beginning of an entry's name."""


def kind_of(names: Iterable[str]) -> Kind:
    """Return whose weights entries of such names are."""
    names = list(names)
    return next(
        kind for kind in KINDS if not kind.pattern or any(re.match(kind.pattern, name) for name in names)
    )


def unknown(path: Path, names: Iterable[str]) -> CheckpointError:
    """Return the error for weights that are not ours, if nothing beside them says what model they are of."""
    names = sorted(names)
    kind = kind_of(names)
    matching = [name for name in names if re.match(kind.pattern, name)] if kind.pattern else names
    shown = f": {', '.join(matching[:3])}{', …' if len(names) > 3 else ''}" if names else ""
    return CheckpointError(
        f"The file holds {kind.what}"
        + (
            f", and there is no {kind.configs[0]} beside it that names the architecture"
            if kind.configs
            else ""
        ),
        got=str(path),
        cause=f"It has {len(names)} {'entry' if len(names) == 1 else 'entries'}{shown}",
        fix=kind.fix.replace("{path}", str(path)),
    )


def folder_of_others(folder: Path) -> CheckpointError | None:
    """Return the error for a folder with a model of another project that slip does not read; None for any other."""
    if (folder / "adapter_config.json").is_file():
        return CheckpointError(
            f"The folder holds {KINDS[0].what}", got=str(folder), cause="There is adapter_config.json in it",
            fix=KINDS[0].fix,
        )  # fmt: skip
    return None


def a_classifier(path: Path) -> bool:
    """Say whether a file or folder is a finetuned classifier of ours, complete or not, or one of its checkpoints."""
    if os.path.isdir(path):
        of_state = path.parent if path.name.startswith("step-") else path
        with suppress(OSError, ValueError):
            about = read_json(of_state / "finetune.json")
            return isinstance(about, dict) and {"classes", "recipe"} <= about.keys()
        path = path / "model.safetensors"
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with suppress(CheckpointError):  # whoever reads the file says what is wrong with it
        entries, texts = metadata.read_header(path)
        head = {"head.weight", "head.bias"} < entries.keys()
        return metadata.CLASSIFIER in texts or (
            head and all(name.startswith(("tower.", "head.")) for name in entries)
        )
    return False


GRAPHS = (".onnx", ".pt2")
"""The endings of files that hold graphs."""


def graphs(path: str | Path) -> CheckpointError:
    """Return the error for a model that is kept as graphs. Graphs run as they are, and give no weights by name."""
    return CheckpointError(
        "This holds a model as graphs (ONNX, or programs of torch.export), and not as weights that slip reads",
        got=str(path),
        fix="onnxruntime runs .onnx, `torch.export.load` reads .pt2, and the folder's card has the lines. For slip, "
        "give the model that was exported",
    )


def holds_graphs(folder: Path) -> bool:
    """Say whether a folder holds graphs, as `slip export` writes them in each layout, by its files."""
    endings = {path.suffix for path in folder.iterdir()}
    if endings & {".safetensors", ".bin", ".pt", ".pth", ".toml"}:
        return False
    return bool(endings & {*GRAPHS}) or any(True for ending in GRAPHS for _ in folder.glob(f"*/*{ending}"))


def no_embeddings(path: str | Path) -> CheckpointError:
    """Return the error for a finetuned classifier where a model is wanted."""
    return CheckpointError(
        "This is a finetuned classifier: an image tower and a head for classes, without embeddings",
        got=str(path),
        fix="`slip classify FOLDER PICTURES` and openslip.FinetunedClassifier(PATH) use it; `slip export FOLDER` "
        "writes it for other libraries",
    )


def a_probe(path: Path) -> bool:
    """Say whether a file or folder is a kept linear probe (`openslip.evaluation.kept_probe`), by the file's header. If
    the header is damaged, the file's name decides, and whoever reads the file says what is wrong."""
    path = path / "probe.safetensors" if os.path.isdir(path) else path
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        return metadata.PROBE in metadata.read_header(path)[1]
    except CheckpointError:
        return path.name == "probe.safetensors"


def a_layer(path: str | Path) -> CheckpointError:
    """Return the error for a linear probe where a model is wanted."""
    return CheckpointError(
        "This is a linear probe: one layer on the features of a model, and not the model",
        got=str(path),
        fix="`slip classify FOLDER PICTURES` and openslip.LinearClassifier(PATH) use it; give the model itself here",
    )


def torchscript(path: Path) -> CheckpointError:
    """Return the error for a TorchScript archive, as OpenAI hands out CLIP."""
    return CheckpointError(
        f"The file {path} is a TorchScript archive, a program with its weights, and was not loaded: slip runs no code "
        "from files",
        cause="OpenAI distributes its CLIP models (ViT-B-32.pt and others) in this form",
        fix="For OpenAI's CLIP, write open_clip:ViT-B-32-quickgelu/openai, which the hub has as safetensors. For "
        "another archive that you trust, save the weights alone with `torch.save(torch.jit.load(FILE).state_dict(), "
        "'weights.pt')`. Then write open_clip:NAME@weights.pt",
    )
