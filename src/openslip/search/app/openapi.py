"""The description of the API, in the form of OpenAPI 3.1. `/docs` shows it, and tests send its examples."""

from __future__ import annotations

from typing import Any

import openslip
from openslip.search.app import requests
from openslip.search.index import Index
from openslip.search.query import LONGEST, MOST
from openslip.search.where import OPERATORS

_Json = dict[str, Any]
_ROW = {"name": "row", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}


def described(index: Index, max_upload: int) -> _Json:
    """Return the description of the API of an index's server."""
    megabytes = f"{max_upload / 1e6:g} MB"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "openslip",
            "version": openslip.__version__,
            "description": f"Search {len(index):,} pictures, embed texts and pictures, and classify pictures. Requests "
            f"are JSON, or one picture as the body, of at most {megabytes}. Answers are JSON. The answer to a request "
            "that fails has an `error` that tells the cause and what to do.",
        },
        "paths": {
            "/search": {"post": _search()},
            "/embed": {"post": _embed(index.dim)},
            "/classify": {"post": _classify()},
            "/thumbnail/{row}": {"get": _picture("A picture of the index, small: a JPEG of 256 pixels.")},
            "/picture/{row}": {"get": _picture("A picture of the index, as it is.")},
            "/record/{row}": {
                "get": {
                    "summary": "The record of a picture of the index.",
                    "parameters": [_ROW],
                    "responses": {
                        "200": _json("As in a search, without score.", _ref("Hit")),
                        "404": _json("There is no such row.", _ref("Error")),
                    },
                }
            },
            "/map": {
                "get": {
                    "summary": "The place of each picture on the map.",
                    "responses": {
                        "200": _json(
                            "`rows`, `x` and `y` are of equal length. Most places lie from 0 to 1. `made_of` is "
                            "`columns` for the records' columns x and y, or `components` for the two directions in "
                            "which embeddings differ most.",
                            _object(
                                made_of={"type": "string"},
                                rows=_list_of({"type": "integer"}),
                                x=_list_of({"type": "number"}),
                                y=_list_of({"type": "number"}),
                            ),
                        ),
                        "202": _json("The map is being made. Ask again.", _object(state={"type": "string"})),
                    },
                }
            },
            "/about": {
                "get": {
                    "summary": "The index that is served: the number of pictures, the model, columns and limits.",
                    "responses": {
                        "200": _json(
                            "`text`: whether one can search by text. `newer`: whether the index has been written again "
                            "since the server started. `columns` is null until the server has looked at the columns.",
                            {"type": "object"},
                        )
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This description.",
                    "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"})},
                }
            },
        },
        "security": [{}, {"token": []}],  # where other machines reach the server
        "components": {
            "schemas": {"Term": _term(index.dim), "Filter": _filter(), "Hit": _hit(), "Error": _error()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _search() -> _Json:
    fields = _object(
        text={"type": "string", "maxLength": LONGEST, "description": "A text, as one term of weight 1."},
        image={"type": "string", "description": "A picture in base64, as one term of weight 1."},
        terms=_list_of(_ref("Term"), MOST, "Other terms. Without a term, pictures are in their order."),
        filters=_list_of(_ref("Filter"), requests.FILTERS, "Conditions that all must hold."),
        top=_number("integer", 1, requests.TOP, 10, "How many pictures at most."),
        offset=_number("integer", 0, requests.FARTHEST, 0, "How many to skip, for the next page."),
        threshold={"type": "number", "minimum": -1, "maximum": 1, "description": "The least score."},
    )
    answer = _object(
        among={"type": "integer", "description": "How many pictures the conditions hold for."},
        more={"type": "boolean", "description": "Whether more hits follow."},
        newer={
            "type": "boolean",
            "description": "Whether the index has been written again since the server started.",
        },
        hits=_list_of(_ref("Hit")),
        notes=_list_of({"type": "string"}, description="Notes on the request."),
    )
    return _post(
        "The most similar pictures to a text, a picture, or a mixture.",
        "With a picture as the body, `top`, `offset` and `threshold` go into the address.",
        fields,
        {
            "a text": {"text": "a red dress", "top": 3},
            "a mixture": {
                "text": "a dress",
                "terms": [{"row": 0, "weight": 0.5}, {"text": "long sleeves", "weight": -1}],
                "top": 3,
            },
            "conditions": {"filters": [{"column": "key", "operator": "contains", "value": "1"}], "top": 2},
        },
        "Hits, the most similar first; at equal scores the lower row first.",
        answer,
        address=("top", "offset", "threshold"),
    )


def _embed(dim: int) -> _Json:
    return _post(
        "Embeddings of texts and pictures.",
        "With a picture as the body, `images` has the one embedding of that picture.",
        _object(
            texts=_list_of({"type": "string", "maxLength": LONGEST}, requests.TEXTS),
            images=_list_of({"type": "string"}, requests.IMAGES, "Pictures in base64."),
        ),
        {"texts": {"texts": ["a red dress", "a blue shirt"]}},
        f"For each text and picture, an embedding of {dim} numbers and length 1.",
        _object(
            dim={"type": "integer"},
            texts=_list_of(_list_of({"type": "number"})),
            images=_list_of(_list_of({"type": "number"})),
        ),
    )


def _classify() -> _Json:
    answers = _list_of(_list_of(_object(name={"type": "string"}, probability={"type": "number"})))
    return _post(
        "Which of the given names fits a picture best.",
        "With a picture as the body, `name` (once for each name) and `top` go into the address.",
        _object(
            names=_list_of({"type": "string"}, requests.NAMES, "The names, each once."),
            templates=_list_of(
                {"type": "string"}, requests.TEMPLATES, "Sentences with `{}` where a name goes."
            ),
            images=_list_of({"type": "string"}, requests.IMAGES, "Pictures in base64."),
            rows=_list_of({"type": "integer"}, requests.TEXTS, "Rows of the index."),
            top=_number("integer", 1, requests.NAMES, 5, "How many names for each picture."),
        ),
        {"rows": {"names": ["dress", "shirt", "shoe"], "rows": [0, 1], "top": 2}},
        "The most probable names for each picture. The probabilities of all names add up to 1, even if no name "
        "fits.",
        _object(images=answers, rows=answers),
        address=("name", "template", "top"),
    )


def _post(
    summary: str,
    description: str,
    fields: _Json,
    examples: _Json,
    answer: str,
    schema: _Json,
    address: tuple[str, ...] = (),
) -> _Json:
    binary = {"schema": {"type": "string", "contentMediaType": "image/jpeg"}}
    return {
        "summary": summary,
        "description": description,
        "parameters": [{"name": name, "in": "query", "schema": {"type": "string"}} for name in address],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": fields,
                    "examples": {name: {"value": value} for name, value in examples.items()},
                },
                "image/*": binary,
                "application/octet-stream": binary,
            },
        },
        "responses": {
            "200": _json(answer, schema),
            "400": _json("Something in the request is wrong.", _ref("Error")),
            "404": _json("There is no such row.", _ref("Error")),
            "413": _json("The request is too large.", _ref("Error")),
            "415": _json(
                "A picture of the request cannot be used, or the Content-Type is unknown.", _ref("Error")
            ),
            "503": _json("The server is busy. Ask again after the seconds in Retry-After.", _ref("Error")),
        },
    }


