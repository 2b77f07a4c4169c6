"""The page in a Chromium: type, drop, click, press keys, and look."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import browser as browsers
import serving
from openslip.search.app.server import Server
from openslip.search.index import Index
from openslip.search.query import Term
from openslip.search.where import Filter
from search.app.served import COUNT, EVIL, Client, jpeg, running

pytestmark = pytest.mark.skipif(browsers.found() is None, reason="no Chromium in PATH")

QUIET = "!document.querySelector('#grid').hasAttribute('aria-busy') && document.querySelector('#status').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    found = browsers.Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@contextmanager
def page(browser: browsers.Browser, client: Client, path: str = "/", **given: Any) -> Iterator[browsers.Page]:
    """Open the page within the block, in which it must ask no other server, and have nothing to complain about."""
    here = f"http://127.0.0.1:{client.port}"
    with browser.page(here + path, **given) as found:
        found.until(QUIET)
        yield found
        assert found.complaints == []
        assert [
            address for address in found.asked if not address.startswith((here + "/", "data:", "blob:"))
        ] == []


def rows(found: browsers.Page) -> list[int]:
    return [
        int(row)
        for row in found.value("[...document.querySelectorAll('.hit')].map((one) => one.dataset.row)")
    ]


def searched(found: browsers.Page, expected: Any) -> None:
    """Wait until the page shows these rows."""
    want = ",".join(str(row) for row in list(expected))
    found.until(f"[...document.querySelectorAll('.hit')].map((one) => one.dataset.row).join() === '{want}'")


def address(**said: Any) -> str:
    return "/?" + urllib.parse.urlencode(
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}
    )


def test_what_is_typed_is_searched_for_and_back_leads_back(
    browser: browsers.Browser, client: Client, index: Index
) -> None:
    with page(browser, client) as found:
        assert rows(found) == [*range(48)]
        assert found.texts("#status") == [f"48 of {COUNT} pictures, in their order"]
        found.press("/")
        found.type("a red square")
        found.press("Enter")
        red = index.search([Term(text="a red square")], top=48)
        searched(found, red.rows)
        scores = [float(text) for text in found.texts(".score")]
        np.testing.assert_allclose(scores, red.scores, atol=6e-4)
        assert found.value("location.search") == "?q=a+red+square"
        found.value("document.querySelector('#text').select()")
        found.type("blue")
        found.press("Enter")
        searched(found, index.search([Term(text="blue")], top=48).rows)
        found.value("history.back()")
        searched(found, red.rows)
        assert found.value("document.querySelector('#text').value") == "a red square"
        found.click("#more")
        searched(found, index.search([Term(text="a red square")], top=COUNT).rows)
        assert found.value("document.querySelector('#more').hidden")


def test_a_picture_that_is_dropped_is_searched_for_and_kept_by_the_tab(
    browser: browsers.Browser, client: Client, index: Index
) -> None:
    with page(browser, client) as found:
        found.drop(jpeg(3), "mine.jpg", "image/jpeg")
        expected = index.search([Term(picture=jpeg(3))], top=48).rows
        searched(found, expected)
        assert found.texts(".term .name") == ["mine.jpg"]
        found.until("document.querySelector('.term img').src.startsWith('data:image/jpeg')")
        there = found.value("location.href")
        found.go(there)  # loaded anew
        searched(found, expected)
        with browser.page(there) as other:  # where nobody dropped it
            other.until("!document.querySelector('#notice').hidden")
            assert "dropped in another tab" in other.texts("#notice")[0]
            assert other.texts(".term") == []
            assert other.value("location.search") != ""


def test_what_is_no_picture_is_said_to_be_none(browser: browsers.Browser, client: Client) -> None:
    with page(browser, client) as found:
        found.drop(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "evil.jpg", "image/jpeg")
        found.until("!document.querySelector('#notice').hidden")
        assert "SVG" in found.texts("#notice")[0]
        found.drop(b"text", "notes.txt", "text/plain")
        found.until("document.querySelector('#notice').innerText.includes('notes.txt is not a picture')")
        found.drop(bytes(300_000), "large.png", "image/png")
        found.until("document.querySelector('#notice').innerText.includes('takes at most 0.2 MB')")
        # The browser itself complains of the status of the first.
        assert [text for text in found.complaints if "415" not in text] == []
        found.complaints.clear()


def test_more_and_less_like_this_make_a_mixture_with_weights(
    browser: browsers.Browser, client: Client, index: Index
) -> None:
    with page(browser, client, "/?q=red") as found:
        first, second = rows(found)[:2]
        found.click(f'.hit[data-row="{first}"] .more')
        terms = [Term(text="red"), Term(1.0, row=first)]
        searched(found, index.search(terms, top=48).rows)
        found.until(QUIET)
        found.click(f'.hit[data-row="{second}"] .less')
        terms.append(Term(-0.5, row=second))
        searched(found, index.search(terms, top=48).rows)
        assert found.value("[...document.querySelectorAll('.term input')].map((one) => one.value)") == [
            "1",
            "-0.5",
        ]
        assert len(found.texts(".term.less")) == 1
        found.value("(() => { const one = document.querySelector('.term input'); one.value = 2; "
                    "one.dispatchEvent(new Event('change')) })()")  # fmt: skip
        terms[1] = Term(2.0, row=first)
        searched(found, index.search(terms, top=48).rows)
        found.click(".term.less button")
        searched(found, index.search(terms[:2], top=48).rows)
        there = found.value("location.search")
        assert json.loads(urllib.parse.parse_qs(there)["terms"][0]) == [["row", first, 2]]


def test_keys_lead_everywhere(browser: browsers.Browser, client: Client, index: Index) -> None:
    with page(browser, client, "/?q=red") as found:
        here = "document.activeElement.closest('.hit')?.dataset.row"
        shown = [str(row) for row in rows(found)]
        found.press("/")
        assert found.value("document.activeElement.id") == "text"
        found.press("ArrowDown")
        assert found.value(here) == shown[0]
        columns = found.value(
            "getComputedStyle(document.querySelector('#grid')).gridTemplateColumns.split(' ').length"
        )
        for key, expected in (
            ("ArrowRight", 1),
            ("ArrowRight", 2),
            ("ArrowLeft", 1),
            ("ArrowDown", 1 + columns),
        ):
            found.press(key)
            assert found.value(here) == shown[expected]
        outline = found.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        found.press("Enter")
        found.until("document.querySelector('#viewer').open")
        found.press("ArrowRight")
        found.until(f"document.querySelector('#whole').src.includes('/picture/{shown[2 + columns]}')")
        found.press("Escape")
        found.until("!document.querySelector('#viewer').open")
        assert found.value(here) == shown[1 + columns]
        found.press("m")
        chosen = int(shown[1 + columns])
        searched(found, index.search([Term(text="red"), Term(row=chosen)], top=48).rows)
        found.press("l")  # on the picture that has the focus still, so that half of its weight goes
        searched(found, index.search([Term(text="red"), Term(0.5, row=chosen)], top=48).rows)
        found.press("Escape")
        assert found.value("document.activeElement.id") == "text"
        found.press("Escape")
        found.until("location.search.indexOf('q=') < 0")
        found.press("Escape")
        searched(found, range(48))
        tabbed = set()
        for _ in range(12):
            found.press("Tab")
            tabbed.add(found.value("document.activeElement.id || document.activeElement.className"))
        assert {"pick", "filtering", "open", "more", "less"} <= tabbed


def test_filters_and_threshold_and_nothing_found(
    browser: browsers.Browser, client: Client, index: Index
) -> None:
    change = "one.dispatchEvent(new Event('change', {bubbles: true}));"
    price = """const one = document.querySelector('[aria-label="price, to"]'); one.value = 20;"""
    blue = """const all = [...document.querySelectorAll('.choices label')];
        const one = all.find((one) => one.innerText.startsWith('blue')).querySelector('input'); one.checked = true;"""
    with page(browser, client, "/?q=red") as found:
        found.click("#filtering")
        found.until("document.querySelectorAll('#filters fieldset').length === 5")
        found.value(f"{{{price} {change}}}")
        few = [Filter("price", "<=", 20)]
        searched(found, index.search("red", filters=few, top=48).rows)
        found.value(f"{{{blue} {change}}}")
        searched(found, index.search("red", filters=[*few, Filter("colour", "in", ["blue"])], top=48).rows)
        assert found.texts("#filtered") == ["2"]
        assert found.texts("#status") == ["6 of 6 pictures that fit the filters, the most similar first"]
        found.click("#unfilter")
        searched(found, index.search("red", top=48).rows)
        assert found.value("document.querySelector('[aria-label=\"price, to\"]').value") == ""
    with page(browser, client, address(q="red", min="0.999")) as found:
        assert "No picture has a score of 0.999 or more" in found.texts("#nothing")[0]
        found.click("#nothing button")
        searched(found, index.search("red", top=48).rows)
    with page(browser, client, address(filters=[["price", ">", 1000]])) as found:
        assert "No picture fits the filters" in found.texts("#nothing")[0]


def test_filters_of_a_server_that_ends_say_so(browser: browsers.Browser, index: Index) -> None:
    with running(index) as (server, client):
        while server.service._columns is None:
            client.get("/about")
        columns, server.service._columns = server.service._columns, None
        there = address(filters=[["colour", "in", 5]])  # which somebody has edited
        with browser.page(f"http://127.0.0.1:{client.port}{there}") as found:
            found.until("document.querySelector('#notice').innerText.includes('of in must be a list')")
            server.service._columns = columns
            found.click("#filtering")
            found.until("document.querySelectorAll('#filters fieldset').length === 5")
            found.click("#filtering")
        server.service._columns = None
        with browser.page(f"http://127.0.0.1:{client.port}/") as found:
            found.until(QUIET)
            found.click("#filtering")
            assert "Looking at the columns" in found.texts("#filters")[0]
            server.should_exit = True
            found.until("document.querySelector('#notice').innerText.includes('The server does not answer')")


def test_texts_of_records_are_text(browser: browsers.Browser, client: Client) -> None:
    with page(browser, client) as found:
        assert found.texts(".hit[data-row='7'] .caption") == [EVIL]
        found.click(".hit[data-row='7'] .open")
        found.until("document.querySelector('#whole').complete")
        assert found.texts("#viewed") == [EVIL]
        assert found.value("document.querySelectorAll('#grid script, #viewer script').length") == 0
        assert found.value("document.title") == "vectors · openslip"


def test_the_map_can_be_walked(browser: browsers.Browser, client: Client) -> None:
    ink = """(() => { const map = document.querySelector('#map');
        const copy = new OffscreenCanvas(map.width, map.height).getContext('2d', {willReadFrequently: true});
        copy.drawImage(map, 0, 0);
        const all = copy.getImageData(0, 0, map.width, map.height).data;
        let seen = 0; for (let i = 3; i < all.length; i += 4) seen += all[i] > 0;
        return seen / (all.length / 4) })()"""
    with page(browser, client) as found:
        found.click('[data-view="map"]')
        found.until(
            "document.querySelector('#mapwords').innerText.startsWith('60 pictures, placed by the two')"
        )
        assert found.until(f"{ink} > 0.01 && {ink}") < 0.6
        found.until("location.search === '?view=map'")
        found.value("document.querySelector('#map').focus()")
        for key in ("+", "+", "ArrowRight", "ArrowUp"):
            found.press(key)
        there = found.until("new URLSearchParams(location.search).get('at')")
        found.press("Enter")
        found.until("document.querySelector('#viewer').open && document.querySelector('#whole').complete")
        caption = found.texts("#viewed")
        found.press("Escape")
        box = found.value("(() => { const one = document.querySelector('#map').getBoundingClientRect(); "
                          "return [one.x + one.width / 2, one.y + one.height / 2] })()")  # fmt: skip
        found.until("!document.querySelector('#viewer').open")
        found.press("Enter")
        found.until("document.querySelector('#viewer').open")
        assert found.texts("#viewed") == caption
        found.click('[data-act="more"]')
        found.until("document.querySelectorAll('.term').length === 1")
        assert found.value("new URLSearchParams(location.search).get('view')") == "map"
        found.call("Input.dispatchMouseEvent", type="mouseWheel", x=box[0], y=box[1], deltaX=0, deltaY=-300)
        found.until(f"new URLSearchParams(location.search).get('at') !== {there!r}")


@pytest.mark.parametrize("path", ["/", "/?q=red&view=map", "/docs"])
def test_phones_and_the_dark_have_the_page_too(
    browser: browsers.Browser, client: Client, path: str, tmp_path: Path
) -> None:
    with browser.page(f"http://127.0.0.1:{client.port}{path}", width=390, height=844) as found:
        found.until("document.querySelectorAll('.hit, #paths section').length > 5")
        if path == "/":
            found.click("#filtering")
            found.until("document.querySelectorAll('#filters fieldset').length > 1")
        assert found.value("document.documentElement.scrollWidth") == 390
        for scheme in ("light", "dark"):
            found.media(prefers_color_scheme=scheme)
            found.screenshot(tmp_path / "shot.png")
            pixels = np.asarray(Image.open(tmp_path / "shot.png").convert("L"))
            assert (pixels[:, :4].mean() > 200) == (scheme == "light")
            assert pixels.std() > 10  # something is to be seen
        assert found.complaints == []


def test_the_page_has_names_for_those_who_do_not_see_it(browser: browsers.Browser, client: Client) -> None:
    with page(browser, client, "/?q=red") as found:
        found.click("#filtering")
        found.until("document.querySelectorAll('#filters fieldset').length === 5")
        nodes = found.call("Accessibility.getFullAXTree")["nodes"]
        named = {
            "button",
            "link",
            "textbox",
            "searchbox",
            "checkbox",
            "radio",
            "spinbutton",
            "application",
            "group",
        }
        unnamed = [
            node["role"]["value"]
            for node in nodes
            if not node["ignored"]
            and node["role"]["value"] in named
            and not node.get("name", {}).get("value")
        ]
        assert unnamed == []
        roles = {node["role"]["value"] for node in nodes if not node["ignored"]}
        assert {"search", "status", "main", "list", "heading"} <= roles


def test_a_server_that_has_ended_is_said_to_have(browser: browsers.Browser, index: Index) -> None:
    with running(index) as (server, client), browser.page(f"http://127.0.0.1:{client.port}/") as found:
        found.until(QUIET)
        server.should_exit = True
        found.until("fetch('/about').then(() => false, () => true)")
        found.press("/")
        found.type("red")
        found.press("Enter")
        found.until("!document.querySelector('#notice').hidden")
        assert found.texts("#notice span") == ["The server does not answer. Is slip serve still running?"]
        assert found.texts("#notice button") == ["Try again"]


def test_the_token_lets_the_page_in(browser: browsers.Browser, index: Index) -> None:
    with running(index, token="abcdefgh-ABCDEFGH_0123") as (server, client):
        with browser.page(f"http://127.0.0.1:{client.port}/") as found:
            assert "needs the token" in found.texts("h1")[0]
        with page(browser, client, f"/?token={server.token}&q=red") as found:
            searched(found, index.search([Term(text="red")], top=48).rows)
            assert found.value("location.search") == "?q=red"
            assert found.value("document.cookie") == ""  # no script reads it
            found.until("document.querySelector('.hit img').naturalWidth > 0")


class Evil(serving.Handler):
    """A page of another server on this machine, and so of the same site."""

    def do_GET(self) -> None:
        content = b"<!doctype html><title>evil</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_a_page_of_another_server_gets_nothing(
    browser: browsers.Browser, server: tuple[Server, Client]
) -> None:
    there = f"http://127.0.0.1:{server[1].port}"
    http, elsewhere = serving.serve(Evil)
    try:
        with browser.page(elsewhere + "/") as found:
            for script in (
                f"fetch('{there}/about')",
                f"fetch('{there}/about', {{mode: 'no-cors'}})",
                f"fetch('{there}/search', {{method: 'POST', mode: 'no-cors', body: '{{}}'}})",
                f"new Promise((done, fail) => {{ const one = new Image(); one.onload = done; one.onerror = fail; "
                f"one.src = '{there}/thumbnail/0' }})",
                f"new Promise((done, fail) => {{ const one = document.createElement('script'); one.onload = done; "
                f"one.onerror = fail; one.src = '{there}/static/api.js'; document.head.append(one) }})",
            ):
                assert found.value(f"({script}).then(() => 'something', () => 'nothing')") == "nothing", (
                    script
                )
    finally:
        http.shutdown()
        http.server_close()
