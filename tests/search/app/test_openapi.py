"""The description of the API is of the API: its paths, its limits, its examples."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from openslip.search.app.server import Server
from search.app.served import Client, jpeg


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
    schemas = described["components"]["schemas"]
    body = {
        path: methods["post"]["requestBody"]["content"]["application/json"]["schema"]
        for path, methods in described["paths"].items()
        if "post" in methods
    }
    other = {"qqqqqqqq": 1}
    for path, asked, schema in (
        *((path, other, schema) for path, schema in body.items()),
        ("/search", {"terms": [other]}, schemas["Term"]),
        ("/search", {"filters": [other]}, schemas["Filter"]),
    ):
        error = client.post(path, asked).json["error"]
        known = {name.strip(" .") for name in error.partition("Known:")[2].split(",")}
        names = {*schema["properties"]}
        assert names <= known
        assert known - names <= {"image"}  # which a picture as the body is


def test_beside_a_picture_the_address_may_have_what_is_described(client: Client) -> None:
    for path, methods in client.get("/openapi.json").json["paths"].items():
        if "post" in methods:
            names = [one["name"] for one in methods["post"]["parameters"]]
            values = {"name": "a", "template": "a {}", "threshold": "-1", "top": "1", "offset": "0"}
            query = urlencode([(name, values[name]) for name in names])
            assert client.post(f"{path}?{query}", jpeg(0), Content_Type="image/jpeg").status == 200


def test_limits_are_those_that_are_described(client: Client) -> None:
    """One more than the most is refused, and what is described as usual is what a request without it gets."""
    described = client.get("/openapi.json").json["paths"]
    for path, rest in (("/search", {}), ("/classify", {"names": ["a", "b"], "rows": [0]})):
        content = described[path]["post"]["requestBody"]["content"]["application/json"]
        for name, field in content["schema"]["properties"].items():
            if "maximum" in field:
                assert client.post(path, rest | {name: field["maximum"]}).status == 200, name
                assert client.post(path, rest | {name: field["maximum"] + 1}).status == 400, name
                assert client.post(path, rest | {name: field["minimum"] - 1}).status == 400, name
            if "default" in field:
                usual = client.post(path, rest | {name: field["default"]}).json
                assert usual == client.post(path, rest).json, name
            if "maxItems" in field:
                many = client.post(path, rest | {name: [{}] * (field["maxItems"] + 1)}).json
                assert f"at most {field['maxItems']:,}" in many["error"], name


def test_what_is_fetched_is_what_is_described(client: Client) -> None:
    described = client.get("/openapi.json").json
    while client.get("/map").status == 202:
        pass
    for path, schema in (
        ("/record/0", described["components"]["schemas"]["Hit"]),
        (
            "/map",
            described["paths"]["/map"]["get"]["responses"]["200"]["content"]["application/json"]["schema"],
        ),
        ("/nothing", described["components"]["schemas"]["Error"]),
    ):
        assert {*client.get(path).json} == {*schema["properties"]}


def test_every_reference_leads_somewhere(client: Client) -> None:
    described = client.get("/openapi.json").json

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for one in value.values() for found in references(one)]
        return [found for one in value for found in references(one)] if isinstance(value, list) else []

    found = references(described)
    assert found
    found += [f"#/components/securitySchemes/{name}" for one in described["security"] for name in one]
    for reference in found:
        place = described
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]
