"""Judge a caption without understanding it: its script, and whether it says anything at all."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from html import unescape

from openslip.data.captions import is_placeholder

SCRIPTS = (
    *("no letters", "Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Han", "Kana", "Hangul", "Devanagari"),
    *("Bengali", "Tamil", "Telugu", "Thai", "Georgian", "Armenian", "Ethiopic", "other"),
)
"""Scripts that are told apart, by number."""
NO_LETTERS, LATIN, OTHER = 0, 1, len(SCRIPTS) - 1

_FIRST_WORDS = {script.upper(): number for number, script in enumerate(SCRIPTS)} | {
    "CJK": SCRIPTS.index("Han"),
    "IDEOGRAPHIC": SCRIPTS.index("Han"),
    "HIRAGANA": SCRIPTS.index("Kana"),
    "KATAKANA": SCRIPTS.index("Kana"),
    "FULLWIDTH": LATIN,
    "FEMININE": LATIN,
    "MASCULINE": LATIN,
    "MODIFIER": LATIN,
    "HALFWIDTH": SCRIPTS.index("Kana"),
}
_READ = 500  # letters that decide a caption's script
_NAMES = r"(img|image|dsc[nf]?|dscf|dcim|pict?|photo|p|mvc|cimg|screenshot|scan|untitled|vid|gopr|pxl|wp)"
_USELESS = re.compile(
    rf"{_NAMES}|{_NAMES}[\s_().-]*\d[\d\s_().:x-]*|[\d\s!-/:-@\[-`{{-~]+|\d+\s*x\s*\d+|(https?://|www\.)\S*"
    r"|\S*\.(jpe?g|png|gif|webp|bmp|tiff?|heic|raw|nef|cr2|txt|json|xml)|(</?[a-z][^<>]*>\s*)+|[?\ufffd\s]+",
    re.IGNORECASE,
)
# The rest of a text that was read in a wrong encoding: control characters where Windows has quotes and dashes.
_MISREAD = re.compile(r"[\x80-\x9f\ufffd]")
_TAG = re.compile(
    r"</?(a|b|br|div|em|font|h[1-6]|i|img|li|ol|p|span|strong|su[bp]|t[abdhr]\w*|u|ul)(\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_CODE = re.compile(r"[\[{]\s*+[\[{'\"]")


def script(text: str) -> int:
    """Return the number in SCRIPTS of the script of most letters in a text."""
    if text.isascii():
        return LATIN if any(map(str.isalpha, text)) else NO_LETTERS
    counts = [0] * len(SCRIPTS)
    for letter in text[:_READ]:
        if letter.isalpha():
            counts[_script(letter)] += 1
    return max(range(len(SCRIPTS)), key=counts.__getitem__) if any(counts) else NO_LETTERS


def useless(text: str) -> bool:
    """Whether a text can say nothing about the picture: a file name, a camera's number, a web address, only digits,
    HTML without text, `NULL` or another placeholder for no text."""
    text = (unescape(text) if "&" in text else text).strip()
    return is_placeholder(text) or _USELESS.fullmatch(text) is not None


def misread(text: str) -> bool:
    """Whether a text has characters that show that it was read in a wrong encoding."""
    return not text.isascii() and _MISREAD.search(text) is not None


def code(text: str) -> bool:
    """Whether a text is written for programs: it holds HTML tags, or is a list or object."""
    text = text.strip()
    if text[:1] + text[-1:] in ("[]", "{}") and _CODE.match(text):
        return True
    return "<" in text and _TAG.search(text) is not None


def normal(text: str) -> str:
    """Return a caption in the form in which captions are compared."""
    return " ".join(text.lower().split())


@lru_cache(maxsize=2**14)
def _script(letter: str) -> int:
    return _FIRST_WORDS.get(re.split(r"[ -]", unicodedata.name(letter, ""))[0], OTHER)
