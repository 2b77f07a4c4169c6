"""One thread that computes the requests of many clients together: embeddings by the model, and the nearest rows.

While the thread computes, new requests gather and become the next batch. So no request waits for others, and many
requests cost little more than one. Each request gets the result that `Index.search` alone would give.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from openslip.search import exact
from openslip.search.index import Index
from openslip.search.query import Term, vector_of
from openslip.search.where import Filter, rows_where

TOGETHER = 256
"""Terms that are computed together."""
TEXTS, CONDITIONS = 8192, 16
"""Texts whose embeddings are kept for later requests, and conditions whose rows are kept."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Search:
    """The rows that a request wants: `top` rows from `offset` on, in the order of their similarity."""

    top: int
    offset: int = 0
    filters: tuple[Filter, ...] = ()
    threshold: float | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a search. rows: (K,) int64. scores: (K,) float32; None for a request without terms, whose rows are
    in the order of the index. among: how many pictures the conditions hold for. more: whether more rows follow."""

    rows: np.ndarray
    scores: np.ndarray | None
    among: int
    more: bool


@dataclass(eq=False)
class _Job:
    """One request: terms, whose pictures are tensors (3, S, S), and the search, None for embeddings alone."""

    terms: Sequence[Term]
    search: Search | None
    result: Future[Any] = field(default_factory=Future)
    embedded: list[Term] = field(default_factory=list)


class Recent(OrderedDict[K, V]):
    """The `most` values that were used last."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)

    def used(self, key: K) -> V:
        """Return a value, and note that it was used."""
        self.move_to_end(key)
        return self[key]


class Worker:
    """The thread. `batches` has the number of jobs in each of the last hundred batches."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.batches: deque[int] = deque(maxlen=100)
        self._waiting: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._texts: Recent[str, np.ndarray] = Recent(TEXTS)
        self._among: Recent[str, np.ndarray | None] = Recent(CONDITIONS)
        self._thread = threading.Thread(target=self._work, name="search", daemon=True)
        self._thread.start()

    def search(self, terms: Sequence[Term], search: Search) -> Future[Answer]:
        """Submit a search. Pictures among the terms are tensors (3, S, S). A cancelled future is dropped."""
        return self._submit(_Job(terms, search))

    def embed(self, terms: Sequence[Term]) -> Future[np.ndarray]:
        """Submit texts and pictures to embed, (terms, D) float32 of length 1."""
        return self._submit(_Job(terms, None))

    def close(self) -> None:
        """End the thread, and cancel the requests that wait."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, job: _Job) -> Future[Any]:
        with self._wake:
            if self._closed:
                job.result.cancel()
            else:
                self._waiting.append(job)
                self._wake.notify()
        return job.result

    def _work(self) -> None:
        while jobs := self._next():
            self.batches.append(len(jobs))
            if not self._try(jobs) and len(jobs) > 1:
                for job in jobs:  # one job cannot be computed, and must not make the others fail
                    if not job.result.done():
                        self._try([job])
            jobs.clear()

    def _next(self) -> list[_Job]:
        """Wait for jobs, and return those to compute together; an empty list at the end."""
        with self._wake:
            while True:
                jobs, terms = list[_Job](), 0
                while self._waiting and (not jobs or terms + len(self._waiting[0].terms) <= TOGETHER):
                    job = self._waiting.popleft()
                    if job.result.set_running_or_notify_cancel():
                        jobs.append(job)
                        terms += len(job.terms)
                if self._closed:
                    for job in self._waiting:
                        job.result.cancel()
                    return []
                if jobs:
                    return jobs
                self._wake.wait()

    def _try(self, jobs: list[_Job]) -> bool:
        """Compute jobs together; return whether all succeeded. The error of a single job is its result."""
        try:
            self._embed(jobs)
            conditions: dict[str, list[_Job]] = {}
            for job in jobs:
                if job.search is None:
                    job.result.set_result(np.array([term.vector for term in job.embedded]))
                else:
                    conditions.setdefault(repr(job.search.filters), []).append(job)
            for condition, some in conditions.items():
                self._find(condition, some)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
            return False
        return True

    def _embed(self, jobs: list[_Job]) -> None:
        """Replace the texts and pictures of all jobs by embeddings, with one call of the model for each kind."""
        terms = [term for job in jobs for term in job.terms]
        texts = dict.fromkeys(term.text for term in terms if term.text)
        known = {text: self._texts.used(text) for text in texts if text in self._texts}
        if new := [text for text in texts if text not in known]:
            for text, vector in zip(new, self.index.model.encode_text(new, numpy=True)):
                known[text] = self._texts[text] = vector
        pixels: list[Any] = [term.picture for term in terms if term.picture is not None]
        pictures = iter(self.index.model.encode_image(torch.stack(pixels), numpy=True) if pixels else ())
        for job in jobs:
            job.embedded = [
                replace(term, text="", vector=known[term.text])
                if term.text
                else replace(term, picture=None, vector=next(pictures))
                if term.picture is not None
                else term
                for term in job.terms
            ]

    def _find(self, condition: str, jobs: list[_Job]) -> None:
        """Find the rows of jobs with the same condition, in one pass over the vectors."""
        if condition not in self._among:
            filters = jobs[0].search.filters if jobs[0].search else ()
            self._among[condition] = rows_where(self.index, filters=filters)
        among = self._among.used(condition)
        every = len(self.index) if among is None else len(among)
        queries, asked = list[np.ndarray](), list[_Job]()
        for job in jobs:
            if job.terms:
                queries.append(vector_of(self.index, job.embedded))
                asked.append(job)
            else:
                job.result.set_result(_in_order(job, among, every))
        if not asked:
            return
        most = max(job.search.offset + job.search.top + 1 for job in asked if job.search)
        found = exact.nearest(np.stack(queries), self.index.vectors, most, among)
        for job, rows, scores in zip(asked, found.rows, found.scores):
            job.result.set_result(_cut(job, rows, scores, every))


def _in_order(job: _Job, among: np.ndarray | None, every: int) -> Answer:
    search = job.search or Search(0)
    rows = np.arange(search.offset, min(search.offset + search.top, every))
    return Answer(rows if among is None else among[rows], None, every, search.offset + search.top < every)


def _cut(job: _Job, rows: np.ndarray, scores: np.ndarray, every: int) -> Answer:
    search = job.search or Search(0)
    if search.threshold is not None:
        rows, scores = rows[scores >= search.threshold], scores[scores >= search.threshold]
    end = search.offset + search.top
    return Answer(rows[search.offset : end], scores[search.offset : end], every, len(rows) > end)
