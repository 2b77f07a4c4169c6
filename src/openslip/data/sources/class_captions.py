"""Labelled images as a captioned source, `labels:photos/`: captions are templates filled with the class's name.

A classifier then trains on the prompts that zero-shot classification asks CLIP with (FLYP; Goyal et al., "Finetune
like you pretrain", 2023).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from openslip.addresses import is_url, shown
from openslip.data.containers.row_groups import CACHE_BYTES
from openslip.data.contents import Contents
from openslip.data.labelled import Image, Labelled, LabelledSet, open_named, prompts
from openslip.data.labelled.folder import Files
from openslip.data.labelled.labelled_set import Subset, columns_of, file_of, key_of
from openslip.data.labelled.names import named_by, read_names
from openslip.data.labelled.parquet import ParquetImages
from openslip.data.record import ImageFile, Part, Record, Source
from openslip.data.sources.mixture import LABELS
from openslip.data.sources.parquet import how_to_read
from openslip.data.storage.shared_array import SharedArray
from openslip.data.subset import ends_of_blocks
from openslip.errors import DataError
from openslip.files import expand

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS, COLUMNS = ("templates", "class_names"), ("label_column", "image_column", "image_root")
"""Options that such a source heeds; COLUMNS only where the images are not in folders of classes."""
SORTED = 0.1
"""Rows count as sorted by class when fewer than this share differ in class from the row before."""


def open_classes(spec: str, columns: Mapping[str, str]) -> ClassCaptions:
    """Open labelled images as a captioned source: `labels:` and a name that `openslip.data.labelled.open_named` takes.

    Of several splits the training split is taken. columns: `image_column`, `label_column` and `image_root` as
    `open_named` takes them; `templates`: the templates of captions, a file or the name of a set of
    `openslip.data.labelled.prompts`, by default the prompts of zero-shot classification for these classes;
    `class_names`: a file with names of the classes.

    Raises DataError where no image has a class, or the classes have no names; ConfigError for unknown templates.
    """
    place = spec.removeprefix(LABELS).strip()
    if not place:
        raise DataError(
            "The spec names no labelled images",
            got=spec,
            fix=f"Write {LABELS}FOLDER, a folder with one folder per class",
        )
    asked = {name: columns.get(name, "") for name in ("image_column", "label_column", "image_root")}
    labelled = open_named(place, **asked)
    if file := columns.get("class_names", ""):
        labelled = named_by(read_names(expand(file)), labelled)
    elif not labelled.named:
        raise DataError(
            f"The classes of {labelled.name} have no names",
            got=", ".join(labelled.class_names[:5]),
            cause="Captions are made from class names",
            fix='Write the names to a JSON file, as ["cat", "dog", …] in the order of the labels or by label as '
            '{"1": "cat", …}. Pass the file with --data.class-names FILE, or save it as classes.json beside the data',
        )
    usual = prompts.for_set(labelled)
    names = labelled.class_names if file else usual.class_names
    templates, called = (
        usual.templates,
        f"the prompts of zero-shot classification for these classes ({usual.name})",
    )
    if given := columns.get("templates", ""):
        templates = prompts.one_set(prompts.read_templates(given), labelled.class_names)
        called = given
    return ClassCaptions(labelled, names, templates, name=shown(spec), called=called)


class ClassCaptions(Source):
    """The training images of a labelled set, each with one caption per template. Picklable.

    class_names: C names; classes with equal names are one class, as their captions are equal. templates: texts with
    `{}` for the name. called: what `note` calls the templates.
    """

    captions_name_classes = True

    def __init__(
        self,
        labelled: LabelledSet,
        class_names: Sequence[str],
        templates: Sequence[str],
        *,
        name: str = "",
        called: str = "",
    ) -> None:
        part = _to_train_on(labelled)
        self.name, self._images = name or LABELS + labelled.name, part.images
        self.class_names = tuple(dict.fromkeys(class_names))
        numbers = {one: number for number, one in enumerate(self.class_names)}
        merged = np.array([numbers[one] for one in class_names])
        self._labels = SharedArray(merged[part.labels])
        self._captions = [tuple(prompts.fill(one, name) for one in templates) for name in self.class_names]
        self.contents = Contents("images", sum(map(len, labelled.splits.values())))
        for split, other in labelled.splits.items():
            if other is not part:
                self.contents.leave_out(f"the image is of the {split} split", split, len(other), lost=False)
        self._part, remark, columns = _part_of(part.images, merged[part.labels])
        self.options = (*OPTIONS, *COLUMNS) if columns else OPTIONS
        self.block, self.as_they_lie = self._part.block, self._part.as_they_lie
        example = self._captions[0][0]
        said = [
            labelled.describe(),
            *labelled.notes,
            _twice(class_names),
            f"Captions: {len(templates):,} template{'s' * (len(templates) > 1)}, {called}; such as {example!r}",
            remark,
        ]
        if part.split in ("val", "test"):
            said.append(f"The images are the {part.split} split of {labelled.name}, which has no other")
        self.note = "\n".join(filter(None, said))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when its image cannot be read, IndexError beyond the end."""
        index = range(len(self))[index]
        image, captions = self._images[index], self._captions[self.label(index)]
        return Record(image, captions, key_of(self._images, index), self.name)

    def file(self, index: int) -> ImageFile | None:
        index = range(len(self))[index]
        if (found := file_of(self._images, index)) is None:
            return None
        return replace(found, captions=self._captions[self.label(index)], key=key_of(self._images, index))

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the other columns in the table of the labelled images, and the class as the table has it."""
        return columns_of(self._images, indices)

    @property
    def columns_note(self) -> str:  # type: ignore[override]
        return getattr(self._images, "columns_note", "")

    def label(self, index: int) -> int:
        return int(self._labels.array[index])

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self._part,)


def names_classes(source: Source) -> np.ndarray:
    """Return which records of a source have captions that only name their class, (R,) bool."""
    lengths = [part.length for part in source.parts]  # each part is a stretch of one source
    firsts = itertools.accumulate(lengths[:-1], initial=0)
    return np.repeat([source.origin(first)[0].captions_name_classes for first in firsts], lengths)


def as_labelled(source: Source, name: str) -> LabelledSet:
    """Return the records of a source whose captions name classes, as a labelled set `name` to measure on."""
    named = np.flatnonzero(names_classes(source))
    labels = np.array([source.label(i) for i in named.tolist()], np.int64)
    images = Subset(_Images(source), named)
    part = Labelled(name, "val", images, labels, source.class_names, location=source.name)
    return LabelledSet(name, source.name, source.class_names, True, {"test": part})


class _Images(Sequence[Image]):
    """The images of a source, read when indexed."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self.source[index].image


