"""The pages as a browser shows them: on all screens and on paper, by keyboard, and to those who have it read out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import browser as browsers
from check_fakes import Odds
from openslip.data.labelled import open_labelled
from openslip.encoder import Encoder
from openslip.report import load_run, write_report
from openslip.report.data_page import page as page_of_data
from openslip.tools.check import check, judge
from report_fakes import CLASSES, Pictures, measure, write_run
from toys import make_tiny_config

pytestmark = pytest.mark.skipif(browsers.found() is None, reason="no Chromium in PATH")

STATES: dict[str, tuple[int, dict[str, Any]]] = {
    "light": (1280, {}),
    "dark": (1280, {"prefers_color_scheme": "dark"}),
    "phone": (390, {}),
    "small": (320, {"prefers_color_scheme": "dark"}),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    found = browsers.Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module", params=["report", "data"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    return (report(folder) if request.param == "report" else data_page(folder)).as_uri()


def report(folder: Path) -> Path:
    """Write a report that has every part: two runs that gave answers, pictures, and long names."""
    for k in range(30):
        place = folder / "birds" / "test" / f"{'a-rather-long-' * (k % 2)}kind-{k % 15}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), (8 * k, 40 * (k % 3), 90)).save(place / f"{k:02}.png")
    labelled = open_labelled(str(folder / "birds")).splits["test"]
    runs = []
    for seed, loss in enumerate(("clip", "clip + 1.0 * simclr")):
        write_run(folder / str(seed), loss)
        measure(folder / str(seed), seed, data=labelled)
        measure(folder / str(seed), seed, task="linear:kinds", classes=5)
        measure(folder / str(seed), seed, task="knn:many", classes=40, count=200, sure=False)
        runs.append(load_run(folder / str(seed)))
    return write_report(
        folder / "report.html",
        runs,
        title="Two ways",
        encoder=Encoder.from_config(make_tiny_config()),
        pictures=Pictures(),
        class_names=CLASSES,
        commands=[("Train longer", "slip train " + "--data.train a/very/long/path " * 8)],
    )


def data_page(folder: Path) -> Path:
    source = Odds()
    summary = check(source, processes=1)
    assert summary is not None
    (folder / "data.html").write_text(page_of_data(summary, judge(summary), source, view=64))
    return folder / "data.html"


@pytest.mark.parametrize("state", STATES)
def test_a_page_fits_its_window_and_asks_for_nothing(
    browser: browsers.Browser, address: str, state: str, tmp_path: Path
) -> None:
    width, media = STATES[state]
    with browser.page(address, width=width, **media) as page:
        assert page.value("document.documentElement.scrollWidth") <= width
        wide = """[...document.querySelectorAll('main *')].filter((one) =>
            one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.scroll, pre, .plane')
            && getComputedStyle(one).visibility !== 'hidden').map((one) => one.outerHTML.slice(0, 120))"""
        assert page.value(wide) == []
        page.screenshot(tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as image:
            dark = image.convert("L").resize((1, 1)).tobytes()[0] < 128
        assert dark == (media.get("prefers_color_scheme") == "dark")
        assert page.complaints == []
        assert [asked for asked in page.asked if not asked.startswith("data:")] == [address]


@pytest.mark.parametrize("width", [1280, 1000, 390])
def test_more_measurements_than_fit_beside_each_other_are_blocks(
    browser: browsers.Browser, tmp_path: Path, width: int
) -> None:
    """Three in a row on a wide page: nothing is scrolled to, no name is cut, and each number is below its heading."""
    runs = []
    for seed, loss in enumerate(("clip", "1.0 * simclr", "clip + 1.0 * simclr")):
        write_run(tmp_path / str(seed), loss)
        for task in range(8):
            measure(tmp_path / str(seed), seed, task=f"knn:set{task}", classes=3, count=60)
        runs.append(load_run(tmp_path / str(seed)))
    page_of = write_report(tmp_path / "report.html", runs, title="Many sets")
    with browser.page(page_of.as_uri(), width=width) as page:
        found = page.value("""(() => {
            const seen = (one) => one.getBoundingClientRect(), table = document.querySelector('table.results');
            const heads = [...table.querySelectorAll('thead th:not(.corner)')].map(seen);
            const rows = [...table.querySelectorAll('tbody tr')].map((row) => [...row.cells].slice(1));
            return {
                scrolled: table.parentElement.scrollWidth - table.parentElement.clientWidth,
                starts: [...new Set(heads.map((head) => Math.round(head.left)))].length,
                below: rows.every((row) => row.every((cell, n) => seen(cell).top >= heads[n].bottom - 1
                    && Math.abs(seen(cell).left - heads[n].left) < 2)),
                names: [...table.querySelectorAll('.method')].every((name) => name.scrollWidth <= name.clientWidth),
                rows: rows.length * rows[0].length,
            };
        })()""")
    assert found == {
        "scrolled": 0,
        "starts": 1 if width == 390 else 3,
        "below": True,
        "names": True,
        "rows": 24,
    }


def test_the_policy_forbids_what_would_be_asked_for(
    browser: browsers.Browser, address: str, tmp_path: Path
) -> None:
    """A page with a picture, a style, a script and a frame from elsewhere put into it asks for none."""
    elsewhere = (
        "<img src='http://127.0.0.1:9/a.png'><link rel='stylesheet' href='http://127.0.0.1:9/a.css'>"
        "<script>document.title = 'run'</script><script src='http://127.0.0.1:9/a.js'></script>"
        "<iframe src='http://127.0.0.1:9/'></iframe>"
    )
    place = tmp_path / "page.html"
    place.write_text(
        Path(address.removeprefix("file://")).read_text().replace("</main>", f"</main>{elsewhere}")
    )
    with browser.page(place.as_uri()) as page:
        page.until("document.readyState === 'complete'")
        page.value("fetch('http://127.0.0.1:9/b').catch(() => 0)")
        assert page.value("document.title") != "run"
        assert len(page.complaints) >= 5
        assert all("Content Security Policy" in complaint for complaint in page.complaints)


def test_a_page_prints_without_being_cut(browser: browsers.Browser, address: str) -> None:
    with browser.page(address, width=1280) as page:
        page.call("Emulation.setEmulatedMedia", media="print", features=[])
        page.size(700, 1000)  # A4 less its margins
        assert page.value("document.documentElement.scrollWidth") <= 700
        printed = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
        assert printed.startswith(b"%PDF")
        assert len(printed) > 10_000


WALK = """(() => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const name = (one) => one.outerHTML.slice(0, 100);
    return {
        language: document.documentElement.lang,
        mains: all('main').length,
        headings: all('h1, h2, h3, h4, h5, h6').map((one) => +one.tagName[1]),
        unnamed: all('section').filter((one) => !one.querySelector('h2')).map(name),
        silent: all('img').filter((one) => !one.alt.trim()).map(name),
        drawings: all('svg').filter((one) => !one.closest('[aria-hidden=true], [aria-label]')).map(name),
        unlabelled: all('[role=img], [role=region], [role=radiogroup]')
            .filter((one) => !one.getAttribute('aria-label').trim()).map(name),
        cells: all('th').filter((one) => !['row', 'col'].includes(one.scope)).map(name),
        headless: all('table.facts, table.results, table.matrix')
            .filter((one) => one.querySelector('thead') && !one.querySelector('tbody th, tbody td')).map(name),
        nested: all('ol, ul').filter((one) => [...one.children].some((child) => child.tagName !== 'LI')).map(name),
        twice: all('[id]').map((one) => one.id).filter((one, k, every) => every.indexOf(one) !== k),
    };
})()"""


def test_a_page_can_be_read_out(browser: browsers.Browser, address: str) -> None:
    with browser.page(address) as page:
        found = page.value(WALK)
    headings = found.pop("headings")
    assert (found.pop("language"), found.pop("mains"), headings[0]) == ("en", 1, 1)
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert headings.count(1) == 1
    assert {what: wrong for what, wrong in found.items() if wrong} == {}


def contrast(page: browsers.Page) -> list[str]:
    """Return the words whose colour differs too little from the page's (WCAG 2.2, 1.4.3), as far as that is known."""
    script = """(() => {
        const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const light = (colour) => {
            canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
            return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
        };
        const ground = (one) => {
            for (; one; one = one.parentElement) {
                const colour = getComputedStyle(one).backgroundColor;
                if (!/rgba\\(.*, 0\\)|transparent/.test(colour)) return colour;
            }
            return 'white';
        };
        const low = [];
        for (const one of document.querySelectorAll('main *')) {
            const words = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
            if (!words || !one.checkVisibility()) continue;
            const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) low.push(one.outerHTML.slice(0, 100));
        }
        return low;
    })()"""
    return page.value(script)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_page(browser: browsers.Browser, address: str, scheme: str) -> None:
    with browser.page(address, prefers_color_scheme=scheme) as page:
        page.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
        assert contrast(page) == []


