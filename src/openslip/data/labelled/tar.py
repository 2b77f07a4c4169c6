"""Labelled images in tar shards (WebDataset). The class is in a `.cls`, in the `.json`, or in a folder's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.data.contents import losses
from openslip.data.labelled.classes import number
from openslip.data.labelled.data_files import Asked, DataFiles
from openslip.data.labelled.label_column import choose_label
from openslip.data.labelled.labelled_set import Image, LabelledSet, assemble
from openslip.data.labelled.labels import Found, by_rows, of_cells, parted, settle, used_values
from openslip.data.labelled.names import names_beside
from openslip.data.labelled.prompts import MOST_BYTES, as_ours, check_templates, template_lines
from openslip.data.labelled.splits import split_called
from openslip.data.sources.options import Misfit
from openslip.data.sources.webdataset import TarShards
from openslip.errors import ConfigError, DataError
from openslip.files import parse_json, read_whole

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = ("cls", "class", "label", "cls.txt", "class.txt", "label.txt")
"""Endings of members that hold a class, best first."""
TEMPLATES = "zeroshot_classification_templates.txt"
LOOKED_AT = 100
"""Samples whose `.json` is read to choose the key of the class."""


def open_tar(data_files: DataFiles, name: str, where: str, asked: Asked) -> LabelledSet:
    """Open tar shards whose samples have a class: in a member `.cls`, under a key of the `.json`, or as folder.

    Shards named after splits hold these splits; else folders within the shards may name them. Two files beside shards,
    as CLIP_benchmark leaves them, are used: `classnames.txt` names numbered classes, and
    `zeroshot_classification_templates.txt` holds prompts.

    Raises DataError for shards that cannot be read, and for samples without a class, such as captioned images.
    """
    samples = {split: _Samples(*_open(files, name, asked)) for split, files in data_files.splits.items()}
    cells, told, notes = _labels(samples, name, asked.label)
    found = {
        split: Found(TarImages(some.shards), of_cells(cells[split], "the class"), some.keys)
        for split, some in samples.items()
    }
    if "all" in found and told:
        found, more = by_rows(found["all"], of_cells(told, "folder"), "folder")
        notes += more
    found = parted(found, asked.label or "the class")
    naming, templates = None, ()
    if data_files.root is not None:
        folder = Path(data_files.files[0]).absolute().parent
        naming = names_beside(folder, used_values(found), root=data_files.root)
        templates, more = _templates_beside(folder, data_files.root)
        notes += more
    elif data_files.kept is not None:  # copies of a server's files beside shards
        naming = names_beside(data_files.kept, used_values(found))
        templates, more = _templates_beside(data_files.kept, data_files.kept)
        notes += more
    if naming and naming.source:
        notes.append(f"Class names from {naming.source}")
    parts, left_out = settle(name, found, naming)
    lost = [sentence for some in samples.values() for sentence in losses(some.shards)]
    made = assemble(name, where, parts, naming, notes=[*data_files.notes, *notes, *left_out, *lost])
    return replace(made, templates=templates)


def _templates_beside(folder: Path, root: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return the prompts in a file in `folder`, or in the folders above up to `root`, and notes on them."""
    for parent in (folder, *folder.parents):
        if (file := parent / TEMPLATES).is_file():
            try:
                lines = template_lines(read_whole(file, MOST_BYTES))
                templates = tuple(dict.fromkeys(map(as_ours, lines)))
                check_templates(templates)
            except (OSError, ValueError, ConfigError) as error:
                return (), [f"{TEMPLATES} is not used: {error}"]
            several = "s" * (len(templates) != 1)
            return templates, [f"{len(templates)} prompt{several} from {TEMPLATES}"]
        if parent == root:
            break
    return (), []


