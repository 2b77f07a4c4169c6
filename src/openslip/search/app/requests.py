"""Read and check the requests of clients: JSON, or a picture with options in the address.

A text from a client is always a text: unlike on the command line, it is never taken for a path.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openslip.data.labelled.prompts import DEFAULT_TEMPLATES, check_templates
from openslip.errors import ConfigError, DataError, did_you_mean
from openslip.files import parse_json
from openslip.search.app.refusals import UNREADABLE, Refusal
from openslip.search.app.worker import Search
from openslip.search.query import LONGEST, MOST
from openslip.search.where import OPERATORS, Filter

TOP = 500
"""The most pictures of one answer."""
FARTHEST = 10_000
"""The most pictures to pass over before those of the answer."""
FILTERS, VALUES = 32, 1000
"""The most conditions of a search, and values of one condition."""
TEXTS, IMAGES = 64, 16
"""The most texts to embed, or rows to classify, and the most pictures, in one request."""
NAMES, TEMPLATES, PROMPTS = 1000, 16, 4096
"""The most names of classes, templates, and prompts that both make."""
NAME = 1000
"""The most characters of a name or template."""
WEIGHT = 1000.0
"""The largest weight of a term; more would make no difference."""


@dataclass(frozen=True)
class SentTerm:
    """One term of a search as the client sent it: one of text, image (the bytes of a picture), row, vector."""

    weight: float = 1.0
    text: str = ""
    image: bytes = b""
    row: int | None = None
    vector: np.ndarray | None = None


@dataclass(frozen=True)
class Searching:
    """A request of `/search`. Without terms, the pictures come in the order of the index."""

    terms: tuple[SentTerm, ...]
    search: Search


@dataclass(frozen=True)
class Embedding:
    """A request of `/embed`."""

    texts: tuple[str, ...]
    images: tuple[bytes, ...]


@dataclass(frozen=True)
class Classifying:
    """A request of `/classify`: pictures from the client, and rows of the index; each gets `top` names."""

    names: tuple[str, ...]
    templates: tuple[str, ...]
    images: tuple[bytes, ...]
    rows: tuple[int, ...]
    top: int


def values_of(kind: str, body: bytes, address: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the values of a request: its JSON object, or for a picture as the body `image` and the options in the
    address, with numbers and repeated names as JSON would have them.

    kind: the Content-Type. address: pairs of names and values. Raises Refusal for another Content-Type, ConfigError for
    invalid JSON and wrong options.
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind == "application/json":
        if address:
            raise ConfigError("With JSON, options go into the JSON, not the address", got=address[0][0])
        try:
            found = parse_json(body)
        except ValueError as error:
            raise ConfigError("The request is not valid JSON", cause=str(error)) from None
        if not isinstance(found, dict):
            raise ConfigError("The request must be a JSON object", got=type(found).__name__)
        return found
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise Refusal(
            UNREADABLE,
            "The request has an unknown Content-Type",
            got=kind or "none",
            fix="Send JSON with `Content-Type: application/json`, or a picture with `Content-Type: image/jpeg`",
        )
    values: dict[str, Any] = {"image": body}
    for name, text in address:
        if name in ("name", "template"):
            values.setdefault(f"{name}s", []).append(text)
        elif name in values:
            raise ConfigError("The address names an option twice", got=name)
        else:
            values[name] = _number_in(name, text)
    return values


def _number_in(name: str, text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        raise ConfigError("An option in the address must be a number", got=f"{name}={text}") from None
    return int(number) if number.is_integer() else number


def searching(values: Mapping[str, Any]) -> Searching:
    """Return what a request of `/search` asks for. Raises ConfigError for wrong values, DataError for a text that is
    too long."""
    _check_names(values, ("text", "image", "terms", "filters", "top", "offset", "threshold"))
    terms = [
        _term({name: values[name]}) for name in ("text", "image") if values.get(name) not in (None, "", b"")
    ]
    terms += [_term(one) for one in _list(values, "terms", MOST)]
    if len(terms) > MOST:
        raise ConfigError(f"A search has at most {MOST} terms", got=len(terms))
    threshold = values.get("threshold")
    return Searching(
        tuple(terms),
        Search(
            _whole(values, "top", 10, 1, TOP),
            _whole(values, "offset", 0, 0, FARTHEST),
            tuple(_filter(one) for one in _list(values, "filters", FILTERS)),
            None if threshold is None else _threshold(threshold),
        ),
    )


def embedding(values: Mapping[str, Any]) -> Embedding:
    """Return what a request of `/embed` asks for. Raises as `searching` does."""
    _check_names(values, ("texts", "images", "image"))
    texts = tuple(_text(one, "A text", LONGEST) for one in _list(values, "texts", TEXTS))
    found = Embedding(texts, _images(values))
    if not found.texts and not found.images:
        raise ConfigError("There is nothing to embed", fix="Send `texts`, `images` in base64, or a picture")
    return found


def classifying(values: Mapping[str, Any]) -> Classifying:
    """Return what a request of `/classify` asks for. Raises as `searching` does."""
    _check_names(values, ("names", "templates", "images", "image", "rows", "top"))
    names = tuple(_text(one, "A name", NAME) for one in _list(values, "names", NAMES))
    templates = tuple(_text(one, "A template", NAME) for one in _list(values, "templates", TEMPLATES))
    check_templates(templates)
    templates = templates or DEFAULT_TEMPLATES
    if not names:
        raise ConfigError("There are no names to choose from", fix='Send them as "names": ["dress", "shirt"]')
    if len({*names}) < len(names):
        raise ConfigError(
            "Equal names cannot be told apart", got=max(names, key=names.count), fix="Send each name once"
        )
    if len(names) * len(templates) > PROMPTS:
        raise ConfigError(
            f"Names and templates make more than {PROMPTS:,} prompts", got=len(names) * len(templates)
        )
    rows = tuple(_whole({"row": one}, "row", 0, 0, None) for one in _list(values, "rows", TEXTS))
    found = Classifying(
        names, templates, _images(values), rows, _whole(values, "top", min(5, len(names)), 1, NAMES)
    )
    if not found.images and not found.rows:
        raise ConfigError(
            "There is no picture to classify",
            fix="Send a picture, `images` in base64, or `rows` of the index",
        )
    return found


def _term(value: Any) -> SentTerm:
    if not isinstance(value, Mapping):
        raise ConfigError(
            "A term must be a JSON object", got=str(value)[:80], fix='Send, for example, {"text": "a dress"}'
        )
    _check_names(value, ("text", "image", "row", "vector", "weight"))
    weight = _float("weight", value.get("weight", 1))
    if abs(weight) > WEIGHT:
        raise ConfigError(f"The weight of a term must be from -{WEIGHT:,.0f} to {WEIGHT:,.0f}", got=weight)
    match [name for name in ("text", "image", "row", "vector") if value.get(name) is not None]:
        case ["text"]:
            return SentTerm(weight, text=_text(value["text"], "A text", LONGEST))
        case ["image"]:
            return SentTerm(weight, image=_image(value["image"]))
        case ["row"]:
            return SentTerm(weight, row=_whole(value, "row", 0, 0, None))
        case ["vector"]:
            vector = value["vector"]
            if not isinstance(vector, list) or not all(_is_number(one) for one in vector):
                raise ConfigError("A vector must be a list of numbers", got=str(vector)[:80])
            return SentTerm(weight, vector=np.array(vector, dtype=np.float64))
        case found:
            raise ConfigError(
                "A term must have exactly one of `text`, `image`, `row` and `vector`",
                got=", ".join(found) or "none of them",
            )


def _filter(value: Any) -> Filter:
    if not isinstance(value, Mapping):
        raise ConfigError(
            "A filter must be a JSON object",
            got=str(value)[:80],
            fix='Send, for example, {"column": "price", "operator": "<", "value": 50}',
        )
    _check_names(value, ("column", "operator", "value"))
    column, operator, given = value.get("column"), value.get("operator", "="), value.get("value")
    if not isinstance(column, str) or operator not in OPERATORS:
        raise ConfigError(
            "A filter needs a `column` and a known `operator`",
            got=str(operator),
            fix=f"Known: {', '.join(OPERATORS)}",
        )
    if operator in ("is null", "is not null"):
        return Filter(column, operator)
    if operator != "in":
        return Filter(column, operator, _scalar(given))
    if not isinstance(given, list) or not 0 < len(given) <= VALUES:
        raise ConfigError(f"The value of `in` must be a list of 1 to {VALUES:,} values", got=str(given)[:80])
    return Filter(column, operator, tuple(map(_scalar, given)))


def _scalar(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= LONGEST:
        return value
    if isinstance(value, bool) or (_is_number(value) and abs(value) < 2**63):
        return value
    raise ConfigError("The value of a filter must be a text, a number, true or false", got=str(value)[:80])


def _images(values: Mapping[str, Any]) -> tuple[bytes, ...]:
    image = values.get("image")
    some = [] if image in (None, "", b"") else [_image(image)]
    return (*some, *map(_image, _list(values, "images", IMAGES)))


def _image(value: Any) -> bytes:
    """Return the bytes of a picture: the body of a request, or base64 with or without `data:image/…;base64,`."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        if value.startswith("data:"):
            value = value.partition(",")[2]
        try:
            if value:
                return base64.b64decode(value, validate=True)
        except ValueError:
            pass
    raise DataError("A picture in JSON must be the bytes of its file, in base64", got=str(value)[:80])


