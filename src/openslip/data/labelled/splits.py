"""Names of the splits of a data set, and the split of a set that came without."""

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
"""Each split, and its names in folders and files."""
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
"""Words beside these names: `training_set`, `test_images`, `seg_train`, `valset`, `train2017`."""
_WORD = re.compile(
    rf"({'|'.join(sorted((a for some in SPLITS.values() for a in some), key=len, reverse=True))})"
    rf"({'|'.join(_WITH)})?\d*"
)
STANDS_FOR = {"train": ("train",), "val": ("val",), "test": ("test", "val")}
"""If no test set is published, people test on the validation set."""

HELD_OUT = 0.2
"""Share of each class that a data set without splits gives as its test split."""


def split_aliases() -> set[str]:
    """Return all names of splits."""
    return {alias for names in SPLITS.values() for alias in names}


def split_called(name: str) -> str:
    """Return the split that `name` means, "" for none. Case, numbers, and words such as `set` do not matter:
    `Training_Set`, `val2017`."""
    split, rest = _told(name)
    return split if split and not rest else ""


def splits_called(names: Iterable[str]) -> dict[str, str]:
    """Return the splits among folders side by side, including `birds_train` and `birds_test` if both are there."""
    told = {name: _told(name) for name in names}
    together = defaultdict(set)
    for split, rest in told.values():
        together[rest].add(split)
    return {
        name: split for name, (split, rest) in told.items() if split and (not rest or len(together[rest]) > 1)
    }


def _told(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split in a name, and the words that do not belong to it; "" for no split, or several."""
    parts = [part for part in re.split(r"[\s_.()-]+", name.lower()) if part]
    found = [match[1] for part in parts if (match := _WORD.fullmatch(part))]
    if len(found) != 1:
        return "", ()
    split = next(split for split, names in SPLITS.items() if found[0] in names)
    return split, tuple(p for p in parts if not (_WORD.fullmatch(p) or p in _WITH or p.isdigit()))


def split_asked_for(name: str) -> str:
    """Return the split that a person means by `name`. Raises ConfigError for an unknown name."""
    for split, names in SPLITS.items():
        if name.lower() in names:
            return split
    raise ConfigError(f"There is no split {name!r} of labelled images", fix=did_you_mean(name, SPLITS))


def standing_for(split: str, there: Iterable[str]) -> str:
    """Return the available split that can serve as `split`, "" for none."""
    return next((one for one in STANDS_FOR[split] if one in set(there)), "")


def held_out(keys: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return (N,) bool, the test split of images that came without splits: HELD_OUT of every class, by hash.

    keys: names of the images; labels: (N,). The only image of a class goes to train.
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