FOCUSED = """(() => {
    const one = document.activeElement, shown = one.type === 'radio' ? one.nextElementSibling : one;
    const style = getComputedStyle(shown);
    return [one.tagName, one.type || '', style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 1];
})()"""


def test_everything_is_reached_by_keyboard_and_seen_there(browser: browsers.Browser, address: str) -> None:
    with browser.page(address) as page:
        page.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
        stops: list[Any] = []
        while len(stops) < 100:
            page.press("Tab")
            found = page.value(FOCUSED)
            if found[0] == "BODY":
                break
            stops.append(found)
        assert [stop for stop in stops if not stop[2]] == []
        tags = [tag for tag, *_ in stops]
        assert tags.count("SUMMARY") == page.value("document.querySelectorAll('summary').length")
        assert page.value("[...document.querySelectorAll('.scroll')].every((one) => one.tabIndex === 0)")
        if any(kind == "radio" for _, kind, _ in stops):
            assert (
                sum(kind == "radio" for _, kind, _ in stops) == 1
            )  # one stop, whatever the number of pictures


def test_the_map_is_gone_through_with_the_arrow_keys(browser: browsers.Browser, tmp_path: Path) -> None:
    with browser.page(report(tmp_path).as_uri()) as page:
        page.value("document.querySelector('.plane input').focus()")
        shown = """[...document.querySelectorAll('.plane span')].filter((one) => one.checkVisibility())
            .map((one) => one.innerText)"""
        assert page.value(shown) == []
        said = []
        for _ in range(2):
            page.press("ArrowRight")
            said += page.value(shown)
        captions = page.value("[...document.querySelectorAll('.plane img')].map((one) => one.alt)")
        assert said == captions[1:3]
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        radios = [node["name"]["value"] for node in tree if node.get("role", {}).get("value") == "radio"]
        assert radios == captions, json.dumps(radios)
