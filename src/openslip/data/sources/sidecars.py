"""The captions beside a picture, as `.json` or text, in tar shards and folders alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openslip.data.captions import texts
from openslip.data.limits import TEXT_BYTES
from openslip.data.sources.columns import CAPTION_COLUMNS, guess_captions
from openslip.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("txt", "caption", "cap", "text")
"""Extensions of members and files that hold a caption as plain text, best first."""


@dataclass(frozen=True)
class Asked:
    """The captions that a user asked for: extensions or keys of the `.json`, none for the usual ones.

    lines: each line of a text is a caption of its own.
    """

    names: tuple[str, ...] = ()
    lines: bool = False

    @classmethod
    def parse(cls, option: str) -> Asked:
        """Parse `--data.caption-column`: `caption`, `title,alt`, `meta.caption`, `txt`, `txt:lines`."""
        names, colon, mode = option.rpartition(":")
        if not colon or mode.strip().lower() != "lines":
            names, mode = option, ""
        return cls(tuple(n for name in names.split(",") if (n := name.strip().removeprefix("."))), bool(mode))

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the `.json`; `json` alone stands for the usual keys."""
        return tuple(name for name in self.names if name.lower() != "json")


USUAL = Asked()


def read(sidecar: bytes | None, text: bytes | None, asked: Asked = USUAL) -> tuple[str, ...]:
    """Return the captions in a picture's `.json` (`sidecar`) and text; either is None where the picture has none.

    The captions are the list `captions` of the `.json`; else the text, on which other programs train as well; else the
    value of another well-known key of the `.json`. Raises ValueError or RecursionError when either is broken.
    """
    if text is not None and not asked.keys and (sidecar is None or b'"captions"' not in sidecar):
        captions = _texts(text, asked)  # the .json need not be parsed
        if captions or sidecar is None:
            return captions
    return _chosen(_object(sidecar), text, asked)[1]


def own_fields(sidecar: bytes | None, text: bytes | None, asked: Asked = USUAL) -> dict[str, Any]:
    """Return the fields of a picture's `.json` except those that `read` takes captions from; {} if it is broken.

    Fields of an inner object are fields of their own, such as `attributes.colour`. A field `caption` or `captions` that
    only repeats the captions, as beside the texts of img2dataset, is left out.
    """
    try:
        found = None if sidecar is None else json.loads(_bounded(sidecar))
        if not isinstance(found, dict):
            return {}
        keys, captions = _chosen(found, text, asked)
    except (ValueError, RecursionError):
        return {}
    used = {_name(found, key) for key in keys}
    again = {name for name in found if name.lower() in _CAPTIONS and _says_no_more(found[name], captions)}
    return {name: value for name, value in _flat(found).items() if name not in used | again}


def own_columns(
    beside: Callable[[int], tuple[bytes | None, bytes | None]], indices: Iterable[int], asked: Asked
) -> pa.Table:
    """Return the own fields of pictures as columns; all null for a picture whose `.json` or text cannot be read.

    beside: returns the `.json` and the text of a picture. Reading the record raises the error for broken ones.
    """
    from openslip.data.typed_cells import Cells

    cells = Cells()
    for index in indices:
        try:
            cells.add(own_fields(*beside(index), asked))
        except (OSError, ValueError, DataError):
            cells.add({})
    return cells.table()


def look(sidecar: bytes | None, text: bytes | None, asked: Asked) -> Counter[str]:
    """Return counts of facts about the captions of one sample, to be added up over samples and given to `notes`."""
    try:
        found, captions = _object(sidecar), _texts(text, asked)
        keys, chosen = _chosen(found, text, asked)
    except (ValueError, RecursionError):
        return Counter()
    facts, key = Counter({"looked": 1}), keys[0] if keys else ""
    if chosen:
        facts[f"used {key}" if key else "text used"] += 1
        others = _of_keys(found, _usual(found))[1] if not key else captions
        if others and not asked.names and set(others).isdisjoint(chosen):
            facts[f"differ {key or _of_keys(found, _usual(found))[0][0]}"] += 1
    else:
        facts["none"] += 1
        facts.update(f"key {name[:100]}" for name, value in list(found.items())[:20] if texts(value))
    if not key and len(captions) == 1 and "\n" in captions[0]:
        facts["lines"] += 1
    return facts


