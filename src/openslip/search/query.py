"""Read queries and embed them: texts, pictures and rows of an index, mixed with weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from openslip.data.formats import EXTENSIONS
from openslip.data.given import Picture
from openslip.data.storage.retry import is_url
from openslip.errors import ConfigError, DataError, EvaluationError, encodable, shortened
from openslip.evaluation.features import has_text

if TYPE_CHECKING:
    from openslip.encoder import Encoder
    from openslip.search.index import Index

LONGEST = 10_000
"""The most characters of a query. A model reads a few hundred; a whole file is a mistake."""
MOST = 64
"""The most terms of a mixture."""
SIGNS = {"+": 1.0, "-": -1.0, "−": -1.0}

_WEIGHT = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+):"
_QUOTED = re.compile(rf'({_WEIGHT})?"([^"]*)"')
_WEIGHTED = re.compile(rf"({_WEIGHT})\s*(\S.*)", re.DOTALL)
_GLUED = re.compile(rf'[+−-](?:{_WEIGHT})?"|(?:{_WEIGHT})?"[^"]*"[+−-]')
"""A sign and a quoted text without a space between them."""

Thing = Picture | str | int | np.ndarray
"""A text, a picture, the row of an index, or an embedding (D,)."""


@dataclass(frozen=True)
class Term:
    """One part of a mixture, with its weight: a text; a picture; a row of the index; or an embedding (D,).

    A negative weight searches away from the term.
    """

    weight: float = 1.0
    text: str = ""
    picture: Picture | None = None
    row: int | None = None
    vector: np.ndarray | None = None


class _Part(NamedTuple):
    """One word or one quoted text of a query. sign: the factor of a sign, 0 for any other part."""

    text: str
    sign: float = 0.0


def parse(words: Sequence[str], *, paths: bool = True) -> list[Term]:
    """Return the terms of a query as people write it.

    words: the words of a command line, without the quotes that the shell removed: `2:dress + ./a.jpg - "long sleeves"`
    arrives as five words. A word that is a sign makes a mixture. Without a sign, all words are one text or one picture.
    Programs and the page pass the whole query as a single word. Signs alone do not make a single word a mixture,
    because a text may contain signs: a term beside a sign must be in double quotes, or be a picture.

    A number and a colon before a term of a mixture are its weight. A single term has no weight, so "16:9 poster" is a
    text. Terms that begin with ./, ../, / or ~/, or have a picture's ending, are paths of pictures. With `paths` false
    all terms are texts, and `parse` does not look at the disk.

    Raises ConfigError for an empty query, a sign without a term, a picture that is not there, and a term that can be
    read in two ways; DataError for more than LONGEST characters.
    """
    if (length := sum(map(len, words))) > LONGEST:
        raise _too_long(" ".join(words)[: LONGEST + 1], length)
    if len(words) == 1:
        parts = list(_parts(words[0]))
        groups = _groups(parts, words)
        if not groups or not any(_marked(text, paths) for _, text in groups):
            if len(words[0].strip()) == 1 and parts and parts[0].sign:
                raise _nothing_beside(words)
            whole = _QUOTED.fullmatch(words[0].strip())
            return [_term(whole[2] if whole else words[0].strip(), 1.0, paths)]
    else:
        parts = [_Part(word, SIGNS.get(word, 0.0)) for word in words]
        if paths:
            _refuse_side_by_side(parts)
        if not any(part.sign for part in parts):
            return [_term(" ".join(words).strip(), 1.0, paths)]
        groups = _groups(parts, words)
    return [_weighted(text, sign, paths) for sign, text in groups]


def terms_of(query: Any, *, paths: bool = True) -> list[Term]:
    """Return the terms of a query as programs give it: a text as `parse` takes it, a picture, a row, an embedding (D,)
    or (1, D), a `Term`, or several as (weight, thing) pairs or terms. paths: as in `parse`.

    Raises ConfigError for a list with anything but pairs and terms, and as `parse` does.
    """
    if isinstance(query, Term):
        return [query]
    if isinstance(query, str):
        return parse([query], paths=paths)
    if isinstance(query, list | tuple):
        return [one if isinstance(one, Term) else _of_pair(one, paths) for one in query]
    return [_of_thing(query, 1.0, paths)]


def vector_of(index: Index, terms: Sequence[Term]) -> np.ndarray:
    """Return the embedding of a query, (D,) float32 of length 1: the weighted sum of the embeddings of the terms.

    Raises ConfigError for no terms, too many, or terms that cancel; DataError for a picture that cannot be used, a text
    that is too long, or a row that is not there; EvaluationError for a text if the model has no text tower.
    """
    if not 0 < len(terms) <= MOST:
        raise ConfigError(f"A search has 1 to {MOST} terms", got=f"{len(terms)}")
    for term in terms:
        if not np.isfinite(term.weight):
            raise ConfigError("The weight of a term must be a finite number", got=term.weight)
    # Divide by the largest weight: only the ratios of weights matter, and squares of huge weights overflow.
    largest = max(abs(term.weight) for term in terms) or 1.0
    total = sum((term.weight / largest * _embedding(index, term) for term in terms), np.zeros(index.dim))
    length = np.linalg.norm(total)
    if not length > 1e-6:
        raise ConfigError(
            "The terms cancel each other, and nothing is left to search for", got=described(terms)
        )
    return (total / length).astype(np.float32)


def notes_of(model: Encoder, terms: Sequence[Term]) -> list[str]:
    """Return a sentence for each text of which the model reads only the beginning."""
    if not has_text(model):
        return []
    notes, tokenizer = [], model.tokenizer
    ends = [tokenizer.start, tokenizer.end]
    most = tokenizer.context - sum(one is not None for one in ends)
    for text in (encodable(term.text) for term in terms if term.text):
        if (count := len(tokenizer.encode(text))) <= most:
            continue
        words = text.split()
        low, high = 0, len(words)
        while low < high - 1:
            middle = (low + high) // 2
            fits = len(tokenizer.encode(" ".join(words[:middle]))) <= most
            low, high = (middle, high) if fits else (low, middle)
        where = f"the part after {' '.join(words[:low])[-60:]!r}" if low else "the end"
        notes.append(
            f"The model reads {most} tokens of a text, and this text has {count:,}: {where} is left out"
        )
    return notes


def described(terms: Sequence[Term]) -> str:
    """Return terms as people write them: `2:"dress" + ./a.jpg - "long sleeves"`."""
    if len(terms) == 1 and terms[0].text and terms[0].weight == 1:
        return shortened(terms[0].text, 200)
    parts = []
    for number, term in enumerate(terms):
        sign = "- " if term.weight < 0 else "+ " if number else ""
        plain = abs(term.weight) == 1 and not _WEIGHTED.fullmatch(term.text)
        weight = "" if plain else f"{abs(term.weight):.6g}:"
        parts.append(sign + weight + _said(term))
    return " ".join(parts)


def _said(term: Term) -> str:
    if term.vector is not None:
        return "an embedding"
    if term.row is not None:
        return f"row {term.row}"
    if term.picture is None:
        return f'"{shortened(term.text, 200)}"'
    if isinstance(term.picture, str | os.PathLike):
        path = os.fspath(term.picture)
        return f'"{path}"' if " " in path else path
    return "a picture"


def _embedding(index: Index, term: Term) -> np.ndarray:
    """Return a term's embedding (D,) float64, of length 1."""
    if term.vector is not None:
        found = np.asarray(term.vector, dtype=np.float64).reshape(-1)
        if found.shape != (index.dim,) or not np.isfinite(found).all() or not found.any():
            raise DataError(
                f"An embedding to search for must have {index.dim} finite numbers, not all 0",
                got=f"shape {term.vector.shape}",
            )
    elif term.row is not None:
        if not 0 <= term.row < len(index):
            raise DataError(
                "There is no such row in the index", got=term.row, fix=f"Rows: 0 to {len(index) - 1:,}"
            )
        found = index.vectors[term.row].astype(np.float64)
    elif term.picture is not None:
        found = _of_picture(index, term.picture)
    else:
        found = _of_text(index, term.text)
    # Divide by the largest number first, because squares of very large or small numbers leave the range of floats.
    found = found / max(1e-300, float(np.abs(found).max()))
    return found / max(1e-12, float(np.linalg.norm(found)))


