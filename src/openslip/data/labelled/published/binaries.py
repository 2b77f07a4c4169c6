"""Pictures as the bytes of a few files: CIFAR's batches, MNIST's idx files, STL-10, FER-2013's table of pixels."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Sequence
from math import isqrt, prod
from pathlib import Path

import numpy as np

from openslip.data.containers.pickles import read_arrays
from openslip.data.labelled.array_images import ArrayImages, FileRows, MemoryRows
from openslip.data.labelled.classes import Value
from openslip.data.labelled.labelled_set import Image, Part
from openslip.data.labelled.published.archive import Archive, Contents, lines, numbered, part_of, there
from openslip.data.limits import TABLE_BYTES
from openslip.errors import DataError
from openslip.files import open_regular

DIGITS = numbered(map(str, range(10)))
FASHION = numbered(
    (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
)
_FIRST_LABELS = {
    (5, 0, 4, 1, 9, 2, 1, 3, 1, 4): DIGITS,
    (7, 2, 1, 0, 4, 1, 4, 9, 5, 9): DIGITS,
    (9, 0, 0, 3, 0, 2, 7, 2, 5, 5): FASHION,
    (9, 2, 1, 1, 6, 1, 4, 6, 5, 7): FASHION,
}
"""The first labels of MNIST and Fashion-MNIST, train and test. They tell the sets apart, whose files look alike."""
EMOTIONS = numbered(("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"))
"""FER-2013's classes, in the order of its labels."""
_CIFAR = (3, 32, 32), (1, 2, 0)
"""The layout of a picture in a row of CIFAR: channel by channel, and line by line in each channel."""

_FINE = "The classes are the 100 fine ones, not the 20 coarse ones."


def _batches(files: list[Path], split: str, notes: list[str]) -> list[Path]:
    """Return the files of a split that are there, and add a sentence to `notes` about each missing file."""
    found = [file for file in files if file.is_file()]
    notes += [
        f"{file.name} is missing: its pictures of {split} are left out."
        for file in files
        if file not in found
    ]
    return found


def _cifar_batches(root: Path, splits: dict[str, list[str]], meta: str, names: str, labels: str) -> Contents:
    """Read the pickled batches of CIFAR: a dict of `data`, (N, 3072) uint8, and labels. Notes name missing batches."""
    called = _entry(read_arrays(root / meta), names, root / meta)
    parts: dict[str, Part] = {}
    notes: list[str] = []
    for split, files in splits.items():
        rows, values = [], []
        for file in _batches([root / file for file in files], split, notes):
            batch = read_arrays(file)
            data, some = (_entry(batch, key, file) for key in ("data", labels))
            if not (
                isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape == (len(some), 3072)
            ):
                raise DataError(
                    f"{file} is no batch of CIFAR: its data are not (N, 3072) uint8 for its N labels"
                )
            rows.append(MemoryRows(data))
            values += [int(value) for value in some]
        if rows:
            parts[split] = _part(ArrayImages(rows, *_CIFAR, f"{root.name} {split}"), values)
    return Contents(parts, numbered(map(str, called)), notes)


def _cifar10(root: Path) -> Contents:
    train = [f"data_batch_{number}" for number in range(1, 6)]
    return _cifar_batches(
        root, {"train": train, "test": ["test_batch"]}, "batches.meta", "label_names", "labels"
    )


def _cifar100(root: Path) -> Contents:
    contents = _cifar_batches(
        root, {"train": ["train"], "test": ["test"]}, "meta", "fine_label_names", "fine_labels"
    )
    contents.notes.append(_FINE)
    return contents


def _cifar10_binary(root: Path) -> Contents:
    train = [root / f"data_batch_{number}.bin" for number in range(1, 6)]
    return _cifar_binary(root, {"train": train, "test": [root / "test_batch.bin"]}, "batches.meta.txt", 1)


def _cifar100_binary(root: Path) -> Contents:
    files = {split: [root / f"{split}.bin"] for split in ("train", "test")}
    contents = _cifar_binary(root, files, "fine_label_names.txt", 2)
    contents.notes.append(_FINE)
    return contents


