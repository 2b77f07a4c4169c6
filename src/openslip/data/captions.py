"""What counts as a caption: a text in a cell, field or sidecar of which the model sees something."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import unescape
from typing import Any

from openslip.data.limits import TEXT_BYTES
from openslip.errors import encodable

WITHOUT_CAPTIONS = "--objective.loss simclr"
"""The option of `slip train` that errors advise for data without captions: a loss that needs none."""

# What programs write where there is no text: pandas, databases, spreadsheets (also German ones), people.
_PLACEHOLDER = re.compile(
    r"[(\[<{]?(nan|none|null|nil|nat|undefined|n\.?\s?/?\s?a\.?|empty|blank|k\.\s?a\.|missing value"
    r"|no (caption|description|text|title)|not (available|applicable|specified|set))[)\]>}]?"
    r"|#(n/a|nv|nd|ref!|bezug!|value!|wert!|name\?|div/0!|null!|num!|zahl!|spill!)|\\n",
    re.IGNORECASE,
)
_LONGEST_PLACEHOLDER = 20

_VISIBLE = re.compile(r"[!-%'-~]")  # of ASCII; "&" may begin the name of a blank
# Blanks, control and format characters, and the letters, marks and symbols of which Unicode says nothing is seen.
_UNSEEN = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffc\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Blanks and byte order marks that were read in a wrong encoding come as these: "Â ", "ï»¿", "â€‹".
_MISREAD = "ÂÃï»¿â€‹"
_SEEN, _SURE = re.compile(f"[^{_UNSEEN}]"), re.compile(f"[^{_UNSEEN}{_MISREAD}]")
_LONGEST_MISREAD = 100

_QUOTED = r"""u?(?:"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
_NOTHING = r"(?:None|null|nan|NaN)"
# As Python, JSON and numpy (which puts no commas) write lists of texts.
_LIST = re.compile(rf"\[\s*+(?:(?:{_QUOTED}|{_NOTHING})\s*+,?+\s*+)++\]", re.DOTALL)
_TUPLE = re.compile(rf"\(\s*+{_QUOTED}\s*+,\s*+(?:(?:{_QUOTED}|{_NOTHING})\s*+,?+\s*+)*+\)", re.DOTALL)
_ITEM = re.compile(rf"({_QUOTED})|{_NOTHING}", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}


def texts(value: Any, keys: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the captions that a cell, field or sidecar holds: its texts that are captions, without outer blanks.

    A text is one caption, a list (also in lists) several; anything else is none. A text that spells a list of texts, as
    JSON, Python and numpy write them (`["a", "b"]`), is that list. keys: lead to the text through objects in the value,
    such as `("text",)` in `[{"text": "a dog"}]`; objects may be spelled in JSON. A missing key gives no caption.
    Half characters, which JSON can spell but no encoding can write, become question marks.
    """
    if keys:
        value = _within(value, keys)
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith(("[", "(")):
            return (encodable(text),) if is_caption(value) else ()
        value = _listed(text)
    return tuple(
        encodable(item.strip()) for item in _leaves(value) if isinstance(item, str) and is_caption(item)
    )


def is_caption(text: str) -> bool:
    """Whether a text leaves something for the model: more than blanks, control characters and names of them.

    The text is judged after the tokenizer's cleaning: HTML names such as `&nbsp;` are read, twice, and blanks that were
    read in a wrong encoding are mended. Zero-width characters, which the tokenizer would leave, count as nothing too.
    """
    if "&" in text:
        text = unescape(unescape(text))
    elif _VISIBLE.search(text) and "\x1b" not in text:
        return True
    doubtful = not _SURE.search(text) or "\x1b" in text
    if doubtful and len(text) <= _LONGEST_MISREAD and _SEEN.search(text):
        from ftfy import fix_text  # as open_clip's tokenizer does, which needs it

        text = fix_text(text)
    return _SEEN.search(text) is not None


def is_placeholder(text: str) -> bool:
    """Whether a text is only what programs and people write where there is none: `nan`, `NULL`, `#N/A`, `(none)`."""
    return len(text) <= _LONGEST_PLACEHOLDER and _PLACEHOLDER.fullmatch(text.strip()) is not None


def spelled(text: str) -> Any:
    """Return the list or object that a text spells in JSON, else None."""
    if text[:1] not in ("[", "{") or len(text) > TEXT_BYTES:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _listed(text: str) -> Any:
    """Return the list of texts that a text spells, else the text itself."""
    if len(text) > TEXT_BYTES:
        return text
    found = spelled(text)
    if isinstance(found, list) and all(item is None or isinstance(item, str) for item in _leaves(found)):
        return found
    if _LIST.fullmatch(text) or _TUPLE.fullmatch(text):
        return [_unquoted(item) for item in _ITEM.findall(text) if item]
    return text


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in a list, and in the lists in it, in order; anything else is its only leaf."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += reversed(item)
        else:
            yield item


def _within(value: Any, keys: Sequence[str]) -> Any:
    """Return what the nested objects in a value hold under these keys; for a list, a list."""
    for key in keys:
        if isinstance(value, str):
            value = spelled(value.strip())
        if isinstance(value, list):
            value = [item.get(key) for item in value if isinstance(item, dict)]
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _unquoted(item: str) -> str:
    """Return the content of a quoted text of Python."""
    body = item.removeprefix("u")[1:-1]
    if "\\" not in body:
        return body

    def meant(escape: re.Match[str]) -> str:
        code = escape[1] or escape[2] or escape[3]
        if code:
            return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else "\ufffd"
        return _ESCAPED.get(escape[4], escape[4])

    return _ESCAPE.sub(meant, body)
