"""Latency and recall of searching embeddings: every row compared, by us and by faiss, and graphs, by usearch and faiss.

    python benchmarks/search.py
    python benchmarks/search.py --rows 10000 100000 1000000 --graphs-to 100000
    python benchmarks/search.py --vectors vectors/vectors.npy

faiss is the peer, and no dependency: pip install faiss-cpu, into a virtual environment with this project; without,
its rows are left out. All sides answer the same queries, one at a time and in turns, so that a busy machine is busy
for all of them. Ours, exact: `search.exact.nearest` on a memory-map of float16, as `slip search` calls it. Ours, hnsw:
`search.hnsw.Graph`, whose candidates are scored anew, with its own over-fetch. faiss: IndexFlatIP on float32, and
IndexHNSWFlat with the same M, efConstruction and efSearch, of which 10 rows are asked. recall@10 is against the exact
rows, of which equal scores count as equal. "ms of work" is the time of all cores that a query took, which hangs less on
what else the machine does: on quiet cores, a query takes that much, by the number of threads.

The vectors are synthetic, but more like embeddings of pictures than independent Gaussians: clusters whose
sizes fall as 1 / rank, each with a low-rank spread of its own. Queries are drawn from the same clusters, held out.
--vectors: real ones instead, of which the last 200 are the queries.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from openslip.search import exact, hnsw

AT = 10
Side = Callable[[np.ndarray], np.ndarray]
"""From one query (D,) float32 to the rows found."""


def clustered(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return vectors (N, D) float16 of length 1 in clusters of many sizes, each with a spread in 32 directions."""
    rng = np.random.default_rng(seed)
    clusters, rank = 2000, 32
    centres = rng.standard_normal((clusters, dim), np.float32) + 2 * rng.standard_normal((1, dim), np.float32)
    directions = rng.standard_normal((64, rank, dim), np.float32) / np.sqrt(rank)
    shares = 1 / np.arange(1, clusters + 1)
    owners = rng.choice(clusters, rows, p=shares / shares.sum())
    found = np.empty((rows, dim), np.float16)
    for start in range(0, rows, 8192):
        mine = owners[start : start + 8192]
        part = centres[mine] + 0.1 * rng.standard_normal((len(mine), dim), np.float32)
        for kind in range(64):
            here = mine % 64 == kind
            part[here] += rng.standard_normal((int(here.sum()), rank), np.float32) @ directions[kind]
        found[start : start + 8192] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return found


def recall(found: list[np.ndarray], vectors: np.ndarray, queries: np.ndarray) -> float:
    """Return the share of the AT best rows that were found; a row as good as the last of them is one of them."""
    right = exact.nearest(queries, vectors, AT)
    hits = 0
    for query, rows, scores in zip(queries, found, right.scores):
        rows = np.unique(rows[rows >= 0])[:AT]
        ours = (vectors[rows].astype(np.float64) * query).sum(axis=1)
        hits += int((ours >= scores[-1] - 1e-6).sum())
    return hits / (len(queries) * AT)


def graph_of(vectors: np.ndarray) -> hnsw.Graph:
    """Return our graph of vectors that no index has."""
    usearch = hnsw._usearch()
    graph = usearch.Index(
        ndim=vectors.shape[1],
        metric=usearch.MetricKind.IP,
        dtype=usearch.ScalarKind.F16,
        connectivity=hnsw.CONNECTIVITY,
        expansion_add=hnsw.EXPANSION_ADD,
        expansion_search=hnsw.EXPANSION_SEARCH,
    )
    for start in range(0, len(vectors), 4096):
        part = np.arange(start, min(start + 4096, len(vectors)))
        graph.add(part, np.ascontiguousarray(vectors[part]))
    stand_in: Any = type("Rows", (SimpleNamespace,), {"__len__": lambda self: len(self.vectors)})(
        vectors=vectors
    )
    return hnsw.Graph(stand_in, graph, hnsw.Recall(0, 0, ""), built=True)


