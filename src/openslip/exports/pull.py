"""Fetch a model of the hub into a folder that loads without a network."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from openslip.errors import CheckpointError, ConfigError
from openslip.exports import beside, keep
from openslip.files import check_free, expand, sync
from openslip.interop import hub, ours, read
from openslip.interop.filling import of_model
from openslip.models.weights import Pretrained
from openslip.training.fixed import millions
from openslip.training.saving import metadata

CARD = "README.md"


@dataclass(frozen=True)
class Pulled:
    """What was fetched: the folder, the files with their sizes in bytes, and what the model is, in words."""

    place: Path
    files: tuple[tuple[str, int], ...]
    what: str
    notes: tuple[str, ...] = ()


def pull(spec: str, out: str | Path | None = None) -> Pulled:
    """Fetch what `openslip.load` needs of a hub repository, and the card. Nothing that is fetched is executed.

    spec: `hf:owner/name`, perhaps with @ and a revision. out: a folder that does not exist yet. `openslip.load` reads
    the folder without a network. None leaves the files in the hub's own cache, where `hf:owner/name` finds them.

    Safetensors are preferred. Weights that torch saved might be executed by another program. If the repository has no
    others, the folder gets the same weights as a safetensors file of ours.

    Raises ConfigError for another spec, or if something is at `out`; CheckpointError as `openslip.load` does.
    """
    kind, _, name = spec.partition(":")
    if kind != "hf" or not hub.is_name(name):
        raise ConfigError(
            "This does not name a repository of the hub",
            got=spec,
            fix=f"Write hf:{spec}" if hub.is_name(spec) else "Write hf:owner/name, as on the model's page",
        )
    if expand(name).is_dir():
        raise ConfigError(
            "There is a folder of this name, so nothing was fetched",
            got=name,
            fix="Give the folder to `openslip.load`. To fetch the repository, work from another folder",
        )
    place = None if out is None else expand(out)
    if place is not None:
        check_free(place, "The model")
    with hub.watched() as fetched:
        found = read(spec)
        hub.fetch(name, [CARD], optional=True)
    what = _described(found)
    if place is None:
        folder = next(path for path, (owner, _) in fetched.items() if owner == name.partition("@")[0]).parent
        return Pulled(folder, _sizes(fetched), what, found.notes)
    place.parent.mkdir(parents=True, exist_ok=True)
    with beside(place) as unfinished:
        unfinished.mkdir()
        notes = _copy(fetched, name.partition("@")[0], found, unfinished)
        _check_same(unfinished, found, spec)
        keep(unfinished)
        unfinished.rename(place)
    sync(place.parent)
    files = tuple((path.name, path.stat().st_size) for path in sorted(place.iterdir()))
    return Pulled(place, files, what, (*found.notes, *notes))


def _copy(
    fetched: dict[Path, tuple[str, str]], repository: str, found: Pretrained, folder: Path
) -> tuple[str, ...]:
    """Copy what was fetched into a folder: the repository's files, and a tokenizer that it names in another repository.

    Returns what users should know.
    """
    weights = [name for _, name in fetched.values() if name.endswith((".bin", ".pt", ".bin.index.json"))]
    if weights:
        metadata.write_model(folder / ours.WEIGHTS, found.weights, found.config)
        for path, (owner, name) in fetched.items():
            if (owner, name) == (repository, CARD):
                shutil.copyfile(path, folder / CARD)
        return (
            f"the repository has no safetensors: its {weights[0]} was read, and {ours.WEIGHTS} has the same weights",
        )
    in_order = sorted(fetched.items(), key=lambda item: item[1][0] != repository)
    for path, (_, name) in in_order:
        place = folder / Path(name).name
        if not place.exists():  # the repository's own come first
            shutil.copyfile(path, place)
    return ()


def _check_same(folder: Path, found: Pretrained, spec: str) -> None:
    """Raise CheckpointError if the folder alone does not give the model that was fetched."""
    again = read(folder)
    same = again.weights.keys() == found.weights.keys() and all(
        value.equal(found.weights[name]) for name, value in again.weights.items()
    )
    if not same or again.config.model != found.config.model:
        raise CheckpointError(
            "The files of the repository do not give the same model without the hub",
            got=spec,
            fix="Leave out --out: the hub's cache has all of the files. And please report the model",
        )


def _described(found: Pretrained) -> str:
    """Return in words what a model is."""
    from openslip.report.description import image_tower, text_tower

    weights = of_model(found.weights)
    count = millions(sum(value.numel() for value in weights.values() if value.is_floating_point()))
    words = f"{found.origin.format}: image tower {image_tower(found.config)}"
    if found.has_text:
        words += f"; text tower of {text_tower(found.config)}"
    return f"{words}; {count} parameters"


def _sizes(fetched: dict[Path, tuple[str, str]]) -> tuple[tuple[str, int], ...]:
    return tuple((name, path.stat().st_size) for path, (_, name) in fetched.items())