def _list(values: Mapping[str, Any], name: str, most: int) -> list[Any]:
    found = values.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > most:
        much = f"{len(found):,}" if isinstance(found, list) else type(found).__name__
        raise ConfigError(f"`{name}` must be a list of at most {most:,}", got=much)
    return found


def _text(value: Any, what: str, longest: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what} must be in quotes, and not empty", got=str(value)[:80])
    if len(value) > longest:
        raise DataError(
            f"{what} has at most {longest:,} characters", got=f"{value[:60]}… ({len(value):,} characters)"
        )
    return value


def _whole(values: Mapping[str, Any], name: str, usual: int, least: int, most: int | None) -> int:
    value = values.get(name, usual)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        end = f"to {most:,}" if most is not None else "on"
        raise ConfigError(f"`{name}` must be a whole number from {least} {end}", got=str(value)[:80])
    return value


def _threshold(value: Any) -> float:
    if not -1 <= _float("threshold", value) <= 1:
        raise ConfigError("`threshold` must be a cosine similarity, from -1 to 1", got=value)
    return float(value)


def _float(name: str, value: Any) -> float:
    if not _is_number(value):
        raise ConfigError(f"`{name}` must be a number", got=str(value)[:80])
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_names(values: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in values:
        if name not in known:
            raise ConfigError("The request has an unknown name", got=name, fix=did_you_mean(name, known))
