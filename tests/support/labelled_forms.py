"""Labelled sets in every form of table, Parquet file and tar shard, with the pictures of `oracle`.

A writer takes a folder and a `World`, writes its pictures there, and returns the spec that names them. A new form joins
`FORMS` by `@form`; `NAMELESS` are those whose classes have numbers and no names.
"""

from __future__ import annotations

import csv
import decimal
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oracle import coloured


@dataclass
class World:
    """Pictures of classes: `names` in the order of the labels; splits: (class, number of the picture) by split.

    rng: for orders, gaps and the like.
    """

    names: list[str]
    splits: dict[str, list[tuple[int, int]]]
    rng: np.random.Generator

    @classmethod
    def make(cls, names: list[str], seed: int) -> World:
        rng = np.random.default_rng(seed)
        splits = {}
        for split, low in (("train", 2), ("test", 1)):
            rows = [(c, n) for c in range(len(names)) for n in range(int(rng.integers(low, low + 3)))]
            splits[split] = [rows[i] for i in rng.permutation(len(rows))]
        return cls(names, splits, rng)

    @property
    def every(self) -> list[tuple[str, int, int]]:
        return [(split, c, n) for split, rows in self.splits.items() for c, n in rows]


Writer = Callable[[Path, World], str]
FORMS: dict[str, Writer] = {}
NAMELESS: dict[str, Writer] = {}


def form(writer: Writer, registry: dict[str, Writer] = FORMS) -> Writer:
    registry[writer.__name__.strip("_").replace("_", "-")] = writer
    return writer


def nameless(writer: Writer) -> Writer:
    return form(writer, NAMELESS)