def _of_picture(index: Index, picture: Picture) -> np.ndarray:
    # In a list, a folder is refused; by itself, a folder would stand for all pictures in it.
    try:
        return index.model.encode_image([picture], numpy=True)[0].astype(np.float64)
    except DataError as error:
        raise DataError(
            "The picture to search for cannot be used",
            got=os.fspath(picture) if isinstance(picture, str | os.PathLike) else None,
            cause=str(error),
        ) from None


def check_text(index: Index, text: str) -> None:
    """Raise ConfigError for an empty text, DataError for one that is too long, EvaluationError for a model without a
    text tower."""
    if not text.strip():
        raise _nothing()
    if len(text) > LONGEST:
        raise _too_long(text, len(text))
    if not has_text(index.model):
        raise EvaluationError(
            "This model has no text tower, and embeds only pictures",
            got=text,
            fix="Search with a picture, or embed the pictures with a model that was trained with captions",
        )


def _of_text(index: Index, text: str) -> np.ndarray:
    check_text(index, text)
    return index.model.encode_text([encodable(text)], numpy=True)[0].astype(np.float64)


def _parts(text: str) -> Iterator[_Part]:
    """Yield the parts of a query in one word. Quotes at both ends hold the words of a part together."""
    at = 0
    while found := re.compile(r"\s*(\S+)").match(text, at):
        at = found.start(1)
        quoted = _QUOTED.match(text, at)
        if quoted and (quoted.end() == len(text) or text[quoted.end()].isspace()):
            yield _Part(quoted[0])
            at = quoted.end()
            continue
        word, at = found[1], found.end()
        if _GLUED.match(word) or (quoted and _GLUED.match(quoted[0] + text[quoted.end()])):
            raise ConfigError(
                "A sign needs a space before and after it",
                got=text,
                fix='Write the query like this: "2:dress" + ./a.jpg - "long sleeves"',
            )
        yield _Part(word, SIGNS.get(word, 0.0))


