"""Group the records that have a caption or a picture in common. A group must be on one side of a split, or one side
measures what was learnt on the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openslip.tools.check.facts import FINE, USELESS
from openslip.tools.check.near import alike, close_pairs, hashes

COMMON = 100
"""A picture of more records than this is a placeholder, and a caption of more records is a label or boilerplate."""
COMMON_SHARE = 10
"""So is a caption of more than this many records, if they are also more than one in this many of all records."""
NONE = np.uint64(2**64 - 1)
"""The key of a record that cannot be used, and belongs to no group."""


@dataclass(frozen=True)
class Groups:
    """Records in groups. `keys` (R,) uint64: equal within a group, spread evenly over the groups, independent of the
    records' order; NONE for a record that cannot be used. A group has the same key in a larger source, unless an added
    record joins the group.

    common_captions, common_pictures: the number of captions and pictures of so many records that they tie no records
    together. complete: whether all pairs were compared, so that no near copy is missed (see `near`).
    """

    keys: np.ndarray
    common_captions: int
    common_pictures: int
    complete: bool


def most_in_common(records: int) -> int:
    """Return how many of `records` may have a caption in common and be tied together by it."""
    return min(COMMON, max(COMMON_SHARE, records // COMMON_SHARE))


def group(records: np.ndarray, captions: np.ndarray) -> Groups:
    """Return the groups of records, (R,) RECORD, with their captions in a row, (C,) CAPTION.

    Two records are tied together by an equal caption, by an image of the same bytes, or by near copies of a picture.
    A group is all records connected by such ties. Captions that say nothing (`caption_text.useless`) tie nothing.
    """
    fine = np.flatnonzero(records["state"] == FINE)
    _, first, which = np.unique(records["content"][fine], return_index=True, return_inverse=True)
    first = fine[first]
    tie_bytes, common_pictures = _ties(fine, which.astype(np.uint64), COMMON)
    owners, texts = said(records, captions)
    tie_texts, common_captions = _ties(owners, texts, most_in_common(len(records)))
    # In the order of their contents, so that nothing depends on the order of the records.
    clear = first[~records["flat"][first]]
    a, b, complete = close_pairs(hashes(records["look"], clear), records["look"]["tint"][clear])
    a, b = clear[a], clear[b]
    near = alike(records["look"], a, b)
    ties = [tie_bytes, tie_texts, np.stack([a[near], b[near]])]
    labels = components(len(records), *np.concatenate(ties, axis=1))
    smallest = np.full(len(records), NONE)
    np.minimum.at(smallest, labels[fine], _names(records, captions)[fine])
    keys = np.full(len(records), NONE)
    keys[fine] = np.minimum(mixed(smallest[labels[fine]]), NONE - np.uint64(1))
    return Groups(keys, common_captions, common_pictures, complete)


def said(records: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (owners, texts), each pair once: the positions of usable records, and the fingerprints of their captions,
    without captions that say nothing; in the order of the texts."""
    owners = np.repeat(np.arange(len(records)), records["captions"])
    telling = (records["state"][owners] == FINE) & (captions["flags"] & USELESS == 0)
    owners, texts = owners[telling], captions["text"][telling]
    order = np.lexsort((owners, texts))
    owners, texts = owners[order], texts[order]
    new = np.ones(len(texts), bool)
    new[1:] = (texts[1:] != texts[:-1]) | (owners[1:] != owners[:-1])
    return owners[new], texts[new]


def components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return for each of `count` nodes the smallest node that it is connected with by edges (a, b), (count,).

    In each round every tree of a component that touches a tree with a smaller root is attached to that tree. So at
    most half of the trees are left, and there are about log2(count) rounds.
    """
    labels = np.arange(count)
    while True:
        low, high = np.minimum(labels[a], labels[b]), np.maximum(labels[a], labels[b])
        apart = low != high
        if not apart.any():
            return labels
        np.minimum.at(labels, high[apart], low[apart])
        while not np.array_equal(labels, further := labels[labels]):
            labels = further


def mixed(values: np.ndarray) -> np.ndarray:
    """Return 64-bit values (N,) spread evenly, a permutation of all 64-bit values: the finaliser of SplitMix64.

    The smallest digests of groups are not spread evenly: the larger the group, the smaller its smallest digest.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _names(records: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Return a number for each record, (R,) uint64: the fingerprint of its image; for an image of more than COMMON
    records, mixed with that of a caption."""
    names = records["content"].copy()
    _, which, counts = np.unique(names, return_inverse=True, return_counts=True)
    common = counts[which] > COMMON
    owners = np.repeat(np.arange(len(records)), records["captions"])
    texts = np.full(len(records), NONE)
    np.minimum.at(texts, owners, captions["text"])
    names[common] = mixed(names[common] ^ texts[common])
    return names


def _ties(owners: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Return edges (2, E) that chain the owners of each value, and how many values more than `most` owners have."""
    order = np.argsort(values, kind="stable")
    owners, values = owners[order], values[order]
    _, counts = np.unique(values, return_counts=True)
    common = np.repeat(counts > most, counts)
    tied = (values[1:] == values[:-1]) & ~common[1:]
    return np.stack([owners[:-1][tied], owners[1:][tied]]), int((counts > most).sum())
