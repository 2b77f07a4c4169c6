"""Explain why records cannot be used, with counts and what can help, from the records' errors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

SHOWN = 3
"""The most reasons that are named."""

_AGAIN = "Fetch damaged and empty files again from their origin"
_RULES = (
    (r"is empty \(zero bytes\)|looks like an empty file", "an empty file", _AGAIN),
    (r"looks like zeros", "a file of zeros, as a full or failing disk leaves it", _AGAIN),
    (r"JPEG is damaged or truncated", "a JPEG that is cut off or damaged", _AGAIN),
    (
        r"(?i)cannot be decoded.*(truncated|cut off|unexpected end|broken|premature)",
        "a picture that is cut off or damaged",
        _AGAIN,
    ),
    (
        r"looks like (?P<kind>a web page|JSON|XML)",
        "{kind}, not a picture",
        "A server sends a page or JSON instead of a picture when it wants a login, or has lost the picture",
    ),
    (r"looks like (?P<kind>a Git LFS pointer)", "{kind}, not the picture itself", "Run `git lfs pull`"),
    (
        r"looks like (?P<kind>[^.:]+ picture): it is damaged",
        "{kind} that is damaged, or of a kind that is not read",
        _AGAIN,
    ),
    (r"looks like (?P<kind>[^.:]+ picture)", "{kind}, which is not read", "Convert these pictures to JPEG or PNG"),
    (r"looks like (?P<kind>nothing known)", "no picture of a known format", ""),
    (r"looks like (?P<kind>[^.:]+)", "{kind}, not a picture", ""),
    (r"too large|takes too much", "a picture that is too large to decode", "Store these pictures smaller"),
    (r"two could be meant", "a name that could mean two files", "Write names as the files spell them"),
    (
        r"(?s)caption cannot be read.*codec can't decode",
        "a caption that is not UTF-8",
        "Write captions as UTF-8: their present encoding is often CP1252 or UTF-16",
    ),
    (
        r"caption cannot be read",
        "a caption or .json that cannot be read",
        "Write valid JSON, with double quotes, in a .json",
    ),
    (
        r"image file does not exist",
        "the image file does not exist",
        "`--data.image-root` is wrong, or the files are gone",
    ),
)  # fmt: skip
"""Pattern of an error → the reason in few words, and what can help; the first match counts."""


def explain(reasons: Sequence[str], count: int) -> str:
    """Return sentences on why `count` records cannot be used, from the errors of the first, and on what can help."""
    counts = Counter(map(_in_few_words, reasons))
    if not counts:
        return ""
    most = counts.most_common(SHOWN)
    said = "; ".join(f"{number:,} × {words}" for (words, _), number in most)
    if rest := len(reasons) - sum(number for _, number in most):
        said += f"; {rest:,} × something else"
    where = "" if len(reasons) == count else f", of the first {len(reasons):,}"
    advice = list(dict.fromkeys(advice for (_, advice), _ in most if advice))
    return " ".join(f"{sentence}." for sentence in (f"Why{where}: {said}", *advice))


def _in_few_words(reason: str) -> tuple[str, str]:
    """Return the reason, and what can help, "" if that is unknown."""
    for pattern, words, advice in _RULES:
        if found := re.search(pattern, reason):
            return words.format(**found.groupdict()), advice
    return reason.split(". ")[0].rstrip("."), ""