def _refuse_side_by_side(parts: Sequence[_Part]) -> None:
    """Raise ConfigError for a picture beside other words without a sign, as when a shell expands `*.jpg`."""
    for is_sign, run in groupby(parts, key=lambda part: bool(part.sign)):
        texts = [part.text for part in run]
        whole = " ".join(texts)
        if is_sign or len(texts) == 1 or (_is_path(whole) and os.path.exists(whole)):
            continue
        if found := [text for text in texts if _is_path(text) and os.path.exists(os.path.expanduser(text))]:
            raise ConfigError(
                "A picture stands beside other words without a sign between them",
                got=" ".join(texts[:4]) + " …" * (len(texts) > 4),
                cause=f"{found[0]} is the path of a picture; perhaps the shell has replaced *.jpg by file names",
                fix="Write a sign between pictures, as in ./a.jpg + ./b.jpg, or put the whole text in quotes",
            )


def _groups(parts: Sequence[_Part], words: Sequence[str]) -> list[tuple[float, str]]:
    """Return the texts between signs, each with the sign before it; an empty list if there is no sign.

    Raises ConfigError if no text is between two signs or after the last sign of a query that must be a mixture.
    """
    if not any(part.sign for part in parts):
        return []
    groups, sign, texts = list[tuple[float, str]](), 1.0, list[str]()
    empty = False
    for number, part in enumerate(parts):
        if not part.sign:
            texts.append(part.text)
            continue
        if texts:
            groups.append((sign, " ".join(texts)))
        empty |= bool(number) and not texts
        sign, texts = part.sign, []
    if texts:
        groups.append((sign, " ".join(texts)))
    if (empty or not texts) and (len(words) > 1 or any(_QUOTED.fullmatch(text) for _, text in groups)):
        raise _nothing_beside(words)
    return [] if empty or not texts else groups