def _to_train_on(labelled: LabelledSet) -> Labelled:
    """Return the split to train on. Raises DataError where none of several splits is for training."""
    splits = labelled.splits
    if (part := splits.get("all") or splits.get("train")) is not None:
        return part
    if len(splits) > 1:
        raise DataError(
            f"{labelled.name} has no split to train on",
            got=", ".join(splits),
            fix="Name one of its folders or files 'train', or give the folder or files of one split",
        )
    return next(iter(splits.values()))


def _part_of(images: Sequence[Image], labels: np.ndarray) -> tuple[Part, str, bool]:
    """Return how records are best read (see `openslip.data.sources.parquet.how_to_read`), a remark about it, and
    whether there are columns."""
    indices = np.arange(len(images))
    while isinstance(images, Subset):
        images, indices = images.images, images.indices[indices]
    if not isinstance(images, ParquetImages):
        return Part(len(indices), len(indices)), "", not isinstance(images, Files)
    images.rows.kept.weight = CACHE_BYTES
    far = any(map(is_url, images.rows.files))
    block, as_they_lie, remark = how_to_read(images.rows, images.rows.name, far=far)
    if block > 1 and (np.diff(labels) != 0).mean() < SORTED:
        more = f"Rows are sorted by class and read {block:,} at a time, so a batch has few classes: shuffle the rows"
        remark = "\n".join(filter(None, [remark, more]))
    ends = ends_of_blocks(indices // block) if block > 1 and len(indices) < len(images) else None
    return Part(len(indices), len(indices), block, as_they_lie, ends), remark, True


def _twice(class_names: Sequence[str]) -> str:
    several = [name for name, count in Counter(class_names).items() if count > 1]
    some = ", ".join(several[:5]) + ", …" * (len(several) > 5)
    return (
        f"Classes with the same name have equal captions, and count as one class: {some}" if several else ""
    )
