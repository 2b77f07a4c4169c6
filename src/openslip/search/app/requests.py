"""What clients ask for: JSON, or a picture and what the address says beside it, read and checked.

A text of a client is a text: unlike on the command line, nothing that it says is taken for a path.
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
"""Pictures of one answer."""
FARTHEST = 10_000
"""Pictures that may be passed over before those of the answer."""
FILTERS, VALUES = 32, 1000
"""Conditions of a search, and values of one of them."""
TEXTS, IMAGES = 64, 16
"""Texts and pictures to be embedded, and pictures to be classified, in one request."""
NAMES, TEMPLATES, PROMPTS = 1000, 16, 4096
"""Names of classes, templates, and how many prompts these may make."""
NAME = 1000
"""Characters of a name or template."""
WEIGHT = 1000.0
"""Of a term, up to which it makes a difference."""


@dataclass(frozen=True)
class SentTerm:
    """One term of a search as it came: one of text, image (the bytes of a picture), row, vector."""

    weight: float = 1.0
    text: str = ""
    image: bytes = b""
    row: int | None = None
    vector: np.ndarray | None = None


@dataclass(frozen=True)
class Searching:
    """A request of `/search`: no terms mean the pictures in their order."""

    terms: tuple[SentTerm, ...]
    search: Search


@dataclass(frozen=True)
class Embedding:
    """A request of `/embed`."""

    texts: tuple[str, ...]
    images: tuple[bytes, ...]


@dataclass(frozen=True)
class Classifying:
    """A request of `/classify`: pictures that were sent, and rows of the index; `top` names are wanted of each."""

    names: tuple[str, ...]
    templates: tuple[str, ...]
    images: tuple[bytes, ...]
    rows: tuple[int, ...]
    top: int


def values_of(kind: str, body: bytes, address: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return what a request says: the object in JSON, or for a picture as the body `image` with what stands in the
    address, whose numbers and repeated names are read as JSON would have them.

    kind: the Content-Type. address: pairs of names and values. Raises Refusal for another kind, ConfigError for what is
    no JSON.
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind == "application/json":
        if address:
            raise ConfigError("With JSON, options stand in the JSON, not in the address", got=address[0][0])
        try:
            found = parse_json(body)
        except ValueError as error:
            raise ConfigError("The request is no JSON", cause=str(error)) from None
        if not isinstance(found, dict):
            raise ConfigError("The request must be an object in JSON", got=type(found).__name__)
        return found
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise Refusal(
            UNREADABLE,
            "The request has a Content-Type that is not read",
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
        raise ConfigError("The value of an option in the address is a number", got=f"{name}={text}") from None
    return int(number) if number.is_integer() else number


def searching(values: Mapping[str, Any]) -> Searching:
    """Return what a request of `/search` asks for. Raises ConfigError for what is none, DataError for a text that is
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
            "Names that are equal cannot be told apart", got=max(names, key=names.count), fix="Send each once"
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
        raise ConfigError("A term is an object in JSON", got=str(value)[:80], fix='As in {"text": "a dress"}')
    _check_names(value, ("text", "image", "row", "vector", "weight"))
    weight = _float("weight", value.get("weight", 1))
    if abs(weight) > WEIGHT:
        raise ConfigError(f"The weight of a term is from -{WEIGHT:,.0f} to {WEIGHT:,.0f}", got=weight)
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
                raise ConfigError("A vector is a list of numbers", got=str(vector)[:80])
            return SentTerm(weight, vector=np.array(vector, dtype=np.float64))
        case found:
            raise ConfigError(
                "A term is one of `text`, `image`, `row` and `vector`", got=", ".join(found) or "none of them"
            )


def _filter(value: Any) -> Filter:
    if not isinstance(value, Mapping):
        raise ConfigError(
            "A filter is an object in JSON",
            got=str(value)[:80],
            fix='As in {"column": "price", "operator": "<", "value": 50}',
        )
    _check_names(value, ("column", "operator", "value"))
    column, operator, given = value.get("column"), value.get("operator", "="), value.get("value")
    if not isinstance(column, str) or operator not in OPERATORS:
        raise ConfigError(
            "A filter has a `column` and an `operator`",
            got=str(operator),
            fix=f"Known: {', '.join(OPERATORS)}",
        )
    if operator in ("is null", "is not null"):
        return Filter(column, operator)
    if operator != "in":
        return Filter(column, operator, _scalar(given))
    if not isinstance(given, list) or not 0 < len(given) <= VALUES:
        raise ConfigError(f"The value of `in` is a list of 1 to {VALUES:,} values", got=str(given)[:80])
    return Filter(column, operator, tuple(map(_scalar, given)))


def _scalar(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= LONGEST:
        return value
    if isinstance(value, bool) or (_is_number(value) and abs(value) < 2**63):
        return value
    raise ConfigError("The value of a filter is a text, a number, true or false", got=str(value)[:80])


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
    raise DataError("A picture in JSON is the bytes of its file, in base64", got=str(value)[:80])


def _list(values: Mapping[str, Any], name: str, most: int) -> list[Any]:
    found = values.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > most:
        much = f"{len(found):,}" if isinstance(found, list) else type(found).__name__
        raise ConfigError(f"`{name}` is a list of at most {most:,}", got=much)
    return found


def _text(value: Any, what: str, longest: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what} is not empty, and in quotes", got=str(value)[:80])
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
        raise ConfigError(f"`{name}` is a whole number from {least} {end}", got=str(value)[:80])
    return value


def _threshold(value: Any) -> float:
    if not -1 <= _float("threshold", value) <= 1:
        raise ConfigError("`threshold` is a cosine similarity, from -1 to 1", got=value)
    return float(value)


def _float(name: str, value: Any) -> float:
    if not _is_number(value):
        raise ConfigError(f"`{name}` is a number", got=str(value)[:80])
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_names(values: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in values:
        if name not in known:
            raise ConfigError(
                "The request has a name that is not known", got=name, fix=did_you_mean(name, known)
            )
