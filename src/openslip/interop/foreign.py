"""Weights of other projects, which are not loaded yet: what they are, and what can be done with them today."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from openslip.errors import CheckpointError

OPEN_CLIP = (
    "open_clip, which is installed with slip, loads it: "
    "`open_clip.create_model_and_transforms(NAME, pretrained=FILE)` with the name of its architecture"
)
TRANSFORMERS = "transformers loads it: `AutoModel.from_pretrained(FOLDER)`"
TOWER = (
    "To train from such an image tower, name its architecture: `--init timm:NAME`; `timm.list_pretrained()` lists the "
    "names"
)
KINDS = (
    (r"(vision|text)_model\.", "a CLIP or SigLIP of Hugging Face's transformers", TRANSFORMERS),
    (r"visual\.(trunk\.|conv1\.|class_embedding)", "a CLIP of OpenAI or open_clip", OPEN_CLIP),
    (r"(text\.)?transformer\.resblocks\.", "a CLIP of OpenAI or open_clip", OPEN_CLIP),
    (r".*lora_[AB]\.", "adapters (LoRA) for another model", ""),
    (
        r"(encoder_q|encoder_k|backbone|student|teacher)\.",
        "an image encoder of a self-supervised method",
        TOWER,
    ),
    (
        r"(patch_embed\.|cls_token$|conv_stem\.|stem\.|stages\.|layer1\.0\.|features\.0\.)",
        "an image model of timm or torchvision",
        TOWER,
    ),
    (
        r"(encoder|model|transformer|bert|distilbert)\.(layers?|embeddings|h|encoder)\.",
        "a model of Hugging Face's transformers",
        TRANSFORMERS,
    ),
)
"""How entries of some project's weights begin, what these are, and what to do with them."""


FOLDERS = (
    (
        "open_clip_config.json",
        "a model of open_clip",
        "open_clip, which is installed with slip, loads it: "
        "`open_clip.create_model_and_transforms('local-dir:FOLDER')`",
    ),
    (
        "config.json",
        "a model of Hugging Face's transformers, or of timm",
        "Load it with the library that wrote it",
    ),
)
"""The file by which a folder with some project's model is known, what the model is, and what to do with it."""


def unknown(path: Path, names: Iterable[str]) -> CheckpointError:
    """Return the error for weights that are neither ours nor of the reference implementation."""
    names = sorted(names)
    for pattern, kind, advice in KINDS:
        if any(re.match(pattern, name) for name in names):
            return CheckpointError(
                f"The file holds {kind}, which slip does not load yet",
                got=str(path),
                cause=f"It has entries such as {_some(names, pattern)}",
                fix=advice,
            )
    return CheckpointError(
        "The file holds weights of another architecture or project",
        got=str(path),
        cause=f"It has {len(names)} entries" + (f": {', '.join(names[:4])}, …" if names else ""),
        fix="Give a run, a file that `slip consolidate` wrote, or a released SLIP checkpoint",
    )


def folder_of_others(folder: Path) -> CheckpointError | None:
    """Return the error for a folder that holds a model of another project, None where it does not look like one."""
    for name, kind, advice in FOLDERS:
        if (folder / name).is_file():
            return CheckpointError(
                f"The folder holds {kind}, which slip does not load yet",
                got=str(folder),
                cause=f"There is {name} in it, and no config.toml",
                fix=advice,
            )
    return None


def torchscript(path: Path) -> CheckpointError:
    """Return the error for a TorchScript archive, as OpenAI hands out CLIP."""
    return CheckpointError(
        f"The file {path} is a TorchScript archive, a program with its weights, and was not loaded: slip runs no code "
        "from files",
        cause="OpenAI's CLIP models (ViT-B-32.pt and others) are handed out so",
        fix="To use OpenAI's CLIP, `open_clip.create_model_and_transforms('ViT-B-32-quickgelu', pretrained='openai')` "
        "loads it, and open_clip is installed with slip. To train from its image tower, `--init "
        "timm:vit_base_patch32_clip_quickgelu_224.openai`. Of another archive that you trust, "
        "`torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')` saves the weights alone",
    )


def _some(names: list[str], pattern: str) -> str:
    return ", ".join([name for name in names if re.match(pattern, name)][:3])
