"""Small made-up data sets in the layouts of published ones, byte for byte as their archives unpack.

Each maker writes a set below `root`, where torchvision would, and returns the folder to name. Pictures of a class
have the colour of `oracle.coloured` of its number.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
from oracle import put
from scipy.io import savemat


def ours(found, split):
    """Return class by file of a split, relative to the folder that the files lie in."""
    part = found.splits[split]
    return {
        os.path.join(part.images.root, path): int(label)
        for path, label in zip(part.images.paths, part.labels)
    }


def theirs(dataset, files, labels="_labels"):
    return dict(zip(map(str, getattr(dataset, files)), map(int, getattr(dataset, labels))))


def same(ours, theirs):
    """Whether a split has the pictures and labels of torchvision's dataset, in the same order."""
    pairs = list(theirs)
    assert ours.labels.tolist() == [int(label) for _, label in pairs]
    for i, (image, _) in enumerate(pairs):
        assert np.array_equal(ours.images[i], np.asarray(image.convert("RGB")))
        assert ours.images[i].dtype == np.uint8
    again = pickle.loads(pickle.dumps(ours.images))
    assert np.array_equal(again[len(pairs) - 1], ours.images[-1])
    return True


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


def structs(**columns: list) -> np.ndarray:
    """Return a struct array of MATLAB's, as scipy writes it: one row of structs."""
    rows = np.empty((1, len(next(iter(columns.values())))), dtype=[(name, object) for name in columns])
    for name, values in columns.items():
        for i, value in enumerate(values):
            rows[0, i][name] = value
    return rows


def cells(*values: str) -> np.ndarray:
    row = np.empty((1, len(values)), dtype=object)
    row[0, :] = values
    return row


