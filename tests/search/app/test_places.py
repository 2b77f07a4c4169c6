"""Where pictures lie on the map."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from openslip.search.app import places
from openslip.search.index import Index
from openslip.search.map import principal
from search.app.served import COUNT, Client, add_columns, running


def test_of_many_pictures_some_are_shown_evenly_spread() -> None:
    assert places.spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert places.spread(1000, 4).tolist() == [0, 250, 500, 750]
    found = places.spread(10**9 + 7, 50_000)
    assert (len(np.unique(found)), found.max() < 10**9 + 7) == (50_000, True)


def test_the_frame_holds_all_but_a_few_and_keeps_the_shape() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, (1000, 2)) * [20, 5] + [100, -7]
    values[0] = 1e6
    found = places.framed(values)
    inside = (found > -0.02) & (found < 1.02)
    assert inside.all(axis=1).mean() > 0.97
    spans = np.ptp(found[1:], axis=0)
    np.testing.assert_allclose(spans[0] / spans[1], 4, rtol=0.1)


def test_columns_of_the_records_take_the_place_of_components(collection: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(collection, tmp_path / "copy")
    x = [float(n) for n in range(COUNT)]
    add_columns(folder, x=x, y=[None if n == 3 else -n / 2 for n in range(COUNT)])
    found = places.places(Index.open(folder))
    assert found.made_of == "columns"
    assert found.rows.tolist() == [n for n in range(COUNT) if n != 3]
    assert (np.diff(found.places[:, 0]) > 0).all()
    assert (np.diff(found.places[:, 1]) < 0).all()


def test_few_and_equal_pictures_have_places_too() -> None:
    for vectors in (np.ones((1, 8)), np.ones((3, 8)), np.ones((4, 1))):
        found = places.framed(principal(vectors.astype(np.float16)))
        assert np.isfinite(found).all()


def test_without_a_map_one_can_search_nevertheless(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Index) -> None:
        raise MemoryError

    monkeypatch.setattr(places, "places", fail)
    with running(index) as (_, client):
        deadline = time.monotonic() + 60
        while (reply := client.get("/map")).status == 202:
            assert time.monotonic() < deadline
        assert (reply.status, "The map cannot be made" in reply.json["error"]) == (500, True)
        assert client.post("/search", {}).status == 200


def test_the_server_gives_the_map_when_it_is_made(client: Client, index: Index) -> None:
    deadline = time.monotonic() + 60
    while (reply := client.get("/map")).status == 202:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    expected = places.places(index)
    assert reply.json["made_of"] == "components"
    assert reply.json["rows"] == expected.rows.tolist()
    np.testing.assert_allclose(reply.json["x"], expected.places[:, 0], atol=1e-4)