def notes(facts: Counter[str], name: str) -> list[str]:
    """Return sentences on the captions of the source called `name`, from the facts about some of its samples."""
    looked, said = facts["looked"], []
    sampled = f"samples of {name} that were looked at"
    unusual = [fact[5:] for fact in facts if fact.startswith("used ") and fact.lower() not in _EXPECTED]
    if unusual:
        said.append(
            f"Captions of {name}: from {', '.join(map(repr, sorted(unusual)))} of the .json (guessed)"
        )
    for fact, count in facts.items():
        kind, _, key = fact.partition(" ")
        if kind == "differ":
            taken, other = (f"'{key}' of the .json", "txt") if key == "captions" else ("the text", key)
            said.append(
                f"warning: in {count:,} of {looked:,} {sampled}, the text differs from '{key}' of the .json: {taken} "
                f"is taken; --data.caption-column {other} takes the other"
            )
    if facts["lines"]:
        warning = "warning: in" if 2 * facts["lines"] > looked else "In"
        said.append(
            f"{warning} {facts['lines']:,} of {looked:,} {sampled}, the text has several lines, which are one "
            "caption: if each line is a caption, pass --data.caption-column txt:lines"
        )
    if facts["none"] and facts["none"] == looked:
        keys = sorted(fact[4:] for fact in facts if fact.startswith("key "))[:12]
        there = f": the .json holds {', '.join(map(repr, keys))}; name the caption's key with --data.caption-column"
        said.append(f"No captions were found in the {looked:,} {sampled}" + (there if keys else ""))
    return said


_CAPTIONS = ("caption", "captions")
_EXPECTED = tuple(f"used {key}" for key in _CAPTIONS)


def _object(sidecar: bytes | None) -> dict[str, Any]:
    """Return the object that a `.json` holds; a list of texts, or a single text, is the caption."""
    if sidecar is None:
        return {}
    found = json.loads(_bounded(sidecar))
    return found if isinstance(found, dict) else {"caption": found}


def _texts(text: bytes | None, asked: Asked) -> tuple[str, ...]:
    if text is None:
        return ()
    decoded = _bounded(text).decode("utf-8-sig")
    return texts(decoded.splitlines() if asked.lines else decoded)


def _bounded(data: bytes) -> bytes:
    if len(data) > TEXT_BYTES:
        raise ValueError(f"It has {len(data):,} bytes, and no caption needs more than {TEXT_BYTES:,}")
    return data


def _chosen(
    found: dict[str, Any], text: bytes | None, asked: Asked
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys of the `.json` that the captions come from, none for the text, and the captions."""
    listed = texts(found.get("captions")) if not asked.keys else ()
    if listed:
        return ("captions",), listed
    if captions := _texts(text, asked):
        return (), captions
    return _of_keys(found, asked.keys or _usual(found), every=bool(asked.keys))


def _usual(found: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of the `.json` with well-known names, best first; numbered keys (`caption_0`, …) last."""
    plain = {key.lower(): key for key in reversed(found)}
    known = [plain[name] for name in ("captions", *CAPTION_COLUMNS) if name in plain]
    return tuple(dict.fromkeys(known)) or guess_captions(list(found))


def _of_keys(
    found: dict[str, Any], keys: tuple[str, ...], *, every: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the first key that holds captions, or all numbered keys, or with `every` all keys; and the captions."""
    used, captions = (), ()
    for key in keys:
        if more := texts(_value(found, key)):
            used, captions = (*used, key), captions + more
        if captions and not every and not key[-1:].isdigit():
            break
    return used, captions


def _value(found: Any, key: str) -> Any:
    """Return the value of a key, in capitals or not, or of a path of keys with dots between."""
    if not isinstance(found, dict):
        return None
    if key in found:
        return found[key]
    for name, value in found.items():
        if name.lower() == key.lower():
            return value
    head, dot, rest = key.partition(".")
    return _value(found[head], rest) if dot and head in found else None


def _name(found: Any, key: str) -> str:
    """Return the name that `_flat` gives to the field whose value `_value` returns for a key."""
    if not isinstance(found, dict) or key in found:
        return key
    for name in found:
        if name.lower() == key.lower():
            return name
    head, dot, rest = key.partition(".")
    return f"{head}.{_name(found[head], rest)}" if dot and head in found else key


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an object; fields of inner objects have both names, and equal names are told apart."""
    from openslip.data.own_columns import told_apart

    flat: list[tuple[str, Any]] = []
    for name, value in found.items():
        if isinstance(value, dict) and value:
            flat += [(f"{name}.{own}", cell) for own, cell in value.items()]
        else:
            flat.append((name, value))
    return dict(zip(told_apart(name for name, _ in flat), (cell for _, cell in flat)))


def _says_no_more(value: Any, captions: tuple[str, ...]) -> bool:
    """Whether a value holds only texts that are among the captions."""
    listed = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, str) for item in listed) and {*texts(value)} <= {*captions}