class TarImages(Sequence[Image]):
    """The pictures in tar shards, read when indexed. Picklable."""

    def __init__(self, shards: TarShards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self.shards[index].image

    def key(self, index: int) -> str:
        return self.shards.beside_image(index)[0]

    def own_columns(self, indices: Sequence[int]) -> pa.Table | None:
        return self.shards.columns(indices)


class _Samples:
    """The members beside the pictures of shards: N keys, and N texts, None for a sample without a text.

    labels: whether the texts come from members that hold classes, rather than captions. objects: the first `.json`.
    """

    def __init__(self, shards: TarShards, labels: bool) -> None:
        self.shards, self.labels = shards, labels
        self.keys: list[str] = []
        self.texts: list[str | None] = []
        self.objects: list[dict[str, Any]] = []
        for index in range(len(shards)):
            key, sidecar, text = shards.beside_image(index)
            self.keys.append(key)
            self.texts.append(None if text is None else _decoded(text, key))
            if index < LOOKED_AT and (found := _object(sidecar)):
                self.objects.append(_flat(found))

    @property
    def folders(self) -> list[list[str]]:
        """The folders of each sample, outermost first."""
        return [[part for part in key.split("/")[:-1] if part not in ("", ".")] for key in self.keys]

    def values(self, key: str) -> Iterator[Any]:
        """Yield the value of each `.json` under a key. Dots in the key separate keys of inner objects."""
        for index in range(len(self.shards)):
            yield _flat(_object(self.shards.beside_image(index)[1]) or {}).get(key)


def _open(files: Sequence[str], name: str, asked: Asked) -> tuple[TarShards, bool]:
    """Open shards. Return them, and whether their texts come from members that hold classes."""
    wanted = _ending(asked.label) or ",".join(LABELS)
    try:
        return TarShards(files, name=name, image_column=asked.image, caption_column=wanted), True
    except Misfit as misfit:
        if misfit.option != "caption_column":
            raise
        return TarShards(files, name=name, image_column=asked.image), False


def _labels(
    samples: dict[str, _Samples], name: str, wanted: str
) -> tuple[dict[str, Iterable[Any]], list[str | None], list[str]]:
    """Return the class of each sample by split, the folders that name splits, and notes on the origin of the labels."""
    if any(one.labels and any(text is not None for text in one.texts) for one in samples.values()):
        return (
            {split: one.texts if one.labels else [None] * len(one.keys) for split, one in samples.items()},
            [],
            [],
        )
    asked = _ending(wanted)
    objects = [found for one in samples.values() for found in one.objects]
    keys = list(dict.fromkeys(key for found in objects for key in found))
    refusal = ""
    if keys:
        try:
            chosen = choose_label(
                f"{name} (.json)",
                keys,
                wanted=asked,
                is_text=lambda key: any(_is_text(found.get(key)) for found in objects),
                what="key",
            )
            note = chosen.note or f"Labels of {name}: from {chosen.column!r} of the .json"
            return {split: one.values(chosen.column) for split, one in samples.items()}, [], [note]
        except DataError as error:
            if asked:
                raise
            refusal = f". {error.what}: {error.got}"
    if asked:
        raise Misfit(
            "label_column",
            f"The samples of {name} have no labels {wanted!r}",
            cause="This is neither the ending of a member beside the pictures nor a key of their .json",
        )
    folders, told = _by_folder(samples)
    texts = [text for one in samples.values() for text in one.texts]
    captioned = 2 * sum(text is not None for text in texts) > len(texts)
    classes = {folder for some in folders.values() for folder in some if folder is not None}
    if len(classes) < 2 or (captioned and all(number(folder) is not None for folder in classes)):
        raise DataError(
            f"The samples of {name} have no class",
            got=", ".join([one.keys[0] for one in samples.values() if one.keys][:3]),
            cause="The class belongs in a .cls beside the picture, under a key of its .json, or in its folder's name"
            + refusal,
            fix="Name the member or key that holds the class with --data.label-column"
            + ("; measure captions with retrieval:" if captioned or refusal else ""),
        )
    return folders, told, [f"Labels of {name}: from the folders in its shards"]


def _by_folder(samples: dict[str, _Samples]) -> tuple[dict[str, Iterable[Any]], list[str | None]]:
    """Return the folder of each sample that is its class, and the folder above that names its split, if all have one.

    Folders that all samples share count as neither.
    """
    told: list[str | None] = []
    paths = _unshared({split: one.folders for split, one in samples.items()})
    every = [path for some in paths.values() for path in some]
    if every and all(path and split_called(path[0]) for path in every):
        told = [path[0] for path in every]
        paths = _unshared({split: [path[1:] for path in some] for split, some in paths.items()})
    return {split: [path[0] if path else None for path in some] for split, some in paths.items()}, told


def _unshared(paths: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """Return paths without the leading folders that they share."""
    every = (path for some in paths.values() for path in some)
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*every)))
    return {split: [path[shared:] for path in some] for split, some in paths.items()}


def _ending(column: str) -> str:
    return column.strip().removeprefix(".")


def _flat(found: dict[str, Any], before: str = "", deep: int = 3) -> dict[str, Any]:
    """Return an object with inner objects flattened. Keys are joined by dots, as in `attributes.colour`."""
    flat: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict) and value and deep:
            flat |= _flat(value, f"{before}{key}.", deep - 1)
        else:
            flat[f"{before}{key}"] = value
    return flat


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and number(value.strip()) is None


def _decoded(text: bytes, key: str) -> str:
    try:
        return text.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError("The label is no text", got=f"{text[:40]!r} of {key}") from None


def _object(sidecar: bytes | None) -> dict[str, Any] | None:
    if sidecar is None:
        return None
    try:
        found = parse_json(sidecar)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
