"""What the paths answer: the same as the calls of Python."""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openslip.classifier import ZeroShotClassifier
from openslip.encoder import Encoder
from openslip.search.app import columns, routes
from openslip.search.embed import embed
from openslip.search.index import Index
from openslip.search.query import Term
from openslip.search.where import Filter, rows_where
from search.app.served import COUNT, EVIL, Client, add_columns, jpeg, running
from toys import ToySource, make_tiny_config, with_loss


def base(content: bytes) -> str:
    return base64.b64encode(content).decode()


def found(client: Client, **asked: Any) -> list[tuple[int, float]]:
    reply = client.post("/search", asked)
    assert reply.status == 200, reply.body
    return [(hit["row"], hit["score"]) for hit in reply.json["hits"]]


def test_text_pictures_rows_vectors_and_mixtures_find_what_the_index_finds(
    client: Client, index: Index
) -> None:
    vector = np.random.default_rng(0).standard_normal(index.dim)
    asked: list[tuple[dict[str, Any], list[Term]]] = [
        ({"text": "a red square"}, [Term(text="a red square")]),
        ({"image": base(jpeg(0))}, [Term(picture=jpeg(0))]),
        ({"image": "data:image/jpeg;base64," + base(jpeg(0))}, [Term(picture=jpeg(0))]),
        ({"terms": [{"row": 5}]}, [Term(row=5)]),
        ({"terms": [{"row": 5, "weight": -1}]}, [Term(-1.0, row=5)]),
        ({"terms": [{"vector": vector.tolist()}]}, [Term(vector=vector)]),
        (
            {"text": "blue", "terms": [{"row": 3, "weight": -0.5}, {"image": base(jpeg(1)), "weight": 2}]},
            [Term(text="blue"), Term(-0.5, row=3), Term(2.0, picture=jpeg(1))],
        ),
    ]
    for body, terms in asked:
        expected = index.search(terms, top=7)
        rows, scores = zip(*found(client, **body, top=7))
        assert list(rows) == expected.rows.tolist()
        np.testing.assert_allclose(scores, expected.scores, atol=1e-6)


def test_pages_of_answers_follow_one_another(client: Client, index: Index) -> None:
    whole = found(client, text="green", top=30)
    parts = [found(client, text="green", top=12, offset=offset) for offset in (0, 12, 24)]
    assert [one for part in parts for one in part][:30] == whole
    replies = [
        client.post("/search", {"text": "green", "top": 20, "offset": n}).json for n in (0, 39, 40, 41)
    ]
    assert [(reply["more"], len(reply["hits"])) for reply in replies] == [
        (True, 20),
        (True, 20),
        (False, 20),
        (False, 19),
    ]


def test_a_threshold_ends_the_answer(client: Client) -> None:
    scores = [score for _, score in found(client, text="green", top=COUNT)]
    least = (scores[9] + scores[10]) / 2
    reply = client.post("/search", {"text": "green", "top": COUNT, "threshold": least}).json
    assert [hit["score"] for hit in reply["hits"]] == scores[:10]
    assert not reply["more"]
    assert client.post("/search", {"text": "green", "threshold": 1}).json["hits"] == []


def test_without_terms_pictures_come_in_their_order(client: Client) -> None:
    assert found(client, top=3, offset=2) == [(2, None), (3, None), (4, None)]
    some = [{"column": "colour", "operator": "=", "value": "blue"}]
    assert [row for row, _ in found(client, filters=some, top=3)] == [2, 5, 8]


def test_filters_are_those_of_the_index(client: Client, index: Index) -> None:
    for asked in (
        [("price", "<", 10)],
        [("price", ">=", 50), ("colour", "in", ["red", "blue"])],
        [("sold", "=", True)],
        [("caption", "contains", "NUMBER 1")],
        [("note", "=", "note 3' OR 1=1 --")],
        [("colour", "is null", None)],
    ):
        sent: list[dict[str, Any]] = [dict(zip(("column", "operator", "value"), one)) for one in asked]
        reply = client.post("/search", {"text": "red", "filters": sent, "top": COUNT}).json
        expected = index.search("red", filters=[Filter(**one) for one in sent], top=COUNT)
        assert [hit["row"] for hit in reply["hits"]] == expected.rows.tolist()
        assert reply["among"] == expected.among


def test_a_record_comes_with_its_captions_and_columns_and_its_text_is_text(client: Client) -> None:
    hit = client.post("/search", {"offset": 7, "top": 1}).json["hits"][0]
    assert (hit["row"], hit["score"]) == (7, None)
    assert hit["captions"] == [EVIL]
    assert hit["columns"] == {"price": 7.5, "colour": "green", "sold": False, "note": "note 7"}
    assert hit["path"].endswith("007.jpg")