def _picture(summary: str) -> _Json:
    return {
        "summary": summary,
        "parameters": [_ROW],
        "responses": {
            "200": {"description": "The picture.", "content": {"image/*": {}}},
            "404": _json("There is no such row, or its picture has gone or changed.", _ref("Error")),
        },
    }


def _term(dim: int) -> _Json:
    found = _object(
        text={"type": "string", "maxLength": LONGEST},
        image={"type": "string", "description": "A picture in base64."},
        row={"type": "integer", "minimum": 0, "description": "The row of a picture of the index."},
        vector=_list_of({"type": "number"}, dim, f"An embedding of {dim} numbers."),
        weight=_number("number", -requests.WEIGHT, requests.WEIGHT, 1, "A negative one searches away."),
    )
    return found | {"description": "One of `text`, `image`, `row` and `vector`, with a weight."}


def _filter() -> _Json:
    return _object(
        column={"type": "string"},
        operator={"type": "string", "enum": list(OPERATORS), "default": "="},
        value={"description": "A text, a number, true or false; for `in` a list of these."},
    )


def _hit() -> _Json:
    return _object(
        row={"type": "integer"},
        score={"type": ["number", "null"], "description": "Cosine similarity, from -1 to 1."},
        key={"type": "string"},
        path={"type": "string", "description": "Of the file, empty for a picture in a shard or table."},
        captions=_list_of({"type": "string"}),
        columns={"type": "object", "description": "Your own columns."},
    )


def _error() -> _Json:
    return _object(
        error={"type": "string", "description": "The whole message."},
        what={"type": "string", "description": "What happened."},
        fix={"type": "string", "description": "What to do."},
    )


def _object(**fields: _Json) -> _Json:
    return {"type": "object", "properties": fields}


def _list_of(items: _Json, most: int = 0, description: str = "") -> _Json:
    more = ({"maxItems": most} if most else {}) | ({"description": description} if description else {})
    return {"type": "array", "items": items, **more}


def _number(kind: str, least: float, most: float, usual: float, description: str) -> _Json:
    return {"type": kind, "minimum": least, "maximum": most, "default": usual, "description": description}


def _json(description: str, schema: _Json) -> _Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}