def svhn(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((("train", 12), ("test", 10))):
        digits = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        pictures = pixels(32, 32, 3, count, seed=number)
        savemat(root / f"{split}_32x32.mat", {"X": pictures, "y": digits}, do_compression=True)
    return root


def flowers(root: Path) -> Path:
    folder = root / "flowers-102"
    labels = [77, 1, 77, 102, 1, 1, 102, 77, 77]
    for number, label in enumerate(labels, 1):
        jpg(folder / f"jpg/image_{number:05d}.jpg", label)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    ids = {"trnid": [9, 2, 4], "valid": [1, 5], "tstid": [3, 6, 7, 8]}
    savemat(folder / "setid.mat", {name: np.array([some], np.uint16) for name, some in ids.items()})
    return folder


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012")


def cars(root: Path) -> Path:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    for split, classes, path in (
        ("train", [3, 1, 2, 1], "devkit/cars_train_annos.mat"),
        ("test", [2, 3, 1], "cars_test_annos_withlabels.mat"),
    ):
        names = [f"{i:05d}.jpg" for i in range(1, len(classes) + 1)]
        for name, label in zip(names, classes):
            jpg(folder / f"cars_{split}/{name}", label - 1)
        boxes = {f"bbox_{side}": [np.uint16(30)] * len(names) for side in ("x1", "y1", "x2", "y2")}
        rows = structs(**boxes, **{"class": [np.uint8(one) for one in classes]}, fname=names)
        savemat(folder / path, {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": cells(*CARS)})
    return folder


def cars_together(root: Path) -> Path:
    folder, classes, tested = root / "cars", [3, 1, 2, 1, 2, 3], [0, 0, 0, 1, 1, 1]
    names = [f"car_ims/{i:06d}.jpg" for i in range(1, 7)]
    for name, label in zip(names, classes):
        jpg(folder / name, label - 1)
    columns = {"class": [np.uint8(one) for one in classes], "test": [np.uint8(one) for one in tested]}
    savemat(
        folder / "cars_annos.mat",
        {"annotations": structs(relative_im_path=names, **columns), "class_names": cells(*CARS)},
    )
    return folder


def imagenet(root: Path, ids: list[str]) -> Path:
    """ILSVRC2012 with its development kit: `ids` are numbered in another order than that of their names."""
    folder, kit = root / "ILSVRC2012", root / "ILSVRC2012/ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    order = [*reversed(ids), "n00001740"]
    rows = structs(
        ILSVRC2012_ID=[np.float64(i) for i in range(1, len(order) + 1)],
        WNID=order,
        words=[f"{one} word, other word" for one in order],
        gloss=["a text"] * len(order),
        num_children=[np.float64(i == len(ids)) for i in range(len(order))],
    )
    savemat(kit / "meta.mat", {"synsets": rows.reshape(-1, 1)})
    truth = [i % len(ids) + 1 for i in range(2 * len(ids))]
    write(kit / "ILSVRC2012_validation_ground_truth.txt", *map(str, truth))
    for number, label in enumerate(truth, 1):
        jpg(folder / f"val/ILSVRC2012_val_{number:08d}.JPEG", ids.index(order[label - 1]))
    for number, one in enumerate(ids):
        jpg(folder / f"train/{one}/{one}_1.JPEG", number)
    return folder


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


def clevr(root: Path) -> Path:
    folder = root / "clevr/CLEVR_v1.0"
    for split, counts in (("train", [3, 10, 4, 3]), ("val", [4, 10, 3]), ("test", [5])):
        scenes = []
        for i, count in enumerate(counts):
            name = f"CLEVR_{split}_{i:06d}.png"
            put(folder / f"images/{split}/{name}", {3: 0, 4: 1}.get(count, 7))
            objects = [{"color": "red", "shape": "cube", "3d_coords": [0.0, 1.0, 2.0]}] * count
            scenes.append({"split": split, "image_filename": name, "objects": objects, "image_index": i})
        if split != "test":
            write(folder / f"scenes/CLEVR_{split}_scenes.json", json.dumps({"info": {}, "scenes": scenes}))
    return folder


KITTI = {
    0: ["Car 0.00 0 1.5 600 150 630 180 1.6 1.8 3.7 2.9 1.6 7.99 1.4"],
    1: ["Car 0.00 0 1.5 600 150 630 180 1.6 1.8 3.7 2.9 1.6 45.5 1.4", "Van 0 0 1 1 1 2 2 1 1 1 0 0 8.01 1"],
    2: ["Pedestrian 0 0 1 1 1 2 2 1 1 1 0 0 2.5 1", "Truck 0 0 1 1 1 2 2 1 1 1 0 0 20.5 1"],
    3: ["Cyclist 0 0 1 1 1 2 2 1 1 1 0 0 5 1", "DontCare -1 -1 -10 1 1 2 2 -1 -1 -1 -1000 -1000 -1000 -10"],
}
"""What is annotated in a picture of each class of distance."""


def kitti(root: Path, videos: int = 0) -> Path:
    """videos: how many videos the development kit parts the pictures into; 0 for no such kit."""
    folder = root / "Kitti/raw"
    for i in range(40):
        put(folder / f"training/image_2/{i:06d}.png", i % 4)
        write(folder / f"training/label_2/{i:06d}.txt", *KITTI[i % 4])
        put(folder / f"testing/image_2/{i:06d}.png", i % 4)
    if videos:
        mapping, order = folder / "devkit_object/mapping", np.random.default_rng(0).permutation(40)
        rows = [f"2011_09_26 2011_09_26_drive_{i % videos:04d}_sync {i:010d}" for i in range(40)]
        write(mapping / "train_mapping.txt", *rows)
        (mapping / "train_rand.txt").write_text(",".join(str(one + 1) for one in order))
    return folder


def hateful_memes(root: Path, labels: bool = True) -> Path:
    folder = root / "hateful_memes"
    number = 42000
    for split, count in (
        ("train", 4),
        ("dev_seen", 2),
        ("dev_unseen", 2),
        ("test_seen", 2),
        ("test_unseen", 2),
    ):
        rows = []
        for i in range(count):
            number += 1
            put(folder / f"img/{number}.png", i % 2)
            row = {"id": number, "img": f"img/{number}.png", "label": i % 2, "text": "a caption"}
            if not labels and split.startswith("test"):
                del row["label"]
            rows.append(json.dumps(row))
        write(folder / f"{split}.jsonl", *rows)
    return folder


VOC = {
    "000001": ["cat"],
    "000002": ["dog", "dog", "person"],
    "000003": ["person", "-cat"],
    "000004": ["-dog", "dog"],
    "000005": ["-person"],
    "000006": ["cat", "person"],
}
"""The objects in each picture; those with a minus are difficult to see."""


def voc(root: Path, lists: dict[str, list[str]] | None = None) -> Path:
    folder = root / "VOCdevkit/VOC2007"
    names = list(VOC)
    lists = lists or {"train": names[:2], "val": names[2:3], "trainval": names[:3], "test": names[3:]}
    for number, (name, objects) in enumerate(VOC.items()):
        jpg(folder / f"JPEGImages/{name}.jpg", number)
        described = "".join(
            f"<object><name>{one.lstrip('-')}</name><pose>Left</pose><difficult>{int(one[0] == '-')}</difficult>"
            "<bndbox><xmin>1</xmin></bndbox><part><name>head</name></part></object>"
            for one in objects
        )
        write(
            folder / f"Annotations/{name}.xml",
            f"<annotation><folder>VOC2007</folder>{described}</annotation>",
        )
    for split, some in lists.items():
        write(folder / f"ImageSets/Main/{split}.txt", *some)
        for kind in ("cat", "dog", "person"):  # the official labels: 1, -1, and 0 for what is only difficult
            rows = [
                f"{name} {1 if kind in VOC[name] else 0 if f'-{kind}' in VOC[name] else -1:2d}"
                for name in some
            ]
            write(folder / f"ImageSets/Main/{kind}_{split}.txt", *rows)
    write(folder / "ImageSets/Layout/test.txt", "000004")
    (folder / "SegmentationClass").mkdir()
    return folder
