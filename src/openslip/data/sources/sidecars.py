"""The captions that lie beside a picture, as `.json` or text, in tar shards and folders alike."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from openslip.data.captions import texts
from openslip.data.limits import TEXT_BYTES
from openslip.data.sources.columns import CAPTION_COLUMNS, guess_captions

TEXTS = ("txt", "caption", "cap", "text")
"""Extensions of members and files that hold a caption as plain text, best first."""


@dataclass(frozen=True)
class Asked:
    """Which captions a person asked for: extensions or keys of the `.json`, none for what is usual.

    lines: each line of a text is a caption of its own.
    """

    names: tuple[str, ...] = ()
    lines: bool = False

    @classmethod
    def parse(cls, option: str) -> Asked:
        """Return what `--data.caption-column` says: `caption`, `title,alt`, `meta.caption`, `txt`, `txt:lines`."""
        names, colon, mode = option.rpartition(":")
        if not colon or mode.strip().lower() != "lines":
            names, mode = option, ""
        return cls(tuple(n for name in names.split(",") if (n := name.strip().removeprefix("."))), bool(mode))

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the `.json`; `json` alone stands for the usual ones."""
        return tuple(name for name in self.names if name.lower() != "json")


USUAL = Asked()


def read(sidecar: bytes | None, text: bytes | None, asked: Asked = USUAL) -> tuple[str, ...]:
    """Return the captions in a picture's `.json` (`sidecar`) and text, None where it has none.

    They are the list `captions` of the `.json`; else the text, on which others train as well; else what another
    well-known key of the `.json` holds. Raises ValueError or RecursionError when they are broken.
    """
    if text is not None and not asked.keys and (sidecar is None or b'"captions"' not in sidecar):
        captions = _texts(text, asked)  # the .json need not be parsed
        if captions or sidecar is None:
            return captions
    return _chosen(_object(sidecar), text, asked)[1]


def look(sidecar: bytes | None, text: bytes | None, asked: Asked) -> Counter[str]:
    """Return what there is to say about the captions of one sample, to be added up over some and put into `words`."""
    try:
        found, captions = _object(sidecar), _texts(text, asked)
        key, chosen = _chosen(found, text, asked)
    except (ValueError, RecursionError):
        return Counter()
    facts = Counter({"looked": 1})
    if chosen:
        facts[f"used {key}" if key else "text used"] += 1
        others = _of_keys(found, _usual(found))[1] if not key else captions
        if others and not asked.names and set(others).isdisjoint(chosen):
            facts[f"differ {key or _of_keys(found, _usual(found))[0]}"] += 1
    else:
        facts["none"] += 1
        facts.update(f"key {name[:100]}" for name, value in list(found.items())[:20] if texts(value))
    if not key and len(captions) == 1 and "\n" in captions[0]:
        facts["lines"] += 1
    return facts


def notes(facts: Counter[str], name: str) -> list[str]:
    """Return sentences about the captions of the source called `name`, from what some of its samples hold."""
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
            "caption: if each line is one, say --data.caption-column txt:lines"
        )
    if facts["none"] and facts["none"] == looked:
        keys = sorted(fact[4:] for fact in facts if fact.startswith("key "))[:12]
        there = f": the .json holds {', '.join(map(repr, keys))}; name what is the caption with --data.caption-column"
        said.append(f"No captions were found in the {looked:,} {sampled}" + (there if keys else ""))
    return said


_EXPECTED = ("used caption", "used captions")


def _object(sidecar: bytes | None) -> dict[str, Any]:
    """Return the object that a `.json` holds; a list of texts, or a text alone, is its caption."""
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


def _chosen(found: dict[str, Any], text: bytes | None, asked: Asked) -> tuple[str, tuple[str, ...]]:
    """Return which key of the `.json` gives the captions, "" for the text, and the captions."""
    listed = texts(found.get("captions")) if not asked.keys else ()
    if listed:
        return "captions", listed
    if captions := _texts(text, asked):
        return "", captions
    return _of_keys(found, asked.keys or _usual(found), every=bool(asked.keys))


def _usual(found: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of the `.json` with well-known names, best first; numbered ones (`caption_0`, …) last."""
    plain = {key.lower(): key for key in reversed(found)}
    known = [plain[name] for name in ("captions", *CAPTION_COLUMNS) if name in plain]
    return tuple(dict.fromkeys(known)) or guess_captions(list(found))


def _of_keys(
    found: dict[str, Any], keys: tuple[str, ...], *, every: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Return the first key that holds captions, and these; with `every` those of all keys."""
    first, captions = "", ()
    for key in keys:
        more = texts(_value(found, key))
        first = first or (key if more else "")
        captions += more
        if captions and not every and not key[-1:].isdigit():
            break
    return first, captions


def _value(found: Any, key: str) -> Any:
    """Return the value of a key, in any case, or along a path of keys with dots between."""
    if not isinstance(found, dict):
        return None
    if key in found:
        return found[key]
    for name, value in found.items():
        if name.lower() == key.lower():
            return value
    head, dot, rest = key.partition(".")
    return _value(found[head], rest) if dot and head in found else None
