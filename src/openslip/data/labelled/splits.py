"""What the splits of a data set are called, and the split of one that came without."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from openslip.errors import ConfigError, did_you_mean

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Each split, and the names it goes by in folders and files."""
_WITH = (
    "set",
    "data",
    "dataset",
    "split",
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "photos",
    "folder",
    "seg",
)
"""Words that stand beside these names: `training_set`, `test_images`, `seg_train`, `valset`, `train2017`."""
_WORD = re.compile(
    rf"({'|'.join(sorted((a for some in SPLITS.values() for a in some), key=len, reverse=True))})"
    rf"({'|'.join(_WITH)})?\d*"
)
STANDS_FOR = {"train": ("train",), "val": ("val",), "test": ("test", "val")}
"""Where no test set is published, the validation set is what people test on."""

HELD_OUT = 0.2
"""Share of each class that a data set without splits gives as its test split."""


def split_aliases() -> set[str]:
    """Return all names of splits."""
    return {alias for names in SPLITS.values() for alias in names}


def split_called(name: str) -> str:
    """Return the split that goes by `name`, in any case and also with words such as `set` and numbers: `Training_Set`,
    `val2017`; "" where none does."""
    split, rest = _told(name)
    return split if split and not rest else ""


def splits_called(names: Iterable[str]) -> dict[str, str]:
    """Return which of folders beside each other are splits: also `birds_train` and `birds_test`, if both are there."""
    told = {name: _told(name) for name in names}
    together = defaultdict(set)
    for split, rest in told.values():
        together[rest].add(split)
    return {
        name: split for name, (split, rest) in told.items() if split and (not rest or len(together[rest]) > 1)
    }


def _told(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split in a name, and the words that have nothing to do with it; "" where there is none, or several."""
    parts = [part for part in re.split(r"[\s_.()-]+", name.lower()) if part]
    found = [match[1] for part in parts if (match := _WORD.fullmatch(part))]
    if len(found) != 1:
        return "", ()
    split = next(split for split, names in SPLITS.items() if found[0] in names)
    return split, tuple(p for p in parts if not (_WORD.fullmatch(p) or p in _WITH or p.isdigit()))


def split_asked_for(name: str) -> str:
    """Return the split that a person means by `name`. Raises ConfigError for an unknown one."""
    for split, names in SPLITS.items():
        if name.lower() in names:
            return split
    raise ConfigError(f"There is no split {name!r} of labelled images", fix=did_you_mean(name, SPLITS))


def standing_for(split: str, there: Iterable[str]) -> str:
    """Return the split that is taken for `split` among those there are; "" where none can be."""
    return next((one for one in STANDS_FOR[split] if one in set(there)), "")


def held_out(keys: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return which of N images are the test split of data that came without: HELD_OUT of every class, by hash.

    keys: names of the images; labels: (N,). A class of one image gives the image to train.
    """
    encoded = (key.encode("utf-8", "surrogatepass") for key in keys)  # names need not be UTF-8
    # One at a time: lists of millions of names would take more memory than all else.
    digests = np.fromiter((hashlib.blake2b(key, digest_size=8).digest() for key in encoded), "S8", len(keys))
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(digests[members], kind="stable")]
        test[members[: min(max(1, round(HELD_OUT * len(members))), len(members) - 1)]] = True
    return test