def timed(what: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a call gives, the seconds that it took, and those of all cores' work for it."""
    start, worked = time.perf_counter(), time.process_time()
    made = what()
    return made, time.perf_counter() - start, time.process_time() - worked


def sides(vectors: np.ndarray, faiss: Any, graphs: bool) -> dict[str, tuple[Side, float]]:
    """Return each side with the seconds that it took to make."""
    made: dict[str, tuple[Side, float]] = {
        "exact, ours": (lambda query: exact.nearest(query[None], vectors, AT).rows[0], 0.0)
    }
    if faiss:

        def flat() -> Any:
            index = faiss.IndexFlatIP(vectors.shape[1])
            for start in range(0, len(vectors), 65536):
                index.add(vectors[start : start + 65536].astype(np.float32))
            return index

        index, seconds, _ = timed(flat)
        made["exact, faiss"] = (lambda query, index=index: index.search(query[None], AT)[1][0], seconds)
    if graphs:
        graph, seconds, _ = timed(lambda: graph_of(vectors))
        made["hnsw, ours"] = (lambda query: graph._scored(query, graph.candidates(query, AT), AT)[0], seconds)
        if faiss:

            def tree() -> Any:
                index = faiss.IndexHNSWFlat(vectors.shape[1], hnsw.CONNECTIVITY, faiss.METRIC_INNER_PRODUCT)
                index.hnsw.efConstruction, index.hnsw.efSearch = hnsw.EXPANSION_ADD, hnsw.EXPANSION_SEARCH
                for start in range(0, len(vectors), 65536):
                    index.add(vectors[start : start + 65536].astype(np.float32))
                return index

            other, seconds, _ = timed(tree)
            made["hnsw, faiss"] = (lambda query, index=other: index.search(query[None], AT)[1][0], seconds)
    return made


def measure(vectors: np.ndarray, queries: np.ndarray, faiss: Any, graphs: bool) -> None:
    made = sides(vectors, faiss, graphs)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    work: dict[str, list[float]] = {name: [] for name in made}
    found: dict[str, list[np.ndarray]] = {name: [] for name in made}
    for side, _ in made.values():
        side(queries[0])  # pages of the memory-map, threads
    for query in queries:
        for name, (side, _) in made.items():
            rows, took, worked = timed(lambda side=side, query=query: side(query))
            seconds[name].append(took)
            work[name].append(worked)
            found[name].append(np.asarray(rows))
    first = np.array(seconds["exact, ours"])
    for name, (_, built) in made.items():
        took = np.array(seconds[name])
        low, middle, high = np.quantile(took, (0.25, 0.5, 0.75))
        ratio = np.median(first / took)
        print(
            f"| {len(vectors):,} | {name} | {1000 * middle:.2f} ({1000 * low:.2f} to {1000 * high:.2f}) |"
            f" {1000 * np.median(work[name]):.2f} | {ratio:.2f} |"
            f" {recall(found[name], vectors, queries):.3f} | {built:.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--graphs-to", type=int, default=1_000_000, help="no graphs of more rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vectors", type=Path, help="a .npy of real embeddings")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        import faiss  # pyrefly: ignore[missing-import]

        faiss.omp_set_num_threads(options.threads)
    except ImportError:
        faiss = None
        print("faiss is not installed, and is left out", file=sys.stderr)
    print(
        f"{os.cpu_count()} cores, {options.threads} threads, load average {os.getloadavg()[0]:.1f} at the start\n"
    )
    print(
        "| rows | side | ms a query, median (quartiles) | ms of work | ours, exact / this side | recall@10 | "
        "built in s |"
    )
    print("|--:|---|--:|--:|--:|--:|--:|")
    whole = np.load(options.vectors, mmap_mode="r") if options.vectors else None
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            if whole is not None:
                queries = whole[-200:].astype(np.float32)[: options.queries]
                rows = min(rows, len(whole) - 200)
                made = np.ascontiguousarray(whole[:rows])
            else:
                made = clustered(rows + options.queries, options.dim)
                queries, made = made[rows:].astype(np.float32), made[:rows]
            path = Path(folder) / "vectors.npy"
            np.save(path, made)
            del made
            measure(np.load(path, mmap_mode="r"), queries, faiss, rows <= options.graphs_to)
            if whole is not None and rows == len(whole) - 200:
                break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\nload average {os.getloadavg()[0]:.1f} at the end; peak memory {peak:.1f} GiB, of all sides together"
    )


if __name__ == "__main__":
    main()