def test_a_text_of_a_client_is_never_a_path(client: Client, index: Index) -> None:
    for text in ("/etc/passwd", "./a.jpg", str(index.folder / "index.json"), '"a" + ./b.png'):
        expected = index.search([Term(text=text)], top=3)
        assert [row for row, _ in found(client, text=text, top=3)] == expected.rows.tolist()


def test_what_there_is_to_say_of_a_text_is_said(client: Client) -> None:
    assert client.post("/search", {"text": "short", "top": 1}).json["notes"] == []
    notes = client.post("/search", {"text": "many words " * 40, "top": 1}).json["notes"]
    assert "is left out" in notes[0]


def test_long_texts_of_records_have_an_end() -> None:
    found = routes._shortened({"a": "x" * 5000, "b": [["y" * 3000] * 200], "c": 1, "d": None})
    assert (len(found["a"]), len(found["b"][0]), len(found["b"][0][0])) == (2001, 100, 2001)
    assert (found["c"], found["d"]) == (1, None)


def test_a_model_without_text_searches_by_pictures(tmp_path: Path) -> None:
    model = Encoder.from_config(with_loss(make_tiny_config(), "simclr"))
    embed(model, ToySource(9), tmp_path / "vectors", precision="fp32")
    index = Index.open(tmp_path / "vectors", model=model)
    with running(index) as (_, client):
        assert not client.get("/about").json["text"]
        for path, body in (
            ("/search", {"text": "red"}),
            ("/embed", {"texts": ["red"]}),
            ("/classify", {"names": ["red"], "rows": [0]}),
        ):
            reply = client.post(path, body)
            assert (reply.status, "text" in reply.json["error"]) == (400, True)
        expected = index.search([Term(picture=jpeg(0))], top=3).rows.tolist()
        assert [row for row, _ in found(client, image=base(jpeg(0)), top=3)] == expected
        reply = client.get("/picture/0")  # of a source that a program handed in
        assert (reply.status, "cannot be opened again" in reply.json["error"]) == (404, True)


def test_a_picture_as_the_body_takes_options_from_the_address(client: Client, index: Index) -> None:
    reply = client.post("/search?top=4", jpeg(2), Content_Type="image/jpeg").json
    assert [hit["row"] for hit in reply["hits"]] == index.search([Term(picture=jpeg(2))], top=4).rows.tolist()


def test_embeddings_are_those_of_the_model(client: Client, index: Index) -> None:
    reply = client.post("/embed", {"texts": ["one", "two"], "images": [base(jpeg(0)), base(jpeg(1))]}).json
    np.testing.assert_allclose(reply["texts"], index.model.encode_text(["one", "two"], numpy=True), atol=1e-6)
    np.testing.assert_allclose(
        reply["images"], index.model.encode_image([jpeg(0), jpeg(1)], numpy=True), atol=1e-6
    )
    alone = client.post("/embed", jpeg(0), Content_Type="application/octet-stream").json
    np.testing.assert_allclose(alone["images"], reply["images"][:1], atol=1e-6)


def test_probabilities_are_those_of_the_classifier(client: Client, index: Index) -> None:
    names, templates = ["red", "green", "a cat"], ["a {}.", "{}"]
    expected = ZeroShotClassifier(index.model, names, templates)([jpeg(0), jpeg(1)]).numpy()
    asked = {
        "names": names,
        "templates": templates,
        "images": [base(jpeg(0)), base(jpeg(1))],
        "rows": [4],
        "top": 3,
    }
    for _ in range(2):  # the second time the names are known
        reply = client.post("/classify", asked).json
        for answer, row in zip(reply["images"], expected):
            assert [one["name"] for one in answer] == [names[i] for i in np.argsort(-row)]
            np.testing.assert_allclose([one["probability"] for one in answer], sorted(row)[::-1], atol=1e-5)
    assert len(reply["rows"]) == 1
    alone = client.post("/classify?name=red&name=a%20cat&top=1", jpeg(0), Content_Type="image/jpeg").json
    assert len(alone["images"][0]) == 1


