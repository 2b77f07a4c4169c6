"""Small made-up data sets in the layouts of published ones, byte for byte as their archives unpack.

Each maker writes a set below `root`, where torchvision would, and returns the folder to name. Pictures of a class
have the colour of `oracle.coloured` of its number.
"""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
from oracle import put


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def jpg(path: Path, number: int) -> None:
    """Write a picture under the name of a JPEG file: what it is, its bytes tell."""
    put(path, number)


def food101(root: Path) -> Path:
    folder, classes = root / "food-101", ("baby_back_ribs", "apple_pie", "waffles")
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for number, name in enumerate(sorted(classes)):
        for i, split in enumerate(("train", "train", "test")):
            jpg(folder / f"images/{name}/{1000 + i}.jpg", number)
            lists[split].setdefault(name, []).append(f"{name}/{1000 + i}")
    for split, found in lists.items():
        write(folder / f"meta/{split}.txt", *(path for paths in found.values() for path in paths))
        write(folder / f"meta/{split}.json", json.dumps(found))
    write(folder / "meta/classes.txt", *sorted(classes))
    write(folder / "meta/labels.txt", *(name.replace("_", " ").capitalize() for name in sorted(classes)))
    write(folder / "README.txt", "The Food-101 data set")
    return folder


def dtd(root: Path) -> Path:
    folder = root / "dtd/dtd"
    for partition in range(1, 11):
        for i, split in enumerate(("train", "val", "test")):
            names = [
                f"{name}/{name}_{(i + partition) % 3:04d}.jpg" for name in ("banded", "blotchy", "woven")
            ]
            write(folder / f"labels/{split}{partition}.txt", *names)
    write(folder / "labels/labels_joint_anno.txt", "banded/banded_0000.jpg banded")
    for number, name in enumerate(("banded", "blotchy", "woven")):
        for i in range(3):
            jpg(folder / f"images/{name}/{name}_{i:04d}.jpg", number)
    (folder / "imdb").mkdir()
    (folder / "imdb/imdb.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    return folder


def pets(root: Path) -> Path:
    folder = root / "oxford-iiit-pet"
    breeds = (("Abyssinian", 1), ("american_bulldog", 2), ("Bengal", 1), ("Egyptian_Mau", 1))
    rows: dict[str, list[str]] = {"trainval": [], "test": []}
    for number, (breed, species) in enumerate(breeds):
        for i, split in enumerate(("trainval", "trainval", "test")):
            jpg(folder / f"images/{breed}_{i + 1}.jpg", number)
            put(folder / f"annotations/trimaps/{breed}_{i + 1}.png", 7)
            rows[split].append(f"{breed}_{i + 1} {number + 1} {species} 1")
    (folder / "images/Abyssinian_1.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    for split, some in rows.items():
        write(folder / f"annotations/{split}.txt", *some)
    write(
        folder / "annotations/list.txt", "#Image CLASS-ID SPECIES BREED ID", *rows["trainval"], *rows["test"]
    )
    return folder


def aircraft(root: Path) -> Path:
    folder, variants = root / "fgvc-aircraft-2013b", ("707-320", "A340-300", "F/A-18", "An-12")
    data = folder / "data"
    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, variant in enumerate(variants):
        for i, split in enumerate(rows):
            jpg(data / f"images/{10 * number + i:07d}.jpg", number)
            rows[split].append(f"{10 * number + i:07d} {variant}")
    rows["trainval"] = rows["train"] + rows["val"]
    for split, some in rows.items():
        write(data / f"images_variant_{split}.txt", *some)
        write(data / f"images_family_{split}.txt", *some)
        write(data / f"images_{split}.txt", *(row.split()[0] for row in some))
    for level in ("variants", "families", "manufacturers"):
        write(data / f"{level}.txt", *variants)
    write(folder / "README.md", "FGVC-Aircraft Benchmark")
    return folder


def cub(root: Path) -> Path:
    folder = root / "CUB_200_2011"
    classes = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    images, labels, split = [], [], []
    for number, name in enumerate(classes):
        for i in range(3):
            jpg(folder / f"images/{name}/{name[4:]}_{i:04d}_{i}.jpg", number)
            images.append(f"{3 * number + i + 1} {name}/{name[4:]}_{i:04d}_{i}.jpg")
            labels.append(f"{3 * number + i + 1} {number + 1}")
            split.append(f"{3 * number + i + 1} {int(i < 2)}")
    write(folder / "images.txt", *images)
    write(folder / "image_class_labels.txt", *labels)
    write(folder / "train_test_split.txt", *split)
    write(folder / "classes.txt", *(f"{n} {name}" for n, name in enumerate(classes, 1)))
    write(folder / "attributes/certainties.txt", "1 not visible")
    return folder


SUN = ("a/abbey", "c/church/indoor", "c/church/outdoor", "y/youth_hostel")


def sun397(root: Path, partitions: bool = True) -> Path:
    folder = root / "SUN397"
    splits: dict[str, list[str]] = {"Training": [], "Testing": []}
    for number, name in enumerate(SUN):
        for i, split in enumerate(("Training", "Testing", "")):
            jpg(folder / name / f"sun_{number}{i}abc.jpg", number)
            if split:
                splits[split].append(f"/{name}/sun_{number}{i}abc.jpg")
    write(folder / "ClassName.txt", *(f"/{name}" for name in SUN))
    for split, names in splits.items():
        if partitions:
            write(root / f"SUN397/Partitions/{split}_01.txt", *names)
            write(root / f"SUN397/Partitions/{split}_02.txt", *reversed(names))
    return folder


def gtsrb(root: Path) -> Path:
    folder, head = root / "gtsrb", "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    rows = []
    for number in range(3):
        for i in range(2):
            put(folder / f"GTSRB/Training/{number:05d}/00000_{i:05d}.ppm", number)
        write(folder / f"GTSRB/Training/{number:05d}/GT-{number:05d}.csv", head)
        put(folder / f"GTSRB/Final_Test/Images/{number:05d}.ppm", 2 - number)
        rows.append(f"{number:05d}.ppm;53;54;6;5;48;49;{2 - number}")
    write(folder / "GT-final_test.csv", head, *rows)
    write(folder / "GTSRB/Final_Test/Images/GT-final_test.test.csv", head[:-8])
    return folder


def caltech101(root: Path) -> Path:
    folder = root / "caltech101"
    for number, name in enumerate(("Faces", "Faces_easy", "accordion", "yin_yang")):
        for i in range(1, 6):
            jpg(folder / f"101_ObjectCategories/{name}/image_{i:04d}.jpg", number)
        (folder / f"Annotations/{name}").mkdir(parents=True)
        (folder / f"Annotations/{name}/annotation_0001.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    jpg(folder / "101_ObjectCategories/BACKGROUND_Google/image_0001.jpg", 9)
    return folder


def eurosat(root: Path) -> Path:
    for number, name in enumerate(("AnnualCrop", "Forest", "SeaLake")):
        for i in range(1, 6):
            jpg(root / f"eurosat/2750/{name}/{name}_{i}.jpg", number)
    return root / "eurosat"


def country211(root: Path) -> Path:
    for split in ("train", "valid", "test"):
        for number, name in enumerate(("AD", "AE", "ZW")):
            jpg(root / f"country211/{split}/{name}/{number}_{split}.jpg", number)
    return root / "country211"


def rendered_sst2(root: Path) -> Path:
    for split in ("train", "valid", "test"):
        for number, name in enumerate(("negative", "positive")):
            put(root / f"rendered-sst2/{split}/{name}/{number}.png", number)
    return root / "rendered-sst2"


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
