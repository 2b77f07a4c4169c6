"""Files that give the classes of pictures in one folder, such as the test pictures of ImageNet."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator

from openslip.data.labelled.splits import split_called
from openslip.data.labelled.tree import Node
from openslip.files import read_whole

MOST_BYTES = 64 << 20


def read(folder: Node, split: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each such file directly in a folder, with the class of each picture that it lists.

    split: the split of the pictures. A file whose name belongs to another split is skipped.

    `val_annotations.txt` of Tiny ImageNet: a picture's name, a tab, its class, and columns that are not used here.
    `LOC_val_solution.csv` of ImageNet at Kaggle: a picture's name without its ending, and its class before a box.
    """
    for name in folder.others:
        is_lines = re.fullmatch(r"\w*annotations\.(txt|tsv)", name, re.IGNORECASE)
        if not (is_lines or name == "LOC_val_solution.csv"):
            continue
        of = {split_called(word) for word in re.split(r"[_.]", name)} - {""}
        if split != "all" and of and split not in of:
            continue
        try:
            text = read_whole(os.path.join(folder.path, name), MOST_BYTES).decode("utf-8-sig")
            rows = list(csv.reader(text.splitlines(), delimiter="\t" if is_lines else ","))
        except (OSError, ValueError, csv.Error):
            continue
        classes = {
            row[0]: row[1].split(" ")[0] if not is_lines else row[1].strip() for row in rows if len(row) > 1
        }
        yield name, {picture: value for picture, value in classes.items() if value}
