"""Models of open_clip: by the name of architecture and weights, on the hub, in a folder, or in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openslip.config import (
    Config,
    ModelConfig,
    ObjectiveConfig,
    ViewsConfig,
    as_typed,
)
from openslip.errors import CheckpointError, did_you_mean
from openslip.files import expand
from openslip.interop import downloads, hub, tokenizers
from openslip.interop.digests import Digests
from openslip.interop.filling import Mapped, pretrained_of
from openslip.interop.open_clip_towers import towers, unsupported
from openslip.interop.preprocessing import views_of
from openslip.interop.weight_files import as_scalar, described_by, nearest, read_config, read_weights
from openslip.models.weights import Origin, Pretrained

SETTINGS = "open_clip_config.json"
FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Names of the files of weights in a folder or repository, preferred names first."""
NO_PART = {
    "attn_mask": "which attention computes itself",
    "input_resolution": "a number of OpenAI's format",
    "context_length": "a number of OpenAI's format",
    "vocab_size": "a number of OpenAI's format",
}
"""Entries that hold no weights, and what they are."""
PREPROCESSING = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""open_clip's default for pictures, which is that of OpenAI's CLIP."""


def read(name: str, spec: str) -> Pretrained:
    """Return the model that follows `open_clip:`.

    name: architecture and weights that open_clip knows (`ViT-B-32/laion2b_s34b_b79k`), which are fetched; a folder or a
    repository of the hub with an open_clip_config.json; `NAME@FILE`, the architecture and a file of its weights; or a
    file alone, with an open_clip_config.json beside it.

    Raises CheckpointError.
    """
    architecture, at, file = name.partition("@")
    known = architectures()
    if at and _plain(architecture) in known:
        return _of_file(expand(file), _plain(architecture), spec)
    folder = expand(name.removeprefix("local-dir:"))
    if folder.is_dir():
        return read_folder(folder, spec)
    if folder.is_file():
        return _beside_settings(folder, spec)
    architecture, slash, tag = name.rpartition("/")
    if _plain(architecture) in known:
        return _published(_plain(architecture), tag, spec)
    if _plain(name) in known:
        tags = _tags(_plain(name))
        raise CheckpointError(
            "This names an architecture of open_clip, but not its weights",
            got=spec,
            fix=f"Write one of: {', '.join(f'open_clip:{name}/{each}' for each in tags[:6])}"
            if tags
            else f"open_clip has no weights of it. For a file of weights: open_clip:{name}@FILE",
        )
    repository = name.removeprefix("hf-hub:")
    if repository != name or (slash and hub.is_name(name) and not _close(architecture, known)):
        return read_hub(repository, spec)
    first, colon, tag = name.partition(":")
    raise CheckpointError(
        "open_clip has no such architecture, and there is no such folder",
        got=architecture or name,
        fix=f"Write open_clip:{first}/{tag}"
        if colon and _plain(first) in known
        else nearest(architecture or name, known, "`open_clip.list_models()` lists them"),
    )


def _beside_settings(path: Path, spec: str) -> Pretrained:
    """Return the model of weights in a file, which an open_clip_config.json beside it describes."""
    if (path.parent / SETTINGS).is_file():
        return read_folder(path.parent, spec, weights=path)
    raise CheckpointError(
        f"The file does not name the architecture of its weights, and there is no {SETTINGS} beside it",
        got=spec,
        fix=f"Name the architecture: open_clip:NAME@{path}, such as open_clip:ViT-B-32@{path}. "
        "`open_clip.list_models()` lists the names",
    )


def read_folder(folder: Path, spec: str, *, weights: Path | None = None) -> Pretrained:
    """Return the model of a folder with open_clip_config.json and weights. Raises CheckpointError.

    weights: the folder's file of weights, if that is known.
    """
    settings = folder / SETTINGS
    if not settings.is_file():
        raise CheckpointError(
            f"The folder holds no {SETTINGS}, which says what model it is",
            got=str(folder),
            fix="Copy it as well, or name the architecture: open_clip:NAME@FILE",
        )
    config = _settings(settings)
    if weights is None:
        found = [folder / name for name in FILES if (folder / name).is_file()]
        found = found or sorted(folder.glob("*.safetensors"))
        if not found:
            raise CheckpointError(
                f"The folder holds no weights beside its {SETTINGS}",
                got=str(folder),
                fix=f"Copy {FILES[0]} into it as well",
            )
        weights = found[0]
    return _of(config["model_cfg"], config.get("preprocess_cfg") or {}, weights, spec, [settings], spec)


def read_hub(repository: str, spec: str) -> Pretrained:
    """Return the model of a repository of the hub with an open_clip_config.json. Raises CheckpointError."""
    settings, weights = hub.fetch(repository, [SETTINGS]), hub.fetch(repository, FILES)
    hub.fetch(repository, [tokenizers.FILES[0]], optional=True)
    hub.fetch(repository, [tokenizers.FILES[2]], optional=True)
    if settings is None or weights is None:
        raise CheckpointError(
            "The model on the hub is not one of open_clip",
            got=repository,
            cause=f"It has no {SETTINGS if settings is None else ' or '.join(FILES[:3])}",
            fix=f"For a model of transformers, write hf:{repository}",
        )
    config = _settings(settings)
    return _of(config["model_cfg"], config.get("preprocess_cfg") or {}, weights, spec, [settings], repository)


def architectures() -> dict[str, Path]:
    """Return where the installed open_clip describes each of its architectures, by name; open_clip is not imported."""
    import importlib.util

    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise CheckpointError(
            "open_clip is not installed. It knows the architectures of its models",
            fix="Run `pip install open_clip_torch`",
        )
    return {
        path.stem: path for path in sorted(Path(package.origin).with_name("model_configs").glob("*.json"))
    }


def _plain(name: str) -> str:
    """Return the name of an architecture as open_clip writes it today. The name once was `ViT-B/32`."""
    return name.replace("/", "-")


def _close(name: str, known: Mapping[str, object]) -> bool:
    return bool(nearest(name, known, ""))


def _tags(architecture: str) -> list[str]:
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list_pretrained_tags_by_model(architecture)


def _settings(path: Path) -> dict[str, Any]:
    config = read_config(path)
    if not isinstance(config.get("model_cfg"), dict):
        raise CheckpointError(
            "The configuration does not describe a model of open_clip",
            got=str(path),
            cause="It has no table model_cfg",
            fix="Copy or download the file anew",
        )
    return config


def _published(architecture: str, tag: str, spec: str) -> Pretrained:
    """Return a model with weights that open_clip's table points to: on the hub, else behind a web address."""
    from open_clip.pretrained import get_pretrained_cfg

    stated = get_pretrained_cfg(architecture, tag)
    if not stated:
        tags = _tags(architecture)
        elsewhere = [
            name for name in (f"{architecture}-quickgelu", architecture.removesuffix("-quickgelu"))
            if name != architecture and get_pretrained_cfg(name, tag)
        ]  # fmt: skip
        raise CheckpointError(
            f"open_clip has no weights of {architecture} with this name",
            got=tag,
            fix=f"Write open_clip:{elsewhere[0]}/{tag}" if elsewhere else did_you_mean(tag, tags),
        )
    config = read_config(architectures()[architecture])
    notes = []
    if bool(stated.get("quick_gelu")) != bool(config.get("quick_gelu")) and not _is_timm(config):
        other = (
            f"{architecture}-quickgelu"
            if stated.get("quick_gelu")
            else architecture.removesuffix("-quickgelu")
        )
        notes.append(
            f"the weights {tag} were trained with {'QuickGELU' if stated.get('quick_gelu') else 'GELU'}, and "
            f"{architecture} has the other activation: open_clip:{other}/{tag} is exact"
        )
    if stated.get("hf_hub"):
        repository, _, file = str(stated["hf_hub"]).rpartition("/")
        safe = re.sub(r"\.(bin|pth?)$", ".safetensors", file)
        names = list(dict.fromkeys([safe, file])) if file else FILES[:3]
        path = hub.fetch(repository, names)
        if path is None:
            raise CheckpointError(
                "The hub lacks the file that open_clip names", got=f"{repository}: {' or '.join(names)}"
            )
    else:
        url = str(stated["url"])
        path = downloads.fetch(url, sha=_digest(url))
    found = _of(config, stated, path, spec, [], f"{architecture}/{tag}")
    return replace(found, notes=(*notes, *found.notes))


