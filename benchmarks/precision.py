"""How much two indexes of the same pictures differ, as those that `slip embed` computes in bf16 and in fp32.

    slip embed MODEL SOURCE --out a --precision fp32 --captions
    slip embed MODEL SOURCE --out b --precision bf16
    python benchmarks/precision.py a b

Prints the cosine of each picture's two vectors; of the first captions of `a`, the share whose picture, or one with the
same caption, is among the ten nearest; and how many of ten results both have in common.
"""

from __future__ import annotations

import argparse

import numpy as np

from openslip.search import exact
from openslip.search.index import CAPTIONS, Index

TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first")
    parser.add_argument("second")
    options = parser.parse_args()
    indexes = [Index.open(folder) for folder in (options.first, options.second)]
    one, other = (index.vectors.astype(np.float32) for index in indexes)
    if indexes[0].column("digest") != indexes[1].column("digest"):
        raise SystemExit("The two indexes are of other pictures, or in another order")
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    print(f"{len(one):,} pictures; cosine {np.median(cosine):.4f} in the median, {cosine.min():.4f} at least")
    captions = indexes[0].column("captions").to_pylist()
    firsts = np.cumsum([0, *map(len, captions[:-1])])
    texts = np.load(indexes[0].folder / CAPTIONS, mmap_mode="r")[firsts].astype(np.float32)
    names = np.array([some[0] for some in captions])
    found = [exact.nearest(texts, index.vectors, TOP).rows for index in indexes]
    for index, rows in zip(indexes, found):
        hits = (names[rows] == names[:, None]).any(axis=1)
        print(
            f"{index.about['precision']}: {100 * hits.mean():.1f} % of {len(names):,} captions find their picture "
            f"among {TOP}"
        )
    common = np.mean([len({*a} & {*b}) for a, b in zip(*(rows.tolist() for rows in found))])
    print(f"{common:.1f} of {TOP} results in common")


if __name__ == "__main__":
    main()