def test_about_tells_what_is_served(client: Client) -> None:
    deadline = time.monotonic() + 60
    while (about := client.get("/about").json)["columns"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (about["pictures"], about["dim"], about["text"], about["newer"]) == (COUNT, 8, True, False)
    kinds = {column["name"]: column["kind"] for column in about["columns"]}
    assert kinds == {
        "caption": "text",
        "price": "number",
        "colour": "choice",
        "sold": "truth",
        "note": "text",
    }
    price = next(column for column in about["columns"] if column["name"] == "price")
    assert (price["least"], price["most"]) == (0.5, COUNT - 0.5)


def test_columns_that_nobody_can_compare_are_left_out(collection: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(collection, tmp_path / "copy")
    add_columns(folder, half=np.zeros(COUNT, np.float16), whole=[*range(COUNT)], nothing=[None] * COUNT)
    names = [one["name"] for one in columns.described(Index.open(folder))]
    assert names == ["caption", "price", "colour", "sold", "note", "whole"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/search", {"text": " "}, 400, "not empty"),
        ("/search", {"text": "x" * 10_001}, 400, "at most 10,000 characters"),
        ("/search", {"text": 7}, 400, "in quotes"),
        ("/search", {"txt": "a"}, 400, "Did you mean 'text'"),
        ("/search", {"terms": [{"text": "a", "row": 1}]}, 400, "one of"),
        ("/search", {"terms": [{"row": 1, "weight": 0}]}, 400, "cancel"),
        ("/search", {"terms": [{"row": 1}, {"row": 1, "weight": -1}]}, 400, "cancel"),
        ("/search", {"terms": [{"row": COUNT}]}, 404, "no such row"),
        ("/search", {"terms": [{"row": -1}]}, 400, "whole number"),
        ("/search", {"terms": [{"row": True}]}, 400, "whole number"),
        ("/search", {"terms": [{"row": 0}] * 65}, 400, "at most 64"),
        ("/search", {"terms": [{"vector": [1, 2]}]}, 400, "8 numbers"),
        ("/search", {"terms": [{"vector": ["a"]}]}, 400, "list of numbers"),
        ("/search", {"terms": [{"vector": [0] * 8}]}, 400, "finite numbers"),
        ("/search", {"text": "a", "threshold": 1.5}, 400, "from -1 to 1"),
        ("/search", {"text": "a", "top": 0}, 400, "`top` must be a whole number"),
        ("/search", {"text": "a", "top": 501}, 400, "`top` must be a whole number"),
        ("/search", {"text": "a", "offset": 10**9}, 400, "`offset`"),
        ("/search", {"filters": [{"column": "prise", "operator": "<", "value": 1}]}, 400, "Did you mean 'price'"),
        ("/search", {"filters": [{"column": "price", "operator": "; DROP", "value": 1}]}, 400, "Known:"),
        ("/search", {"filters": [{"column": "price", "operator": "<", "value": "x"}]}, 400, "cannot be compared"),
        ("/search", {"filters": [{"column": "price", "operator": "<", "value": {"a": 1}}]}, 400, "a number"),
        ("/search", {"filters": [{"column": "price", "operator": "in", "value": []}]}, 400, "list of 1"),
        ("/search", {"image": "no base64!"}, 400, "base64"),
        ("/search", b"{", 400, "not valid JSON"),
        ("/search", b"[" * 100_000, 400, "not valid JSON"),
        ("/search", b'{"text": NaN}', 400, "in quotes"),
        ("/search", b'"a"', 400, "object"),
        ("/embed", {}, 400, "nothing to embed"),
        ("/embed", {"texts": ["a"] * 65}, 400, "at most 64"),
        ("/classify", {"names": ["a"]}, 400, "no picture"),
        ("/classify", {"names": [], "rows": [0]}, 400, "no names"),
        ("/classify", {"names": ["a", "a"], "rows": [0]}, 400, "cannot be told apart"),
        ("/classify", {"names": ["a"], "templates": ["no place"], "rows": [0]}, 400, "{}"),
        ("/classify", {"names": [f"n{i}" for i in range(1000)], "templates": [f"{i} {{}}" for i in range(5)],
                       "rows": [0]}, 400, "prompts"),
        ("/classify", {"names": ["a"], "rows": [COUNT]}, 404, "no such row"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_words(
    client: Client, path: str, body: Any, status: int, words: str
) -> None:
    reply = client.post(path, body, Content_Type="application/json")
    assert (reply.status, words in reply.json["error"]) == (status, True), reply.body
    assert reply.headers["content-type"] == "application/json"


def test_other_kinds_of_bodies_paths_and_methods_are_refused_in_words(client: Client) -> None:
    assert client.post("/search", b"text=a", Content_Type="application/x-www-form-urlencoded").status == 415
    assert client.post("/search", b"{}", Content_Type="text/plain").status == 415
    assert client.get("/search").status == 405
    assert "does not take this method" in client.get("/search").json["error"]
    for path in ("/nothing", "/static/../routes.py", "/static/%2e%2e/routes.py", "/picture/x", "/picture/..%2f..",
                 "/static/index.html", "//etc/passwd", "/picture/-1", "/static/"):  # fmt: skip
        assert client.get(path).status == 404, path


def test_conditions_hold_for_the_records_that_are_open_even_if_others_take_their_place(
    index: Index, collection: Any, tmp_path: Any
) -> None:
    import pyarrow.parquet as pq

    folder = shutil.copytree(collection, tmp_path / "copy")
    opened = Index.open(folder)
    before = rows_where(opened, filters=[Filter("price", "<", 5)])
    table = pq.read_table(folder / "records.parquet")
    (folder / "records.parquet").unlink()
    pq.write_table(table.slice(0, 10), folder / "records.parquet")
    assert before is not None
    np.testing.assert_array_equal(rows_where(opened, filters=[Filter("price", "<", 5)]), before)
