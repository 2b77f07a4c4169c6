"""What is searched for: texts, pictures and rows of an index, mixed with weights; and how people write that."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from openslip.data.formats import EXTENSIONS
from openslip.data.given import Picture
from openslip.errors import ConfigError, DataError, EvaluationError, shortened
from openslip.evaluation.features import has_text

if TYPE_CHECKING:
    from openslip.search.index import Index

LONGEST = 10_000
"""Characters of a text that is searched for. A model reads some hundred; a whole file is a mistake."""
MOST = 64
"""Terms of a mixture."""

Thing = Picture | str | int | np.ndarray
"""A text, a picture, the row of an index, or an embedding (D,)."""


@dataclass(frozen=True)
class Term:
    """One part of a mixture, with its weight: a text; a picture; a row of the index; or an embedding (D,).

    A negative weight leads away.
    """

    weight: float = 1.0
    text: str = ""
    picture: Picture | None = None
    row: int | None = None
    vector: np.ndarray | None = None


def parse(words: Sequence[str]) -> list[Term]:
    """Return the terms of a query as people write it on a command line.

    One word is a text, or a picture where it is the path of one. Signs between them make a mixture: the words
    `2:dress + ./a.jpg - "long sleeves"`, or one word that holds such signs and quotes. A number and a colon before a
    term are its weight; alone, a term has none, so that "16:9 poster" is a text.

    Raises ConfigError for nothing to search for, a sign without a term, a picture that is not there.
    """
    parts = _split(words[0]) if len(words) == 1 else [(word, word in ("+", "-", "−")) for word in words]
    if all(not sign for _, sign in parts):
        whole = words[0] if len(words) == 1 and len(parts) == 1 else " ".join(word for word, _ in parts)
        return [_term(whole if len(parts) > 1 else parts[0][0] if parts else "", 1.0)]
    terms: list[Term] = []
    sign, texts = 1.0, list[str]()
    for number, (word, is_sign) in enumerate(parts):
        if not is_sign:
            texts.append(word)
            continue
        if texts:
            terms.append(_weighted(" ".join(texts), sign))
        elif number:
            raise _nothing_beside(words)
        sign, texts = (1.0 if word == "+" else -1.0), []
    if not texts:
        raise _nothing_beside(words)
    return [*terms, _weighted(" ".join(texts), sign)]


def terms_of(query: Any) -> list[Term]:
    """Return the terms of a query as programs give it: a text as `parse` takes it, a picture, a row, an embedding (D,),
    a `Term`, or several as (weight, thing) pairs or terms. Raises ConfigError for what is none of these."""
    if isinstance(query, Term):
        return [query]
    if isinstance(query, str):
        return parse([query])
    if isinstance(query, list | tuple):
        return [one if isinstance(one, Term) else _of_pair(one) for one in query]
    return [_of_thing(query, 1.0)]


def vector_of(index: Index, terms: Sequence[Term]) -> np.ndarray:
    """Return the embedding that is searched for, (D,) float32 of length 1: the weighted sum of those of the terms.

    Raises ConfigError for no terms, too many, or terms that cancel; DataError for a picture that cannot be used, a text
    that is too long, or a row that is not there; EvaluationError for a text where the model has no text tower.
    """
    if not 0 < len(terms) <= MOST:
        raise ConfigError(f"A search has 1 to {MOST} terms", got=f"{len(terms)}")
    total = np.zeros(index.dim)
    for term in terms:
        if not np.isfinite(term.weight):
            raise ConfigError("The weight of a term is a number", got=term.weight)
        total += term.weight * _embedding(index, term)
    length = np.linalg.norm(total)
    if not length > 1e-6:
        raise ConfigError("The terms cancel each other, and nothing is left to search for")
    return (total / length).astype(np.float32)


def _embedding(index: Index, term: Term) -> np.ndarray:
    """Return a term's embedding (D,) float64, of length 1."""
    if term.vector is not None:
        found = np.asarray(term.vector, dtype=np.float64).reshape(-1)
        if found.shape != (index.dim,) or not np.isfinite(found).all() or not found.any():
            raise DataError(
                f"An embedding to search for has {index.dim} finite numbers", got=f"shape {term.vector.shape}"
            )
    elif term.row is not None:
        if not 0 <= term.row < len(index):
            raise DataError(
                "There is no such row in the index", got=term.row, fix=f"Rows: 0 to {len(index) - 1:,}"
            )
        found = index.vectors[term.row].astype(np.float64)
    elif term.picture is not None:
        found = index.model.encode_image(term.picture, numpy=True)[0].astype(np.float64)
    else:
        found = _of_text(index, term.text)
    return found / max(1e-12, float(np.linalg.norm(found)))


