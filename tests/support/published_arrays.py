"""Small made-up data sets whose pictures are bytes of a few files, byte for byte as their archives unpack.

Each maker writes a set below `root`, as those of `published_sets` do.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from scipy.io import savemat

from published_sets import write


def python2(value: object) -> bytes:
    """Return what Python 2's pickle writes of a value with protocol 2, without the ends."""
    match value:
        case str() | bytes():
            data = value.encode() if isinstance(value, str) else value
            return (
                b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))
            ) + data
        case int():
            return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(python2, value)) + b"e"
        case dict():
            return b"}(" + b"".join(python2(key) + python2(one) for key, one in value.items()) + b"u"
        case np.ndarray():
            turned = not value.flags.c_contiguous
            shape = b"(" + b"".join(map(python2, value.shape)) + b"t"
            kind = b"cnumpy\ndtype\n" + python2("u1") + b"K\x00K\x01\x87R(K\x03" + python2("|")
            kind += b"NNN" + python2(-1) + python2(-1) + b"K\x00tb"
            new = (
                b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2("b") + b"\x87R"
            )
            data = python2(value.tobytes("A"))
            return new + b"(K\x01" + shape + kind + (b"\x88" if turned else b"\x89") + data + b"tb"
    raise TypeError(type(value))


def batch(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x80\x02" + python2(content) + b".")


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = pixels(4, 3072, seed=number)
        labels = [(number + i) % 10 for i in range(4)]
        names = [f"{CIFAR10[label]}_s_{i:06d}.png" for i, label in enumerate(labels)]
        data = np.asfortranarray(data) if number % 2 else data  # as some of the batches are
        content = {"batch_label": f"batch {number}", "labels": labels, "data": data, "filenames": names}
        batch(folder / name, content)
    batch(folder / "batches.meta", {"num_cases_per_batch": 10000, "label_names": CIFAR10, "num_vis": 3072})
    write(folder / "readme.html", "<meta>")
    return folder


def cifar100(root: Path) -> Path:
    folder, names = (
        root / "cifar-100-python",
        [f"class{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(100)],
    )
    for number, name in enumerate(("train", "test")):
        fine = [(7 * number + 11 * i) % 100 for i in range(6)]
        content = {
            "fine_labels": fine,
            "coarse_labels": [one // 5 for one in fine],
            "data": pixels(6, 3072, seed=number),
        }
        batch(folder / name, content | {"batch_label": name, "filenames": ["a.png"] * 6})
    batch(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["aquatic_mammals"] * 20})
    return folder


def cifar10_binary(root: Path) -> Path:
    """The same pictures as those of `cifar10`, in the binary version."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = np.array([(number + i) % 10 for i in range(4)], np.uint8)
        (folder / f"{name}.bin").write_bytes(
            np.hstack([labels[:, None], pixels(4, 3072, seed=number)]).tobytes()
        )
    write(folder / "batches.meta.txt", *CIFAR10, "")
    return folder


def cifar100_binary(root: Path) -> Path:
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for number, name in enumerate(("train", "test")):
        fine = np.array([(7 * number + 11 * i) % 100 for i in range(6)], np.uint8)
        rows = [fine[:, None] // 5, fine[:, None], pixels(6, 3072, seed=number)]
        (folder / f"{name}.bin").write_bytes(np.hstack(rows).tobytes())
    write(
        folder / "fine_label_names.txt", *(f"class{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(100))
    )
    write(folder / "coarse_label_names.txt", *(f"coarse{n}" for n in range(20)))
    return folder


MNIST_LABELS = {"train": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5], "t10k": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]}
FASHION_LABELS = {"train": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 1], "t10k": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}


def mnist(
    root: Path, labels: dict[str, list[int]] = MNIST_LABELS, name: str = "MNIST", zipped: bool = False
) -> Path:
    folder = root / f"{name}/raw"
    folder.mkdir(parents=True)
    for split, some in labels.items():
        images = pixels(len(some), 28, 28, seed=len(some))
        for file, array in (("images-idx3", images), ("labels-idx1", np.array(some, np.uint8))):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            data, path = head + array.tobytes(), folder / f"{split}-{file}-ubyte"
            if zipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    return folder


STL10 = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def stl10(root: Path) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for number, (split, count) in enumerate((("train", 12), ("test", 10))):
        pixels(count, 3, 96, 96, seed=number).tofile(folder / f"{split}_X.bin")
        (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(folder / f"{split}_y.bin")
    pixels(3, 3, 96, 96).tofile(folder / "unlabeled_X.bin")
    write(folder / "class_names.txt", *STL10)
    write(folder / "fold_indices.txt", "0 1 2")
    return folder


def fer2013(root: Path, icml: bool = False) -> Path:
    folder, rows = root / "fer2013", []
    images = pixels(9, 48 * 48)
    for i, usage in enumerate(("Training",) * 5 + ("PublicTest",) * 2 + ("PrivateTest",) * 2):
        text = " ".join(map(str, images[i]))
        rows.append(f'{i % 7}, {usage}, "{text}"' if icml else f"{i % 7},{text},{usage}")
    head = "emotion, Usage, pixels" if icml else "emotion,pixels,Usage"
    write(folder / ("icml_face_data.csv" if icml else "fer2013.csv"), head, *rows)
    return folder


def svhn(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((("train", 12), ("test", 10))):
        digits = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        pictures = pixels(32, 32, 3, count, seed=number)
        savemat(root / f"{split}_32x32.mat", {"X": pictures, "y": digits}, do_compression=True)
    return root


def pcam(root: Path) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """Return the folder of PatchCamelyon, and what is in each of its files, which `h5py` has to write."""
    folder = root / "pcam"
    folder.mkdir(parents=True)
    files = {}
    for number, (split, count) in enumerate((("train", 6), ("valid", 4), ("test", 5))):
        name = f"camelyonpatch_level_2_split_{split}"
        files[f"{name}_x.h5"] = {"x": pixels(count, 96, 96, 3, seed=number)}
        files[f"{name}_y.h5"] = {"y": (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)}
    return folder, files