def _cifar_binary(root: Path, splits: dict[str, list[Path]], names: str, labels: int) -> Contents:
    """Read the binary batches of CIFAR. Before each picture come `labels` labels of one byte; the last one counts."""
    parts: dict[str, Part] = {}
    notes: list[str] = []
    for split, files in splits.items():
        rows = [FileRows(str(file), 3072, before=labels) for file in _batches(files, split, notes)]
        if rows:
            values = np.concatenate([part.whole[:, labels - 1] for part in rows]).tolist()
            parts[split] = _part(ArrayImages(rows, *_CIFAR, f"{root.name} {split}"), values)
    return Contents(parts, numbered(lines(root / names)), notes)


def _mnist(root: Path) -> Contents:
    """Read `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, …, also compressed, or named as at Kaggle."""
    parts, naming = {}, None
    for split, start in (("train", "train"), ("test", "t10k")):
        (images, shape), (labels, _) = (
            _idx(there(root, _IDX.format(start, what, axes)), axes) for what, axes in _KINDS
        )
        values = labels.array[:, 0].tolist()
        naming = naming or _FIRST_LABELS.get(tuple(values[:10]))
        parts[split] = _part(ArrayImages([images], shape, (0, 1), f"{root.name} {split}"), values)
    return Contents(parts, naming)


_KINDS = (("images", 3), ("labels", 1))
_IDX = "{0}-{1}-idx{2}-ubyte | {0}-{1}.idx{2}-ubyte | {0}-{1}-idx{2}-ubyte.gz | {0}-{1}.idx{2}-ubyte.gz"


def _idx(path: Path, axes: int) -> tuple[FileRows | MemoryRows, tuple[int, ...]]:
    """Return the rows of an idx file of bytes, and the shape of a row.

    The file begins with two zeros, 8, the number of axes, and the lengths of the axes.
    """
    compressed = path.suffix == ".gz"
    try:
        with open_regular(path) as file, gzip.GzipFile(fileobj=file) if compressed else file as data:
            head = data.read(4)
            shape = tuple(np.frombuffer(data.read(4 * axes), ">u4").tolist())
            if head != bytes((0, 0, 8, axes)) or len(shape) != axes or prod(shape) > TABLE_BYTES:
                raise DataError(f"The file is not an idx file of bytes with {axes} axes", got=str(path))
            start, size = 4 + 4 * axes, prod(shape[1:])
            rows = data.read(prod(shape) + 1) if compressed else b""
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError("An idx file cannot be read", got=str(path), cause=str(error)) from None
    length = len(rows) if compressed else os.path.getsize(path) - start
    if length != prod(shape) or not length:
        raise DataError(
            "The length of an idx file does not match its header",
            got=f"{path}: {length:,} bytes, not {prod(shape):,}",
            fix="If it was cut off, fetch it again.",
        )
    if compressed:
        return MemoryRows(np.frombuffer(rows, np.uint8).reshape(shape[0], size)), shape[1:]
    return FileRows(str(path), size, start), shape[1:]


def _stl10(root: Path) -> Contents:
    """Read `train_X.bin`, column by column within each channel, and `train_y.bin`, labels from 1 on."""
    parts, notes = {}, []
    for split in ("train", "test"):
        rows = FileRows(str(root / f"{split}_X.bin"), 3 * 96 * 96)
        labels = FileRows(str(root / f"{split}_y.bin"), 1).array[:, 0].tolist()
        parts[split] = _part(ArrayImages([rows], (3, 96, 96), (2, 1, 0), f"{root.name} {split}"), labels)
    if (path := root / "unlabeled_X.bin").is_file():
        count = len(FileRows(str(path), 3 * 96 * 96))
        notes.append(f"{count:,} pictures of unlabeled_X.bin have no label and are left out.")
    return Contents(parts, numbered(lines(root / "class_names.txt"), 1), notes)


