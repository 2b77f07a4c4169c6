"""Many clients at once, and clients that are slow, greedy, or gone."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from openslip.encoder import Encoder
from openslip.search.app import bodies
from openslip.search.app import server as servers
from openslip.search.app.server import Patient, Server
from openslip.search.app.worker import Search, Worker
from openslip.search.index import Index
from openslip.search.query import Term
from openslip.search.where import Filter
from search.app.served import COLOURS, COUNT, Client, jpeg, running

POST = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Have the model wait with texts until the block ends; give what it was asked for."""
    seen, go, real = list[list[str]](), threading.Event(), Encoder.encode_text

    def encode_text(self: Encoder, texts: list[str], **options: Any) -> Any:
        seen.append(texts)
        assert go.wait(60)
        return real(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode_text", encode_text)
    try:
        yield seen
    finally:
        go.set()


def test_fifty_clients_at_once_each_get_the_right_answer(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        {
            "text": f"a {COLOURS[n % 3]} square, number {n}",
            "terms": [{"row": n, "weight": 0.5 - n % 2}],
            "top": 3 + n % 5,
            "filters": [{"column": "price", "operator": ">", "value": n}] if n % 10 == 5 else [],
        }
        for n in range(50)
    ]
    with running(index) as (server, client), ThreadPoolExecutor(50) as clients:
        with held(monkeypatch):
            answers = [clients.submit(client.post, "/search", body) for body in asked]
            until(lambda: server.service.waiting.taken == 50)
            worker = server.service.worker
            until(lambda: sum(worker.batches) + len(worker._waiting) == 50)
        replies = [answer.result() for answer in answers]
        assert len(server.service.worker.batches) <= 3
        assert sum(server.service.worker.batches) == 50
    for n, (body, reply) in enumerate(zip(asked, replies)):
        terms = [Term(text=body["text"]), Term(0.5 - n % 2, row=n)]
        filters = [Filter("price", ">", n)] if n % 10 == 5 else []
        every = index.search(terms, top=COUNT, filters=filters)
        by_row = dict(zip(every.rows.tolist(), every.scores.tolist()))
        hits = reply.json["hits"]  # rounding depends on which texts are one batch, and so on who came when
        assert len({hit["row"] for hit in hits}) == min(body["top"], len(every))
        scores = [hit["score"] for hit in hits]
        np.testing.assert_allclose(scores, every.scores[: len(hits)], atol=1e-5)
        np.testing.assert_allclose(scores, [by_row[hit["row"]] for hit in hits], atol=1e-5)


def test_without_the_model_answers_are_those_of_the_index_to_the_bit(index: Index) -> None:
    worker = Worker(index)
    try:
        futures = [
            worker.search([Term(row=n), Term(-0.3, row=n + 1)], Search(5 + n, offset=n % 3))
            for n in range(20)
        ]
        for n, future in enumerate(futures):
            first, answer = n % 3, future.result(60)
            expected = index.search([Term(row=n), Term(-0.3, row=n + 1)], top=5 + n + first)
            np.testing.assert_array_equal(answer.rows, expected.rows[first:])
            np.testing.assert_array_equal(answer.scores, expected.scores[first:])
    finally:
        worker.close()


def test_an_error_is_that_of_one_request_alone(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Encoder.encode_text

    def encode_text(self: Encoder, texts: list[str], **options: Any) -> Any:
        if "bad" in texts:
            raise ValueError("bad text")
        return real(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode_text", encode_text)
    worker = Worker(index)
    try:
        with worker._wake:  # so that all are one batch
            texts = ["good", "bad", "fine"]
            found = [worker.search([Term(text=text)], Search(3)) for text in texts]
            found.append(worker.search([Term(text="good")], Search(3, filters=(Filter("no", "=", 1),))))
        with pytest.raises(ValueError, match="bad text"):
            found[1].result(60)
        with pytest.raises(Exception, match="no such column"):
            found[3].result(60)
        for n in (0, 2):
            assert (
                found[n].result(60).rows.tolist() == index.search([Term(text=texts[n])], top=3).rows.tolist()
            )
    finally:
        worker.close()


def test_a_closed_worker_cancels_what_waits(index: Index) -> None:
    worker = Worker(index)
    worker.close()
    assert worker.search([Term(row=0)], Search(1)).cancelled()


def test_more_requests_than_may_wait_are_sent_away_in_words(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(index) as (server, client), ThreadPoolExecutor(4) as clients:
        server.service.waiting.most = 4
        with held(monkeypatch):
            answers = [clients.submit(client.post, "/search", {"text": f"text {n}"}) for n in range(4)]
            until(lambda: server.service.waiting.taken == 4)
            for _ in range(3):
                reply = client.post("/search", {"text": "too late"})
                assert (reply.status, reply.headers["retry-after"]) == (503, "2")
                assert "are waiting already" in reply.json["error"]
            assert client.get("/thumbnail/0").status == 200
        assert [answer.result().status for answer in answers] == [200] * 4
        assert client.post("/search", {"text": "now"}).status == 200


def test_more_pictures_than_may_wait_are_sent_away_in_words(index: Index) -> None:
    image = base64.b64encode(jpeg(0)).decode()
    with running(index) as (server, client):
        server.service.prepared.most = 2
        for path, others in (("/embed", {}), ("/classify", {"names": ["a", "b"]})):
            assert client.post(path, {"images": [image] * 2, **others}).status == 200
            reply = client.post(path, {"images": [image] * 3, **others})
            assert (reply.status, reply.headers["retry-after"]) == (503, "2")
            assert "pictures from clients are waiting already" in reply.json["error"]
        assert server.service.prepared.taken == 0


def test_a_thousand_requests_at_once_are_each_answered(server: tuple[Server, Client]) -> None:
    body = json.dumps({"terms": [{"row": 3}], "top": 2}).encode()
    request = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body

    async def ask() -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server[1].port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]

    async def ask_all() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(ask() for _ in range(1000)))

    answers = asyncio.run(ask_all())
    counts = Counter(status for status, _ in answers)
    assert counts[200] + counts[503] == 1000
    assert counts[200] >= 200
    assert len({content for status, content in answers if status == 200}) == 1
    assert server[0].service.waiting.taken == 0


def connected(client: Client, sent: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", client.port), 30)
    made.sendall(sent)
    return made


def answer_of(one: socket.socket) -> bytes:
    parts = []
    try:
        while part := one.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_clients_that_never_finish_hold_nobody_up(client: Client, server: tuple[Server, Client]) -> None:
    unfinished = [connected(client, POST + b'Content-Length: 100\r\n\r\n{"te') for _ in range(40)]
    unfinished += [connected(client, b"") for _ in range(10)] + [connected(client, b"POST /sea")]
    try:
        until(lambda: len(server[0].server_state.connections) >= 51)
        assert client.post("/search", {"terms": [{"row": 1}]}).status == 200
    finally:
        for one in unfinished:
            one.close()
    until(lambda: server[0].service.bodies.taken == 0)


def test_clients_that_never_finish_are_ended(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE", 0.3)
    monkeypatch.setattr(bodies, "AWAY", 0.1)
    with running(index) as (server, client):
        stalled = connected(client, POST + b'Content-Length: 100\r\n\r\n{"te')
        assert b" 408 " in answer_of(stalled).partition(b"\r\n")[0]
        until(lambda: server.service.bodies.taken == 0)
        again = connected(client, b"GET /record/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert again.recv(1) == b"H"
        monkeypatch.setattr(servers, "BEGINNING", 0.3)  # only now: on a busy machine the others begin late
        for sent in (b"", b"POST /sea"):
            assert answer_of(connected(client, sent)) == b""
        again.sendall(b"GET /rec")
        assert answer_of(again).endswith(b"}")


def test_a_client_that_never_reads_holds_nobody_up_and_is_ended(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = b"GET /map HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(index) as (server, client):
        until(lambda: server.service._map is not None)
        server.service._map = b"0" * (16 << 20)
        monkeypatch.setattr(servers, "STUCK", 600)
        deaf = [connected(client, ask) for _ in range(5)]
        for one in deaf:
            assert one.recv(1) == b"H"  # so the answer is on its way
        assert client.post("/search", {"terms": [{"row": 1}]}).status == 200
        monkeypatch.setattr(servers, "STUCK", 0.3)
        deaf.append(connected(client, ask))
        assert deaf[-1].recv(1) == b"H"
        until(lambda: len(server.server_state.connections) == 5)
        for one in deaf:
            one.close()


def test_a_client_that_reads_slowly_keeps_its_connection() -> None:
    """By a clock that the test moves: some must be read each time, and not all of it."""
    unread, done = 1000, list[str]()
    timers = list[Callable[[], None]]()

    class Quiet(Patient):
        def __init__(self) -> None:
            self.flow = cast(Any, SimpleNamespace(pause_writing=lambda: None))
            self.loop = cast(Any, SimpleNamespace(call_later=later))
            transport = SimpleNamespace(
                get_write_buffer_size=lambda: unread, abort=lambda: done.append("ended")
            )
            self.transport = cast(Any, transport)

    def later(seconds: float, end: Callable[[], None]) -> Any:
        assert seconds == servers.STUCK
        timers.append(end)
        return SimpleNamespace(cancel=lambda: None)

    Quiet().pause_writing()
    for read in (100, 1, 889):
        unread -= read
        timers.pop()()
        assert not done
    timers.pop()()
    assert done == ["ended"]
    assert not timers


def test_a_body_that_is_too_large_is_refused_while_it_comes(
    client: Client, server: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 kB that may come, in base64 and with a JSON around it 1.3 MB."""
    announced = connected(client, POST + b"Expect: 100-continue\r\nContent-Length: 10000000000\r\n\r\n")
    assert b" 413 " in answer_of(announced).partition(b"\r\n")[0]
    monkeypatch.setattr(bodies, "AWAY", 0.2)
    endless = connected(client, POST + b"Transfer-Encoding: chunked\r\n\r\n")
    part = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with suppress(ConnectionError):  # when the server has closed it
        while True:
            endless.sendall(part)
    monkeypatch.setattr(bodies, "AWAY", 30)  # a busy machine sends slowly
    reply = client.post("/search", {"text": "x" * 10_000_000})
    assert reply.status == 413
    assert "--max-upload" in reply.json["error"]
    assert client.post("/embed", bytes(200_001), Content_Type="image/png").status == 413
    until(lambda: server[0].service.bodies.taken == 0)


def test_all_bodies_together_have_a_limit(
    client: Client, server: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "AWAY", 600)  # the body has come: nothing is waited for
    room = server[0].service.bodies
    room.take(room.most - 10)
    try:
        reply = client.post("/search", {"text": "a text that is longer"})
        assert reply.status == 503
        assert "no room" in reply.json["error"]
    finally:
        room.leave(room.most - 10)
    assert client.post("/search", {"text": "a text that is longer"}).status == 200


def test_nothing_is_computed_for_clients_that_have_gone(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(index) as (server, client), ThreadPoolExecutor(1) as clients:
        with held(monkeypatch) as seen:
            first = clients.submit(client.post, "/search", {"text": "first"})
            until(lambda: bool(seen))
            body = b'{"text": "gone"}'
            gone = connected(client, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: server.service.waiting.taken == 2)
            gone.close()
            until(lambda: server.service.waiting.taken == 1)
        assert first.result().status == 200
        assert client.post("/search", {"text": "last"}).status == 200
        assert [text for texts in seen for text in texts] == ["first", "last"]