def _marked(text: str, paths: bool) -> bool:
    """Whether a term makes a query in one word a mixture: the term is in quotes, or is a picture."""
    if _QUOTED.fullmatch(text):
        return True
    weighted = _WEIGHTED.fullmatch(text)
    return paths and _is_path(weighted[2] if weighted else text)


def _weighted(text: str, sign: float, paths: bool) -> Term:
    """Return a term of a mixture. Raises ConfigError if the weight might be the beginning of the text."""
    quoted = _QUOTED.fullmatch(text)
    if quoted and quoted[1]:
        return _term(quoted[2], sign * float(quoted[1][:-1]), paths)
    plain = quoted[2] if quoted else text
    found = _WEIGHTED.fullmatch(plain.strip())
    if not found:
        return _term(plain.strip(), sign, paths)
    weight, rest = found.groups()
    if rest[0].isdigit():
        raise ConfigError(
            "A term can be read in two ways",
            got=plain,
            cause=f"It may be the text {plain!r}, or {rest!r} with a weight of {weight[:-1]}",
            fix=f"""Write '1:"{plain}"' for the text, or '{weight}"{rest}"' for the weight""",
        )
    return _term(rest, sign * float(weight[:-1]), paths)


def _term(text: str, weight: float, paths: bool) -> Term:
    if not text.strip():
        raise _nothing()
    if not paths or not _is_path(text):
        return Term(weight, text)
    path = os.path.expanduser(text)
    if not os.path.exists(path):
        raise ConfigError(
            "There is no such picture",
            got=text,
            cause="A term that begins with ./, ../, / or ~/, or has a picture's ending, is the path of a picture",
            fix="Fetch it first: a search opens no addresses"
            if is_url(text)
            else "Check the path, and the folder that you are in",
        )
    return Term(weight, picture=path)


def _is_path(text: str) -> bool:
    if "\n" in text or "\0" in text or len(text) > 4096:
        return False
    ending = os.path.splitext(text)[1][1:].lower()
    return (
        text.startswith(("./", "../", "/", "~/"))
        or (ending in EXTENSIONS and " " not in text)
        or (ending in EXTENSIONS and os.path.isfile(text))
    )


def _of_pair(pair: Any, paths: bool) -> Term:
    if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], int | float):
        return _of_thing(pair[1], float(pair[0]), paths)
    raise ConfigError(
        "A mixture must be a list of pairs, each of a weight and a text, picture, row or embedding",
        got=repr(pair)[:100],
        fix='Write [(2, "dress"), (1, Path("a.jpg")), (-1, "long sleeves")]',
    )


def _of_thing(thing: Any, weight: float, paths: bool) -> Term:
    import torch

    if isinstance(thing, str):
        return _term(thing.strip(), weight, paths)
    if isinstance(thing, int | np.integer) and not isinstance(thing, bool):
        return Term(weight, row=int(thing))
    if isinstance(thing, torch.Tensor) and thing.ndim in (1, 2):
        thing = thing.detach().float().cpu().numpy()
    if isinstance(thing, np.ndarray) and (
        thing.ndim == 1 or (thing.ndim == 2 and len(thing) == 1 and thing.dtype.kind == "f")
    ):
        return Term(weight, vector=thing.reshape(-1))
    return Term(weight, picture=thing)  # type: ignore[bad-argument-type]


def _nothing() -> ConfigError:
    return ConfigError(
        "There is nothing to search for", fix='Give a text, as in "a red bicycle", or the path of a picture'
    )


def _nothing_beside(words: Sequence[str]) -> ConfigError:
    return ConfigError(
        "A sign needs a term after it",
        got=" ".join(words),
        fix='Write the query like this: 2:dress + ./a.jpg - "long sleeves"',
    )


def _too_long(text: str, length: int) -> DataError:
    return DataError(
        f"A query has at most {LONGEST:,} characters",
        got=f"{text[:80]} … ({length:,} characters)",
        fix="Give the first sentences of the text: a model reads no more",
    )