def _fer2013(root: Path) -> Contents:
    """Read a table of `emotion`, `Usage` and `pixels`, the 48 × 48 numbers of a picture with spaces between them.

    The set was made for a competition: `PublicTest` is its validation split, `PrivateTest` its test split.
    """
    path = root if root.is_file() else there(root, "fer2013.csv | icml_face_data.csv")
    splits: dict[str, tuple[list[int], list[Value]]] = {}
    start = 0
    try:
        with open_regular(path) as file:
            head = [name.strip() for name in next(file).decode().split(",")]
            label, usage, pixels = (head.index(name) for name in ("emotion", "Usage", "pixels"))
            start = file.tell()
            for line in file:
                if cells := line.strip() and next(csv.reader([line.decode()])):
                    offsets, values = splits.setdefault(_USAGE[cells[usage].strip()], ([], []))
                    offsets.append(start)
                    values.append(int(cells[label]))
                start += len(line)
    except (OSError, ValueError, LookupError, StopIteration) as error:
        raise DataError(
            "The table is not FER-2013's, with the columns emotion, Usage and pixels",
            got=f"{path}, byte {start:,}",
            cause=f"{type(error).__name__}: {error}",
        ) from None
    parts = {
        split: _part(PixelLines(str(path), np.array(splits[split][0], np.int64), pixels), splits[split][1])
        for split in ("train", "val", "test")
        if split in splits
    }
    return Contents(parts, EMOTIONS)


_USAGE = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}


class PixelLines(Sequence[Image]):
    """Square grey pictures, as numbers in one column of a table. `offsets` are the starts of its lines. Picklable."""

    def __init__(self, path: str, offsets: np.ndarray, column: int) -> None:
        self.path, self.offsets, self.column = path, offsets, column

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        try:
            with open_regular(self.path) as file:
                file.seek(int(self.offsets[index]))
                cells = next(csv.reader([file.readline().decode()]))
            numbers = np.array(cells[self.column].split(), dtype=np.uint8)
            side = isqrt(len(numbers))
            grey = numbers.reshape(side, side, 1)
        except (OSError, ValueError, LookupError, StopIteration, OverflowError) as error:
            raise DataError("A row holds no picture", got=self.key(index), cause=str(error)) from None
        return np.repeat(grey, 3, axis=2)

    def key(self, index: int) -> str:
        """Return the name of a picture: its file, and the start of its line."""
        return f"{os.path.basename(self.path)}, byte {int(self.offsets[index])}"


def _part(images: Sequence[Image], labels: Sequence[Value]) -> Part:
    """Return the pictures of a split. Raises DataError if the numbers of pictures and labels differ."""
    if len(images) != len(labels):
        raise DataError(
            "There are not as many labels as pictures",
            got=f"{len(labels):,} labels for {len(images):,} pictures of {getattr(images, 'name', 'the table')}",
            fix="If a file was cut off, unpack or fetch it again.",
        )
    return part_of(images, labels)


def _entry(batch: dict[str, object], key: str, path: Path) -> list[Value]:
    """Return the value of a batch under a key: a list, or an array."""
    found = batch.get(key)
    if not isinstance(found, list | np.ndarray):
        raise DataError(f"{path} is no file of CIFAR: it has no {key!r}", got=", ".join(map(str, batch)))
    return found  # type: ignore[return-value]


def _idx_marks(start: str) -> tuple[str, ...]:
    return tuple(_IDX.format(start, what, number) for what, number in _KINDS)


ARCHIVES = (
    Archive("CIFAR-10", ("batches.meta", "test_batch", "data_batch_1"), _cifar10),
    Archive("CIFAR-100", ("meta", "train", "test"), _cifar100),
    Archive("CIFAR-10, binary", ("batches.meta.txt", "test_batch.bin", "data_batch_1.bin"), _cifar10_binary),
    Archive("CIFAR-100, binary", ("fine_label_names.txt", "train.bin", "test.bin"), _cifar100_binary),
    Archive("MNIST", (*_idx_marks("train"), *_idx_marks("t10k")), _mnist),
    Archive("STL-10", ("class_names.txt", "train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"), _stl10),
    Archive(
        "FER-2013", ("fer2013.csv | icml_face_data.csv",), _fer2013, ("fer2013.csv", "icml_face_data.csv")
    ),
)
