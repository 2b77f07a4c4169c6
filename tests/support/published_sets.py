"""Small made-up data sets in the layouts of published ones, byte for byte as their archives unpack.

Each maker writes a set below `root`, where torchvision would, and returns the folder to name. Pictures of a class
have the colour of `oracle.coloured` of its number.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
from scipy.io import savemat

from oracle import put


def paths(found, split):
    """Return the files of a split, relative to the folder that they lie in."""
    return found.splits[split].images.paths


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


RESISC45 = ("airplane", "baseball_diamond", "sea_ice")


def resisc45(root: Path, lists: bool = True) -> Path:
    """lists: the partition of Neumann et al. 2019 beside the authors' archive, as torchgeo has it."""
    folder = root / "resisc45"
    for number, name in enumerate(RESISC45):
        for i in range(1, 6):
            jpg(folder / f"NWPU-RESISC45/{name}/{name}_{i:03d}.jpg", number)
    if lists:
        for split, numbers in (("train", (4, 1, 2)), ("val", (3,)), ("test", (5,))):
            write(
                folder / f"resisc45-{split}.txt",
                *(f"{name}_{i:03d}.jpg" for i in numbers for name in RESISC45),
            )
    return folder


UCF101 = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
"""Classes as in the lists; a video of the second is called v_HandStandPushups_g01_c01."""


def ucf101(root: Path, called: str = "UCF-101", lists: bool = True, frames: int = 1) -> Path:
    """The middle frame of each video. called: `UCF-101-midframes` for CoOp's copy, with its split_zhou_UCF101.json if
    there are no lists. frames: of more than one a video has a folder."""
    folder = root / "ucf101"
    partition: dict[str, list[list]] = {"train": [], "val": [], "test": []}
    for number, name in enumerate(UCF101):
        spaced = "_".join(re.findall("[A-Z][^A-Z]*", name)) if called.endswith("midframes") else name
        for group, split in ((1, "test"), (8, "train"), (9, "train")):
            for clip in (1, 2):
                video = f"v_{name.replace('Handstand', 'HandStand')}_g{group:02d}_c{clip:02d}"
                for i in range(frames):
                    place = f"{video}.jpg" if frames == 1 else f"{video}/frame{i:04d}.jpg"
                    jpg(folder / called / spaced / place, number if i == frames // 2 else 900 + i)
                partition[split].append([f"{name}/{video}.avi", number + 1, f"{spaced}/{video}.jpg", spaced])
    if lists:
        place = folder / "ucfTrainTestlist"
        write(place / "classInd.txt", *(f"{number} {name}" for number, name in enumerate(UCF101, 1)))
        for i in (1, 2, 3):  # the other partitions have other test groups
            train, test = partition["train"], partition["test"]
            train, test = (train, test) if i == 1 else (test, train)
            write(place / f"trainlist0{i}.txt", *(f"{path} {number}" for path, number, *_ in train))
            write(place / f"testlist0{i}.txt", *(path for path, *_ in test))
    elif called.endswith("midframes"):
        rows = {
            split: [[path, number - 1, spaced] for _, number, path, spaced in some]
            for split, some in partition.items()
        }
        rows["val"] = rows["train"][::4]
        del rows["train"][::4]
        write(folder / "split_zhou_UCF101.json", json.dumps(rows))
    return folder


KINETICS = ("abseiling", "massaging person's head", "passing American football (in game)")


def kinetics700(root: Path, splits: tuple[str, str] = ("train", "val")) -> Path:
    """The middle frame of each video, called as the videos that cvdfoundation offers. splits: what their folders are
    called; `train_images` and `val_images` in the paper's code."""
    for split in splits:
        for number, name in enumerate(KINETICS):
            for i in range(2):
                jpg(root / f"k700-2020/{split}/{name}/-{i}qz3_{split[:2]}{number}A_000004_000014.jpg", number)
    return root / "k700-2020"


def imagenetv2(root: Path, count: int = 1000) -> Path:
    """A folder for each label of ImageNet, called by its number."""
    folder = root / "imagenetv2-matched-frequency-format-val"
    for label in range(count):
        jpg(folder / f"{label}/{label:040x}.jpeg", label)
    return folder


WORDNET_IDS = ("n01498041", "n01531178", "n01534433")
"""Ids of three classes of ImageNet: stingray, goldfinch, junco."""


def imagenet_relative(root: Path, name: str = "imagenet-a") -> Path:
    """ImageNet-A, -R and -Sketch: a folder for each class, called by its WordNet id."""
    for number, one in enumerate(WORDNET_IDS):
        for i in range(2):
            jpg(root / f"{name}/{one}/{i:06d}_{number}.jpg", number)
    write(root / f"{name}/README.txt", *(f"{one} a name" for one in WORDNET_IDS))
    return root / name


def imagenet_samples(root: Path) -> Path:
    folder = root / "imagenet-sample-images"
    for number, name in enumerate(("n01440764_tench", "n01443537_goldfish", "n02028035_redshank")):
        jpg(folder / f"{name}.JPEG", number)
    write(folder / "gallery.md", "![tench](n01440764_tench.JPEG)")
    return folder


def tiny_imagenet(root: Path) -> Path:
    folder = root / "tiny-imagenet-200"
    for number, one in enumerate(WORDNET_IDS):
        jpg(folder / f"train/{one}/images/{one}_0.JPEG", number)
        write(folder / f"train/{one}/{one}_boxes.txt", f"{one}_0.JPEG\t0\t0\t62\t57")
        jpg(folder / f"val/images/val_{number}.JPEG", number)
        jpg(folder / f"test/images/test_{number}.JPEG", number)
    lines = (f"val_{number}.JPEG\t{one}\t0\t32\t44\t62" for number, one in enumerate(WORDNET_IDS))
    write(folder / "val/val_annotations.txt", *lines)
    return folder


OBJECTNET = {
    "air_freshener": ("Air freshener", ""),
    "alarm_clock": ("Alarm clock", "analog clock; digital clock"),
    "backpack": ("Backpack", "backpack, back pack, knapsack, packsack, rucksack, haversack"),
    "bicycle": (
        "Bicycle",
        "mountain bike, all-terrain bike, off-roader; bicycle-built-for-two, tandem bicycle, tandem",
    ),
    "t_shirt": ("T-shirt", "jersey, T-shirt, tee shirt"),
}
"""Folders of ObjectNet, what its classes are called, and the classes of ImageNet that each is, if any."""


def objectnet(root: Path) -> Path:
    folder = root / "objectnet-1.0"
    for number, name in enumerate(OBJECTNET):
        for i in range(2):
            put(folder / f"images/{name}/{number:07x}{i:08x}.png", number)
    mappings = folder / "mappings"
    write(
        mappings / "folder_to_objectnet_label.json",
        json.dumps({name: called for name, (called, _) in OBJECTNET.items()}),
    )
    shared = {called: imagenet for called, imagenet in OBJECTNET.values() if imagenet}
    write(mappings / "objectnet_to_imagenet_1k.json", json.dumps(shared))
    every = "; ".join(shared.values()).split("; ")
    write(mappings / "imagenet_to_label_2012_v2", *every)
    write(
        mappings / "pytorch_to_imagenet_2012_id.json", json.dumps({str(i): i + 1 for i in range(len(every))})
    )
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
