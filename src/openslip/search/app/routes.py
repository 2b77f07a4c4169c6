"""The answer to each path."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openslip.data.labelled import prompts
from openslip.errors import ConfigError, SlipError
from openslip.evaluation.features import has_text, require_text
from openslip.search.app import columns, openapi, places, requests
from openslip.search.app.bodies import HELD, Room, body_of, unless_gone
from openslip.search.app.pictures import MOST_PIXELS, Pictures, Shown, no_row, prepared
from openslip.search.app.refusals import AGAIN, ClientGone, Json, Refusal, encoded, refused
from openslip.search.app.requests import SentTerm
from openslip.search.app.worker import Answer, Recent, Worker
from openslip.search.hits import Hits
from openslip.search.index import ABOUT, Index
from openslip.search.query import Term, check_text, notes_of

WAITING, PREPARED, LOOKING = 256, 1024, 2048
"""The most requests that are computed or wait, pictures in these requests, and pictures on their way to clients."""
SLICE = 64
"""Prompts of `/classify` that are computed at a time, so that other requests get in between."""
CLASSES = 16
"""Sets of names whose embeddings are kept."""
CELL, LIST = 2000, 100
"""The most characters of a text, and values of a list, that are sent of captions and columns."""
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Service:
    """The service of one index: the answers to all paths, and the threads that compute them.

    max_upload: the most bytes of a picture from a client. Raises what `Index.model` does. `app` is the application.
    """

    def __init__(self, index: Index, *, max_upload: int = 20_000_000) -> None:
        self.index, self.max_upload = index, max_upload
        self.model = index.model
        self.version = _version(index)
        self.worker = Worker(index)
        self.pictures = Pictures(index)
        self.bodies = Room(HELD, "Other clients are sending pictures, and there is no room for more")
        self.waiting = Room(WAITING, f"{WAITING} requests are waiting already")
        self.prepared = Room(PREPARED, f"{PREPARED:,} pictures from clients are waiting already")
        self.looking = Room(LOOKING, f"{LOOKING:,} pictures are on their way already")
        self._pool = ThreadPoolExecutor(4, "serve")
        self._classes: Recent[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = Recent(CLASSES)
        self._static = dict(_static())
        self._columns: list[dict[str, Any]] | None = None
        self._map: bytes | Refusal | None = None
        threading.Thread(target=self._look, name="map", daemon=True).start()
        self.app = Starlette(
            routes=[
                *(Route(path, self._file, methods=["GET"]) for path in ("/", "/docs", "/static/{name}")),
                Route("/about", self._about, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
                Route("/map", self._places, methods=["GET"]),
                Route("/record/{row}", self._record, methods=["GET"]),
                Route("/picture/{row}", self._picture, methods=["GET"]),
                Route("/thumbnail/{row}", self._thumbnail, methods=["GET"]),
                Route("/search", self._post(self._search), methods=["POST"]),
                Route("/embed", self._post(self._embed), methods=["POST"]),
                Route("/classify", self._post(self._classify), methods=["POST"]),
            ],
            exception_handlers={SlipError: _on_error, HTTPException: _on_http, Exception: _on_mistake},
        )

    def close(self) -> None:
        """End the threads."""
        self.worker.close()
        self._pool.shutdown(cancel_futures=True)

    def _look(self) -> None:
        """Look at the columns, and make the map, in the background because this may take a while."""
        try:
            self._columns = columns.described(self.index)
            found = places.places(self.index)
            x, y = (np.round(found.places[:, i].astype(np.float64), 5).tolist() for i in (0, 1))
            self._map = encoded({"made_of": found.made_of, "rows": found.rows.tolist(), "x": x, "y": y})
        except Exception as error:  # searching works without the columns' choices and without a map
            self._columns = self._columns or []
            self._map = Refusal(500, "The map cannot be made", cause=str(error) or type(error).__name__)

    async def _aside(self, call: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *given)

    def _post(
        self, answer: Callable[[dict[str, Any]], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint that reads a request and answers it."""

        async def endpoint(request: Request) -> Response:
            kind = request.headers.get("content-type", "")
            most = self.max_upload
            if kind.startswith("application/json"):  # with base64
                most = most * 4 // 3 + 1_000_000
            try:
                async with body_of(request, most, self.bodies) as body:
                    with self.waiting.place():
                        address = request.query_params.multi_items()
                        values = await self._aside(requests.values_of, kind, body, address)
                        return await unless_gone(request, answer(values))
            except ClientGone:
                return Response(status_code=499)

        return endpoint

    async def _search(self, values: dict[str, Any]) -> Response:
        asked = requests.searching(values)
        async with self._terms(asked.terms) as terms:
            found = await asyncio.wrap_future(self.worker.search(terms, asked.search))
        return Json(await self._aside(self._found, terms, found))

    async def _embed(self, values: dict[str, Any]) -> Response:
        asked = requests.embedding(values)
        sent = [
            *(SentTerm(text=text) for text in asked.texts),
            *(SentTerm(image=image) for image in asked.images),
        ]
        async with self._terms(sent) as terms:
            vectors = (await asyncio.wrap_future(self.worker.embed(terms))).tolist()
        count = len(asked.texts)
        return Json({"dim": self.index.dim, "texts": vectors[:count], "images": vectors[count:]})

    async def _classify(self, values: dict[str, Any]) -> Response:
        asked = requests.classifying(values)
        require_text(self.model, "Classification by names")
        for row in asked.rows:
            self._check_row(row)
        classes = await self._weights(asked.names, asked.templates)
        vectors = self.index.vectors[list(asked.rows)].astype(np.float32)
        async with self._terms([SentTerm(image=image) for image in asked.images]) as terms:
            if terms:
                vectors = np.concatenate([await asyncio.wrap_future(self.worker.embed(terms)), vectors])
        logits = self.model.logit_scale * vectors @ classes.T
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        best = np.argsort(-shares, axis=1, kind="stable")[:, : asked.top]
        results = [
            [{"name": asked.names[i], "probability": float(row[i])} for i in order]
            for row, order in zip(shares, best)
        ]
        count = len(asked.images)
        return Json({"images": results[:count], "rows": results[count:]})

    async def _weights(self, names: tuple[str, ...], templates: tuple[str, ...]) -> np.ndarray:
        """Return the embeddings of classes (C, D) as `evaluation.zeroshot.classifier` makes them."""
        if (names, templates) not in self._classes:
            texts = [prompts.fill(template, name) for name in names for template in templates]
            parts = []
            for start in range(0, len(texts), SLICE):
                some = [Term(text=text) for text in texts[start : start + SLICE]]
                parts.append(await asyncio.wrap_future(self.worker.embed(some)))
            mean = np.concatenate(parts).reshape(len(names), len(templates), -1).mean(axis=1)
            length = np.linalg.norm(mean, axis=1, keepdims=True)
            self._classes[names, templates] = mean / np.maximum(length, 1e-12)
        return self._classes.used((names, templates))

    @asynccontextmanager
    async def _terms(self, sent: Sequence[SentTerm]) -> AsyncIterator[list[Term]]:
        """Yield terms as the worker takes them. Pictures among them take room as long as the block runs."""
        with self.prepared.place(sum(bool(one.image) for one in sent)):
            yield await asyncio.gather(*map(self._term, sent))

    async def _term(self, sent: SentTerm) -> Term:
        """Return a term as the worker takes it. Raises the error of a term that cannot be used."""
        if sent.text:
            check_text(self.index, sent.text)
            return Term(sent.weight, text=sent.text)
        if sent.image:
            pixels = await self._aside(prepared, self.model.preprocess, sent.image)
            return Term(sent.weight, picture=pixels)
        if sent.vector is not None:
            if sent.vector.shape != (self.index.dim,):
                raise ConfigError(
                    f"A vector to search for must have {self.index.dim} numbers", got=f"{len(sent.vector)}"
                )
            return Term(sent.weight, vector=sent.vector)
        if sent.row is None:
            raise ConfigError("A picture in the request is empty")
        self._check_row(sent.row)
        return Term(sent.weight, row=sent.row)

    def _check_row(self, row: int) -> None:
        if row >= len(self.index):
            raise no_row(self.index, row)

    def _row(self, request: Request) -> int:
        """Return the row in a path. Raises Refusal for anything else."""
        text = request.path_params["row"]
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise no_row(self.index, text)
        self._check_row(int(text))
        return int(text)

    def _found(self, terms: Sequence[Term], answer: Answer) -> dict[str, Any]:
        """Return the hits with their records, and notes on the terms."""
        scores = np.zeros(len(answer.rows)) if answer.scores is None else answer.scores
        hits = self._hits(answer.rows, scores)
        if answer.scores is None:
            hits = [hit | {"score": None} for hit in hits]
        return {
            "among": answer.among,
            "more": answer.more,
            "hits": hits,
            "notes": notes_of(self.model, terms),
            "newer": self._newer(),
        }

    def _hits(self, rows: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        return [_shortened(hit.as_json()) for hit in Hits(self.index, rows, scores, len(rows))]

    def _newer(self) -> bool:
        """Whether `slip embed` has written the index again. The server serves the index that was there at its start."""
        return _version(self.index) != self.version

    async def _about(self, _: Request) -> Response:
        about = self.index.about
        return Json(
            {
                "name": self.index.folder.resolve().name,
                "version": self.version,
                "pictures": len(self.index),
                "dim": self.index.dim,
                "model": self.model.config.name,
                "model_path": about["model"]["spec"],
                "source": about["source"]["name"],
                "text": has_text(self.model),
                "columns": self._columns,
                "newer": self._newer(),
                "limits": {"bytes": self.max_upload, "pixels": MOST_PIXELS, "top": requests.TOP},
            }
        )

    async def _openapi(self, request: Request) -> Response:
        return Json(openapi.described(self.index, self.max_upload))

    async def _places(self, _: Request) -> Response:
        if self._map is None:
            return Json({"state": "The map is being made"}, 202, {"retry-after": str(AGAIN)})
        if isinstance(self._map, Refusal):
            raise self._map
        return Response(self._map, 200, {"cache-control": "no-store"}, "application/json")

    async def _record(self, request: Request) -> Response:
        found = await self._aside(self._hits, np.array([self._row(request)]), np.zeros(1))
        return Json(found[0] | {"score": None})

    async def _picture(self, request: Request) -> Response:
        return await self._shown(request, self.pictures.whole)

    async def _thumbnail(self, request: Request) -> Response:
        return await self._shown(request, self.pictures.thumbnail)

    async def _shown(self, request: Request, make: Callable[[int], Shown]) -> Response:
        with self.looking.place():
            shown: Shown = await self._aside(make, self._row(request))
        kept = request.query_params.get("v") == self.version
        tag = shown.tag
        headers = {
            "etag": tag,
            "cache-control": "private, max-age=86400, immutable" if kept else "private, no-cache",
        }
        if tag in request.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        return Response(shown.content, 200, headers, shown.kind)

    async def _file(self, request: Request) -> Response:
        path = request.url.path
        name = {"/": "index.html", "/docs": "docs.html"}.get(path) or request.path_params["name"]
        if name not in self._static or (name.endswith(".html") and path not in ("/", "/docs")):
            raise HTTPException(404)
        content, tag = self._static[name]
        headers = {"etag": tag, "cache-control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        return Response(content, 200, headers, KINDS[PurePosixPath(name).suffix] + "; charset=utf-8")


def _static() -> list[tuple[str, tuple[bytes, str]]]:
    """Return the files of the page by their names, each with its content and its ETag."""
    here = [file for file in files("openslip.search.app").joinpath("static").iterdir() if file.is_file()]
    shared = files("openslip.report").joinpath("templates", "tokens.css")
    found = []
    for file in (*here, shared):
        content = file.read_bytes()
        found.append((file.name, (content, f'"{hashlib.sha256(content).hexdigest()[:24]}"')))
    return found


def _version(index: Index) -> str:
    """Return a hash that changes when `slip embed` writes the index again; "" while there is no index."""
    try:
        found = (index.folder / ABOUT).stat()
    except OSError:
        return ""
    return hashlib.sha256(f"{found.st_mtime_ns} {found.st_size} {found.st_ino}".encode()).hexdigest()[:12]


def _shortened(value: Any) -> Any:
    """Return a value of JSON with its long texts and lists cut."""
    if isinstance(value, str):
        return value if len(value) <= CELL else value[:CELL] + "…"
    if isinstance(value, list):
        return [_shortened(one) for one in value[:LIST]]
    return {name: _shortened(one) for name, one in value.items()} if isinstance(value, dict) else value


async def _on_error(_: Request, error: Exception) -> Response:
    return refused(error if isinstance(error, SlipError) else SlipError(str(error)))


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return refused(Refusal(405, "The path does not take this method", got=request.method))
    return refused(
        Refusal(status, "There is nothing at this path", got=request.url.path, fix="`/docs` lists all paths")
    )


async def _on_mistake(_: Request, error: Exception) -> Response:
    """Answer a request that failed because of a bug in slip; the server prints the traceback."""
    return refused(
        Refusal(
            500,
            "The request failed because of a bug in slip",
            fix="See the traceback in the terminal of `slip serve`",
        )
    )
