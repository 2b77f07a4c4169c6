"""The files of the page: what they name is there, they name nothing elsewhere, and the package has all of them."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from search.app.served import Client

STATIC = Path(str(files("openslip.search.app"))) / "static"
ROOT = Path(__file__).parents[3]
FILES = sorted(path.name for path in STATIC.iterdir())


def named(name: str) -> set[str]:
    """Return the files of the page that one of them loads."""
    text = (STATIC / name).read_text("utf-8")
    loaded = re.findall(r'(?:src|href)="/static/([^"]+)"', text)
    return {*loaded, *re.findall(r'from "\./([^"]+)"', text)}


def test_what_files_load_is_served_and_nothing_is_left_over(client: Client) -> None:
    loaded = {name for file in FILES for name in named(file)}
    assert loaded - {"tokens.css"} == {file for file in FILES if not file.endswith(".html")}
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
    for name in loaded:
        reply = client.get(f"/static/{name}")
        assert reply.status == 200, name
        assert reply.headers["content-type"] == kinds[Path(name).suffix]
        assert client.get(f"/static/{name}", If_None_Match=reply.headers["etag"]).status == 304


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_a_place_elsewhere_or_has_scripts_or_styles_within(name: str) -> None:
    text = (STATIC / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/|@import", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    if name.endswith(".html"):
        assert not re.findall(r"<style|style=|<script(?![^>]* src=)|\son[a-z]+=", text)


def test_every_element_that_scripts_look_for_is_in_the_page() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    docs = (STATIC / "docs.html").read_text("utf-8")
    for name in FILES:
        if name.endswith(".js"):
            text = (STATIC / name).read_text("utf-8")
            made = re.findall(r'\bid: "([^"]+)"', text)
            for wanted in {*re.findall(r'\$\("([^"]+)"\)', text)} - {*made} - {"unfilter"}:
                assert f'id="{wanted}"' in (docs if name == "docs.js" else page), (name, wanted)


def test_the_wheel_has_the_files() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    packed = {file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"openslip/search/app/static/{name}" for name in FILES} <= packed
    assert "openslip/report/templates/tokens.css" in packed