def parquet(
    path: Path,
    rows: list[tuple[int, int]],
    labels: Any,
    names: list[str] | None = None,
    column: str = "label",
    **columns: Any,
) -> None:
    """Write a file as data hubs do; names: those of a ClassLabel column."""
    images = [{"bytes": coloured(c), "path": None} for c, _ in rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), column: pa.array(labels), **columns})
    if names:
        features = {"image": {"_type": "Image"}, column: {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata(
            {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


def hub(root: Path, world: World, labels: Callable[[str, list[int]], Any], names: bool = False) -> str:
    for split, rows in world.splits.items():
        made = labels(split, [c for c, _ in rows])
        parquet(root / f"data/{split}-00000-of-00001.parquet", rows, made, world.names if names else None)
    return str(root)


def ids_of(world: World) -> list[int]:
    """Return a label for each class: numbers with gaps, not in order."""
    return [int(i) for i in world.rng.permutation(np.arange(1, 60))[: len(world.names)]]


@form
def _class_label(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: c, names=True)


@form
def _class_label_of_each_file(root: Path, world: World) -> str:
    """Every file has its names in an order of its own, as `class_encode_column` on each split leaves them."""
    for split, rows in world.splits.items():
        order = [int(i) for i in world.rng.permutation(len(world.names))]
        if split == "test":  # only the classes that it has
            order = [i for i in order if i in {c for c, _ in rows}]
        names = [world.names[i] for i in order]
        parquet(root / f"{split}.parquet", rows, [order.index(c) for c, _ in rows], names)
    return str(root)


@form
def _shards_by_config(root: Path, world: World) -> str:
    for split, rows in world.splits.items():
        for shard in range(2):
            some = rows[shard::2]
            parquet(root / f"default/{split}/{shard:04}.parquet", some, [c for c, _ in some], world.names)
    return str(root)


@form
def _capital_folders(root: Path, world: World) -> str:
    for split, rows in world.splits.items():
        parquet(root / f"{split.upper()}/part-0.parquet", rows, [world.names[c] for c, _ in rows])
    return str(root)


@form
def _texts(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: [world.names[i] for i in c])


@form
def _texts_with_blanks_and_classes_json(root: Path, world: World) -> str:
    (root / "classes.json").write_text(json.dumps([name.replace("_", " ") for name in world.names]))
    return hub(root, world, lambda split, c: [f" {world.names[i]}\n" for i in c])


@form
def _categories(root: Path, world: World) -> str:
    def categories(split: str, labels: list[int]) -> pa.Array:
        order = pa.array([*world.names, "never seen"])
        return pa.DictionaryArray.from_arrays(pa.array(labels, pa.int8()), order)

    return hub(root, world, categories)


@form
def _binary_texts(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: pa.array([world.names[i].encode() for i in c]))


@form
def _list_beside(root: Path, world: World) -> str:
    (root / "classes.json").write_text(json.dumps(world.names))
    return hub(root, world, lambda split, c: pa.array(c, pa.uint8()))


@form
def _mapping_with_gaps(root: Path, world: World) -> str:
    ids = ids_of(world)
    (root / "classes.json").write_text(json.dumps({str(i): name for i, name in zip(ids, world.names)}))
    return hub(root, world, lambda split, c: pa.array([ids[i] for i in c], pa.uint64()))


@form
def _mapping_from_names(root: Path, world: World) -> str:
    ids = ids_of(world)
    (root / "classes.json").write_text(json.dumps(dict(zip(world.names, ids))))
    return hub(root, world, lambda split, c: [float(ids[i]) for i in c])


@form
def _entries_of_labels(root: Path, world: World) -> str:
    ids = ids_of(world)
    entries = [{"label": i, "names": [name, "another"]} for i, name in zip(ids, world.names)]
    (root / "classes.json").write_text(json.dumps(entries))
    return hub(root, world, lambda split, c: [decimal.Decimal(ids[i]) for i in c])


@form
def _digits_as_text(root: Path, world: World) -> str:
    (root / "classes.json").write_text(json.dumps(world.names))
    return hub(root, world, lambda split, c: [str(i) for i in c])


@form
def _counted_lines(root: Path, world: World) -> str:
    lines = [f"{i} {name}\n" for i, name in enumerate(world.names, 1)]
    (root / "classes.txt").write_text("".join(lines))
    return hub(root, world, lambda split, c: [i + 1 for i in c])


@form
def _front_matter(root: Path, world: World) -> str:
    names = "".join(f"          '{i}': {name}\n" for i, name in enumerate(world.names))
    head = "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
    (root / "README.md").write_text(f"{head}      class_label:\n        names:\n{names}---\n# A set\n")
    return hub(root, world, lambda split, c: c)


@form
def _dataset_infos(root: Path, world: World) -> str:
    features = {"label": {"names": world.names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    (root / "dataset_infos.json").write_text(json.dumps({"default": {"features": features}}))
    return hub(root, world, lambda split, c: c)


@form
def _unlabelled_rows(root: Path, world: World) -> str:
    for split, rows in world.splits.items():
        more = [*rows, (0, 90), (1, 91)]
        parquet(root / f"{split}.parquet", more, [*(c for c, _ in rows), -1, None], world.names)
    return str(root)


@form
def _unlabelled_test(root: Path, world: World) -> str:
    """A hidden test split: the validation split is measured."""
    for split, rows in world.splits.items():
        name = "validation" if split == "test" else split
        parquet(root / f"{name}.parquet", rows, [c for c, _ in rows], world.names)
    parquet(root / "test.parquet", world.splits["test"], [-1 for _ in world.splits["test"]], world.names)
    return str(root)


@form
def _undivided_file(root: Path, world: World) -> str:
    rows = [row for some in world.splits.values() for row in some]
    parquet(root / "birds.parquet", rows, [world.names[c] for c, _ in rows])
    return str(root / "birds.parquet")


@form
def _file_of_train(root: Path, world: World) -> str:
    hub(root, world, lambda split, c: c, names=True)
    return str(root / "data/train-00000-of-00001.parquet")


@form
def _file_of_test(root: Path, world: World) -> str:
    hub(root, world, lambda split, c: c, names=True)
    return str(root / "data/test-00000-of-00001.parquet")


@form
def _pattern(root: Path, world: World) -> str:
    hub(root, world, lambda split, c: c, names=True)
    return str(root / "data/*.parquet")


@form
def _split_column(root: Path, world: World) -> str:
    rows = [(c, n) for _, c, n in world.every]
    told = pa.array([split for split, *_ in world.every])
    parquet(root / "all.parquet", rows, [world.names[c] for c, _ in rows], column="category", split=told)
    return str(root / "all.parquet")


@form
def _parquet_of_paths(root: Path, world: World) -> str:
    files(root, world)
    for split, rows in world.splits.items():
        paths = [f"images/{split}{c}_{n}.png" for c, n in rows]
        table = pa.table({"image": paths, "label": [world.names[c] for c, _ in rows]})
        pq.write_table(table, root / f"{split}.parquet")
    return str(root)


def files(root: Path, world: World) -> list[tuple[str, str, str]]:
    """Write the pictures as files; return (path, class, split) of each."""
    (root / "images").mkdir(exist_ok=True)
    rows = []
    for split, c, n in world.every:
        path = f"images/{split}{c}_{n}.png"
        (root / path).write_bytes(coloured(c))
        rows.append((path, world.names[c], split))
    return rows


def table(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]], separator: str = ",") -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return str(path)


@form
def _csv_with_splits(root: Path, world: World) -> str:
    words = {"train": "Training", "test": "TEST"}
    rows = [(path, name, words[split]) for path, name, split in files(root, world)]
    return table(root / "birds.csv", ("filename", "label", "subset"), rows)


@form
def _csv_without_splits(root: Path, world: World) -> str:
    rows = [(path, "a caption, in quotes", name) for path, name, _ in files(root, world)]
    return table(root / "birds.csv", ("image", "caption", "species"), [*rows, ("", "no image", "x")], ";")


@form
def _csv_of_each_split(root: Path, world: World) -> str:
    rows = files(root, world)
    for wanted in ("train", "test"):
        some = [(path, name) for path, name, split in rows if split == wanted]
        table(root / f"{wanted}.tsv", ("path", "class"), some, "\t")
    return str(root / "test.tsv")


@form
def _csv_of_numbers(root: Path, world: World) -> str:
    """What pandas makes of whole numbers beside empty cells."""
    (root / "classes.json").write_text(json.dumps(world.names))
    rows = [(path, f"{world.names.index(name)}.0", split) for path, name, split in files(root, world)]
    return table(root / "birds.csv", ("image", "target", "split"), [*rows, ("images/none.png", "", "train")])


@form
def _json_lines(root: Path, world: World) -> str:
    rows = [{"file": path, "label": name, "set": split} for path, name, split in files(root, world)]
    (root / "birds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root / "birds.jsonl")


@form
def _metadata_in_folders(root: Path, world: World) -> str:
    """`imagefolder` of the library `datasets`: a metadata.csv in each split's folder."""
    for split, rows in world.splits.items():
        (root / split).mkdir()
        for c, n in rows:
            (root / split / f"{c}_{n}.png").write_bytes(coloured(c))
        table(
            root / split / "metadata.csv",
            ("file_name", "label"),
            [(f"{c}_{n}.png", world.names[c]) for c, n in rows],
        )
    return str(root)


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def shards(root: Path, world: World, beside: Callable[[int], dict[str, bytes]], place: str) -> None:
    for split, rows in world.splits.items():
        for shard in range(2):
            members = []
            for c, n in rows[shard::2]:
                key = f"{split}-{c}-{n}"
                members += [
                    (f"{key}.{ending}", data) for ending, data in {"png": coloured(c), **beside(c)}.items()
                ]
            tar(root / place.format(split=split, shard=shard), members)


@form
def _clip_benchmark(root: Path, world: World) -> str:
    (root / "classnames.txt").write_text("\n".join(world.names) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\n")
    shards(root, world, lambda c: {"cls": str(c).encode()}, "{split}/{shard}.tar")
    return str(root)


@form
def _cls_texts(root: Path, world: World) -> str:
    shards(
        root,
        world,
        lambda c: {"cls": world.names[c].encode(), "txt": b"a caption"},
        "set-{split}-{shard:03}.tar",
    )
    return str(root / "set-{train,test}-{000..001}.tar")


@form
def _json_labels(root: Path, world: World) -> str:
    def beside(c: int) -> dict[str, bytes]:
        return {"json": json.dumps({"label": c, "class_name": world.names[c], "width": 4}).encode()}

    shards(root, world, beside, "{split}-{shard}.tar")
    return str(root)


@form
def _folders_in_shards(root: Path, world: World) -> str:
    for split, rows in world.splits.items():
        tar(
            root / f"{split}.tar", [(f"birds/{split}/{world.names[c]}/{n}.png", coloured(c)) for c, n in rows]
        )
    return str(root)


@form
def _splits_and_folders_in_one_tar(root: Path, world: World) -> str:
    members = [(f"{split}/{world.names[c]}/{n}.png", coloured(c)) for split, c, n in world.every]
    tar(root / "birds.tar", members)
    return str(root / "birds.tar")


@form
def _wordnet_ids_in_shards(root: Path, world: World) -> str:
    """ImageNet's ids are known; its names are what is asked for."""
    ids = known_ids(world)
    for split, rows in world.splits.items():
        tar(root / f"{split}.tar", [(f"{split}/{ids[c]}/{n}.png", coloured(c)) for c, n in rows])
    return str(root)


@form
def _wordnet_ids_in_the_schema(root: Path, world: World) -> str:
    ids = known_ids(world)
    for split, rows in world.splits.items():
        parquet(root / f"{split}.parquet", rows, [c for c, _ in rows], ids)
    return str(root)


def known_ids(world: World) -> list[str]:
    """Give the world's classes names of ImageNet, and return their ids."""
    names = {"n01440764": "tench", "n01443537": "goldfish", "n02123045": "tabby cat", "n04146614": "school bus",
             "n07753592": "banana", "n02219486": "ant"}  # fmt: skip
    ids = [str(wnid) for wnid in world.rng.permutation(list(names))[: len(world.names)]]
    world.names[:] = [names[wnid] for wnid in ids]
    return ids


@nameless
def _numbers(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: c)


@nameless
def _bytes_for_labels(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: pa.array(c, pa.uint8()))


@nameless
def _huge_ids(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: pa.array([2**63 + 7 * i for i in c], pa.uint64()))


@nameless
def _negative_ids(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: [-5 - i for i in c])


@nameless
def _half_floats(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: pa.array(np.array(c, dtype=np.float16)))


@nameless
def _texts_of_numbers(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: [f"{i:03}" for i in c])


@nameless
def _widths_that_differ(root: Path, world: World) -> str:
    return hub(root, world, lambda split, c: pa.array(c, pa.uint8() if split == "train" else pa.int64()))


@nameless
def _numbers_in_tars(root: Path, world: World) -> str:
    shards(root, world, lambda c: {"cls": str(c).encode()}, "{split}-{shard}.tar")
    return str(root)
