from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from openslip.errors import ConfigError, DataError
from openslip.search.where import Filter
from searched import index_of_pictures, some_vectors, write_index, write_pictures

COLUMNS = {
    "price": [float("nan"), 1.5, 2.5, None],
    "day": [datetime.date(2024, 5, 1)] * 4,
    "score": ["good"] * 4,
    "row": [9] * 4,
    "raw": [b"\0\xff"] * 4,
    "nested": [{"a": [datetime.datetime(2024, 5, 1), None]}] * 4,
}


def test_hits_are_the_records_in_the_order_of_their_scores(tmp_path: Path) -> None:
    vectors = some_vectors(40)
    index = write_index(tmp_path / "index", vectors)
    query = vectors[17].astype(np.float32)
    found = index.search(query, top=9)
    scores = vectors.astype(np.float64) @ query
    assert found.rows.tolist() == np.argsort(-scores, kind="stable")[:9].tolist()
    assert [hit.key for hit in found] == [f"k{row}" for row in found.rows]
    assert [hit.captions for hit in found] == [(f"picture {row}",) for row in found.rows]
    assert [hit.score for hit in found] == found.scores.tolist()
    assert (found[0].row, len(found), found.among) == (17, 9, 40)
    assert [hit.row for hit in found[2:4]] == found.rows[2:4].tolist()
    assert found.paths == [f"k{row}" for row in found.rows]
    assert repr(found) == "Hits(9 of 40 pictures)"


def test_columns_of_the_users_that_are_called_as_ours(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", some_vectors(4), COLUMNS, **{"class": ["cat"] * 4})
    found = index.search(0)
    hit = found[0]
    assert hit.row == 0
    assert hit.score == pytest.approx(1, abs=1e-3)
    assert hit.columns["score"] == "good"
    assert hit.columns["row"] == 9
    assert hit.columns["class"] == "cat"
    assert found.table.column_names[:2] == ["row", "score"]
    assert {"row_2", "score_2", "price"} < set(found.table.column_names)
    assert found.table["row"].to_pylist() == found.rows.tolist()
    assert found.table["score_2"].to_pylist() == ["good"] * 4


def test_a_hit_as_json(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", some_vectors(4), COLUMNS)
    hit = index.search(0)[0].as_json()
    assert json.loads(json.dumps(hit, allow_nan=False)) == hit
    assert hit["columns"] == {
        "price": None,
        "day": "2024-05-01",
        "score": "good",
        "row": 9,
        "raw": "AP8=",
        "nested": {"a": ["2024-05-01T00:00:00", None]},
    }
    assert (hit["row"], hit["key"], hit["path"], hit["captions"]) == (0, "k0", "", ["picture 0"])


def test_how_many_are_found(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    vectors = some_vectors(20)
    index = write_index(tmp_path / "index", vectors, {"price": range(20)})
    assert len(index.search(3)) == 10
    assert len(index.search(3, top=1000)) == 20
    scores = index.search(3, top=20).scores
    middle = float(scores[7])
    assert len(index.search(3, top=20, threshold=middle)) == 8
    assert len(index.search(3, threshold=1.0)) <= 1
    found = index.search(3, where="price >= 15", top=20)
    assert sorted(found.rows) == [15, 16, 17, 18, 19]
    assert found.among == 5
    assert sorted(index.search(3, where="price >= 15", filters=[Filter("price", "<", 17)]).rows) == [15, 16]
    nothing = index.search(3, where="price > 100")
    assert (len(nothing), nothing.among, list(nothing), nothing.paths) == (0, 0, [], [])
    assert nothing.table.num_rows == 0
    assert "0 of 0 pictures" in nothing._repr_html_()


@pytest.mark.parametrize(
    "options",
    [
        {"top": 0},
        {"top": -1},
        {"top": 2.5},
        {"threshold": float("nan")},
        {"threshold": 2},
        {"threshold": -1.1},
    ],
)
def test_numbers_out_of_range(tmp_path: Path, options) -> None:
    index = write_index(tmp_path / "index", some_vectors(4))
    with pytest.raises(ConfigError):
        index.search(0, **options)


def test_pictures_are_shown_in_a_notebook_and_captions_are_text(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, 4)
    captions = [["<script>alert(1)</script>"], [], ['" onerror="x'], ["x" * 100_000]]
    index = index_of_pictures(tmp_path / "index", paths, captions=captions)
    found = index.search(paths[1])
    assert found.rows[0] == 1
    assert found.scores[0] == pytest.approx(1, abs=1e-3)
    assert np.asarray(found.picture(0)).shape == (20, 17, 3)
    paths[3].unlink()
    paths[2].write_bytes(paths[1].read_bytes())
    html = index.search(paths[1])._repr_html_()
    assert "<script>" not in html
    assert '" onerror' not in html
    assert html.count("data:image/jpeg;base64,") == 2
    assert "not the one that was embedded" in html
    assert len(html) < 50_000
    with pytest.raises(DataError):
        found.picture(found.rows.tolist().index(3))
