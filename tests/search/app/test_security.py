"""Who gets an answer, and what binds the browsers that get one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openslip.errors import ConfigError
from openslip.search.app.security import HEADERS
from openslip.search.app.server import Server
from openslip.search.index import Index
from search.app.served import Client, running

TOKEN = "abcdefgh-ABCDEFGH_0123"


@pytest.fixture(scope="module")
def guarded(index: Index) -> Iterator[tuple[Server, Client]]:
    with running(index, token=TOKEN) as found:
        yield found


@pytest.mark.parametrize("path", ["/", "/docs", "/about", "/thumbnail/0", "/static/app.css", "/nothing"])
def test_every_answer_binds_the_browser(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "server" not in headers


@pytest.mark.parametrize(
    ("host", "let_in"),
    [
        ("localhost", True),
        ("LOCALHOST:1234", True),
        ("127.0.0.1:9", True),
        ("[::1]:80", True),
        ("localhost.", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("", False),
        ("0.0.0.0", False),
    ],
)
def test_only_this_machines_names_are_answered(client: Client, host: str, let_in: bool) -> None:
    for path in ("/", "/about"):
        reply = client.get(path, Host=host)
        assert reply.status == (200 if let_in else 403)
        if not let_in and path == "/":
            assert b"<h1>" in reply.body
    assert client.post("/search", {}, Host=host).status == (200 if let_in else 403)


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),
        ({"Origin": "http://{here}", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://{here}"}, True),  # behind what encrypts
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://{here}.evil.example"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
    ],
)
def test_other_pages_cannot_use_the_api(client: Client, headers: dict[str, str], let_in: bool) -> None:
    sent = {name: value.format(here=f"127.0.0.1:{client.port}") for name, value in headers.items()}
    assert client.ask("POST", "/search", {}, sent).status == (200 if let_in else 403)
    assert client.ask("GET", "/thumbnail/0", headers=sent).status == (200 if let_in else 403)


def test_a_link_may_lead_to_the_page(client: Client) -> None:
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.ask("GET", "/?q=1:red", headers=linked).status == 200
    assert client.ask("GET", "/", headers=linked | {"Sec-Fetch-Mode": "no-cors"}).status == 403


def test_no_page_of_another_origin_is_told_that_it_may_read(client: Client) -> None:
    for method in ("OPTIONS", "GET", "POST"):
        reply = client.ask(method, "/search", b"{}", {"Origin": "http://evil.example"})
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_with_a_token_nothing_is_answered_without_it(guarded: tuple[Server, Client]) -> None:
    _, client = guarded
    for path in ("/", "/docs", "/about", "/openapi.json", "/thumbnail/0", "/map"):
        assert client.get(path).status == 401
        assert client.get(path, Authorization="Bearer " + TOKEN[:-1]).status == 401
        assert (
            client.get(path, Authorization="Bearer ünrecht".encode("latin-1").decode("latin-1")).status == 401
        )
        assert client.get(path, Cookie="x; openslip-0=" + TOKEN).status == 401
        assert TOKEN.encode() not in client.get(path).body
    assert client.post("/search", {}).status == 401
    assert client.get("/about?token=" + TOKEN).status == 401  # which would stand in logs
    assert client.get("/about", Authorization="Bearer " + TOKEN).status == 200
    assert client.get("/", Authorization="Bearer " + TOKEN).status == 200
    assert client.get("/static/app.css").status == 200  # of the page that says what is missing


def test_the_page_takes_the_token_from_its_address_into_a_cookie(guarded: tuple[Server, Client]) -> None:
    server, client = guarded
    assert server.address == f"http://127.0.0.1:{server.port}/?token={TOKEN}"
    assert client.get("/?token=wrong").status == 401
    reply = client.get(f"/?q=1:red&token={TOKEN}&view=map")
    assert (reply.status, reply.headers["location"]) == (303, "/?q=1%3Ared&view=map")
    cookie = reply.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    kept = cookie.split(";")[0]
    assert client.get("/about", Cookie=f"other=1; {kept}").status == 200
    assert client.post("/search", {}, Cookie=kept).status == 200


def test_where_others_reach_the_server_there_is_a_token_and_any_name(index: Index) -> None:
    with running(index, host="0.0.0.0") as (server, client):
        assert not server.alone
        assert len(server.token) >= 32
        assert client.get("/about", Host="my-machine").status == 401
        assert client.get("/about", Host="my-machine", Authorization=f"Bearer {server.token}").status == 200


@pytest.mark.parametrize("token", ["short", "with space in it 1234", "x" * 200, "semi;colon;1234567"])
def test_a_token_that_is_weak_or_no_cookie_is_refused(index: Index, token: str) -> None:
    with pytest.raises(ConfigError, match="A token has 16"):
        Server(index, port=0, token=token)