def check_text(index: Index, text: str) -> None:
    """Raise ConfigError for an empty text, DataError for one that is too long, EvaluationError for a model without a
    text tower."""
    if not text.strip():
        raise ConfigError(
            "There is nothing to search for", fix='Give a text, "a red bicycle", or the path of a picture'
        )
    if len(text) > LONGEST:
        raise DataError(
            f"A text to search for has at most {LONGEST:,} characters",
            got=f"{shortened(text, 80)!r} ({len(text):,} characters)",
        )
    if not has_text(index.model):
        raise EvaluationError(
            "This model has no text tower, and knows pictures alone",
            got=text,
            fix="Search with a picture, or embed the pictures with a model that was trained with captions",
        )


def _of_text(index: Index, text: str) -> np.ndarray:
    check_text(index, text)
    return index.model.encode_text([text], numpy=True)[0].astype(np.float64)


def _split(text: str) -> list[tuple[str, bool]]:
    """Split one word into parts, and tell which are signs. Only what has quotes is a mixture: a text may have signs."""
    if '"' not in text and not _picture_in(text):
        return [(text, False)]
    pattern = r'(\d*\.?\d+:)?"([^"]*)"|(\S+)'
    found = []
    for match in re.finditer(pattern, text):
        weight, quoted, bare = match.groups()
        found.append((bare, bare in ("+", "-", "−")) if bare else ((weight or "") + quoted, False))
    return found if any(sign for _, sign in found) else [(text.strip().strip('"'), False)]


def _picture_in(text: str) -> bool:
    """Whether one word has signs between things of which one is the path of a picture."""
    parts = re.split(r"\s[+−-]\s", text)
    return len(parts) > 1 and any(_is_path(re.sub(r"^\d*\.?\d+:", "", part.strip())) for part in parts)


def _weighted(text: str, sign: float) -> Term:
    found = re.fullmatch(r"(\d*\.?\d+):(.*)", text, re.DOTALL)
    return _term(found[2], sign * float(found[1])) if found else _term(text, sign)


def _term(text: str, weight: float) -> Term:
    if _is_path(text):
        if not os.path.exists(os.path.expanduser(text)):
            raise ConfigError(
                "There is no such picture",
                got=text,
                cause="What begins with ./, ../, / or ~/, or ends as pictures do, is the path of a picture",
                fix="Mind the folder that you are in",
            )
        return Term(weight, picture=os.path.expanduser(text))
    return Term(weight, text)


def _is_path(text: str) -> bool:
    ending = os.path.splitext(text)[1][1:].lower()
    if "\n" in text or len(text) > 4096:
        return False
    return (
        text.startswith(("./", "../", "/", "~/"))
        or (ending in EXTENSIONS and " " not in text)
        or (ending in EXTENSIONS and os.path.isfile(text))
    )


def _of_pair(pair: Any) -> Term:
    if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], int | float):
        return _of_thing(pair[1], float(pair[0]))
    raise ConfigError(
        "A mixture is a list of pairs of a weight and a thing",
        got=repr(pair)[:100],
        fix='Write [(2, "dress"), (1, Path("a.jpg")), (-1, "long sleeves")]',
    )


def _of_thing(thing: Any, weight: float) -> Term:
    if isinstance(thing, str):
        return _term(thing, weight)
    if isinstance(thing, int | np.integer):
        return Term(weight, row=int(thing))
    if isinstance(thing, np.ndarray) and thing.ndim == 1:
        return Term(weight, vector=thing)
    return Term(weight, picture=thing)


def _nothing_beside(words: Sequence[str]) -> ConfigError:
    return ConfigError(
        "A sign stands between two things to search for",
        got=" ".join(words),
        fix='Write: 2:dress + ./a.jpg - "long sleeves"',
    )