def _digest(url: str) -> str:
    """Return the beginning of a file's SHA-256, if the address has it, as OpenAI's and mlfoundations' do; else ""."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", url) if "mlfoundations" in url else None
    return found[1] if found else ""


def _of_file(path: Path, architecture: str, spec: str) -> Pretrained:
    """Return a model whose weights are in a file, and whose architecture open_clip describes.

    Pictures are prepared as for all published weights of the architecture, if these agree; else by the default.
    """
    from open_clip.pretrained import get_pretrained_cfg

    kinds = [get_pretrained_cfg(architecture, tag) for tag in _tags(architecture)]
    each = [{key: kind.get(key) for key in PREPROCESSING} for kind in kinds] or [PREPROCESSING]
    agreed = each[0] if all(one == each[0] for one in each) else PREPROCESSING
    found = _of(read_config(architectures()[architecture]), agreed, path, spec, [], architecture)
    views = found.config.views
    told = (
        f"{spec} does not say how pictures were prepared: mean {as_typed(views.mean)}, deviation "
        f"{as_typed(views.std)}, {views.interpolation}, {views.fit}, as for open_clip's own weights of {architecture}"
    )
    return replace(found, notes=(told, *found.notes))


def _of(
    config: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    path: Path,
    spec: str,
    files: list[Path],
    name: str,
) -> Pretrained:
    """Return the model that a table of open_clip describes, with the weights in a file. Raises CheckpointError."""
    check(config, spec)
    state, read_ = read_weights(path)
    found = Mapped()
    for entry in [entry for entry in state if entry.removeprefix("text.") in NO_PART]:
        found.unused[entry] = NO_PART[entry.removeprefix("text.")]
        del state[entry]
    image, size, texts = towers(config, state, found, spec)
    if name_of_tokenizer := config["text_cfg"].get("hf_tokenizer_name"):
        own = tokenizers.of_open_clip(config["text_cfg"], files[0].parent if files else None, spec)
        found.put("text_tower.tokenizer", f"the tokenizer {name_of_tokenizer}", own)
        texts = replace(texts, tokenizer=len(own))
    for entry, ours in {"logit_scale": "logit_scale", "logit_bias": "objective.siglip.bias"}.items():
        if entry in state:
            found.put(ours, entry, as_scalar(state.pop(entry)))
    for entry, value in state.items():  # `pretrained_of` says what they are
        found.put(
            f"image_tower.{entry}" if entry.startswith("visual.") else f"text_tower.{entry}", entry, value
        )
    sigmoid = "objective.siglip.bias" in found.weights
    with described_by(spec):
        views, notes = _views(preprocessing, size, spec)
        embed_dim = int(config["embed_dim"])
    return pretrained_of(
        Config(
            name=name,
            views=views,
            model=ModelConfig(image=image, text=texts, embed_dim=embed_dim),
            objective=ObjectiveConfig(loss="siglip" if sigmoid else "clip"),
        ),
        found.weights,
        Origin(spec, "open_clip", Digests([*read_, *files])),
        theirs=found.theirs,
        unused=found.unused,
        notes=notes,
    )


def check(config: Mapping[str, Any], spec: str) -> None:
    """Raise CheckpointError if slip does not have what a table of open_clip describes."""
    if not all(isinstance(config.get(key), Mapping) for key in ("vision_cfg", "text_cfg")):
        raise CheckpointError(
            "The configuration does not describe a model of open_clip",
            got=spec,
            cause="It lacks vision_cfg or text_cfg",
            fix="Copy or download the file anew",
        )
    if "multimodal_cfg" in config:
        raise unsupported(spec, "of the kind CoCa, with a decoder that writes captions")
    if name := config["text_cfg"].get("hf_model_name"):
        raise unsupported(spec, f"with {name} of transformers as its text tower")
    towers(config, {}, Mapped(), spec)


def _is_timm(config: Mapping[str, Any]) -> bool:
    return bool((config.get("vision_cfg") or {}).get("timm_model_name"))


def _views(stated: Mapping[str, Any], size: int, spec: str) -> tuple[ViewsConfig, list[str]]:
    """Return how pictures are prepared, and sentences on what slip does otherwise."""
    stated = {**PREPROCESSING, **{key: value for key, value in stated.items() if value is not None}}
    mode = str(stated["resize_mode"])
    views, notes = views_of(
        size, stated["mean"], stated["std"], str(stated["interpolation"]), spec, squash=mode == "squash"
    )
    if mode not in ("squash", "shortest"):
        notes.append(f"pictures were fitted for {spec} by {mode!r}; here they are cropped at their middle")
    return views, notes
