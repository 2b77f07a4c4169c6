"""The description of the API is of the API: its paths, its limits, its examples."""

from __future__ import annotations

from typing import Any

from openslip.search.app import requests
from openslip.search.app.server import Server
from search.app.served import Client


def test_all_paths_of_the_api_are_described_and_no_others(server: tuple[Server, Client]) -> None:
    routes = {
        (route.path, method.lower())  # type: ignore[attr-defined]
        for route in server[0].service.app.routes
        for method in route.methods  # type: ignore[attr-defined]
        if method != "HEAD"
    }
    pages = {("/", "get"), ("/docs", "get"), ("/static/{name}", "get")}
    paths = server[1].get("/openapi.json").json["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == routes - pages


def test_the_examples_are_answered_with_what_is_described(client: Client) -> None:
    described = client.get("/openapi.json").json
    for path, methods in described["paths"].items():
        if "post" not in methods:
            continue
        content = methods["post"]["requestBody"]["content"]["application/json"]
        answer = methods["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        for example in content["examples"].values():
            reply = client.post(path, example["value"])
            assert reply.status == 200, reply.body
            assert {*reply.json} == {*answer["properties"]}
            for hit in reply.json.get("hits", ()):
                assert {*hit} == {*described["components"]["schemas"]["Hit"]["properties"]}


def test_what_is_described_is_read_and_nothing_else(client: Client) -> None:
    """Each field's name is known to the reader, which names all that it knows in the error about another."""
    described = client.get("/openapi.json").json
    for path, read in (
        ("/search", requests.searching),
        ("/embed", requests.embedding),
        ("/classify", requests.classifying),
    ):
        fields: dict[str, Any] = described["paths"][path]["post"]["requestBody"]["content"][
            "application/json"
        ]["schema"]
        names = {*fields["properties"]}
        error = ""
        try:
            read({"qqqqqqqq": 1})
        except Exception as raised:
            error = str(raised)
        known = {name.strip(" .") for name in error.partition("Known:")[2].split(",")}
        assert names <= known
        assert known - names <= {"image"}  # which a picture as the body is


def test_every_reference_leads_somewhere(client: Client) -> None:
    described = client.get("/openapi.json").json

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for one in value.values() for found in references(one)]
        return [found for one in value for found in references(one)] if isinstance(value, list) else []

    found = references(described)
    assert found
    for reference in found:
        place = described
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]
