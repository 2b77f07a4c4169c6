"""Tell what the cells of a table's column look like: paths, captions, objects, pictures written as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from openslip.data.captions import is_placeholder, spelled
from openslip.data.formats import EXTENSIONS
from openslip.errors import DataError

_FILE = re.compile(
    rf"\s*+[^\s].{{,4000}}\.({'|'.join(sorted(EXTENSIONS))}|jpe|heic|heif)\s*", re.IGNORECASE | re.DOTALL
)
_URL = re.compile(r"\s*(https?|s3|gs|ftp)://", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*")
_CODE = re.compile(r"\S*(\d|\.[a-z]{2,4}$)\S*$")
_BASE64 = re.compile(r"\s*(data:image/[\w.+-]+;base64,|[A-Za-z0-9+/_-]{256})")
_BYTES = re.compile(r"""\s*(\{\s*['"]bytes['"]\s*:\s*)?b['"]""")
_IMAGE = rf"[^,;|]+\.(?:{'|'.join(sorted(EXTENSIONS))})"
_NO_NAMES = (
    (
        re.compile(r"=.+\(.*", re.DOTALL),
        "Its cells are spreadsheet formulas: write only the names of the files, without '=IMAGE(' and the like",
    ),
    (
        re.compile(r"(['`‘’“„«]).+['`’”“»]", re.DOTALL),
        'The names are in quotes of a kind that is not recognised: remove the quotes, or use double quotes (")',
    ),
    (
        re.compile(rf"{_IMAGE}(?:\s*[,;|]{_IMAGE})+", re.IGNORECASE),
        "Each cell names several files: write one row for each file",
    ),
)
"""What cells hold when files are not found → why the cells cannot be names."""
_NUMBERED = re.compile(rf"(.+\.(?:{'|'.join(sorted(EXTENSIONS))}))#\d+", re.IGNORECASE)
_ZERO_WIDTH = "\ufeff\u200b\u200e\u200f\u2060"

Cells = Callable[[str], Sequence[Any]]
"""Takes a column's name and gives some of the column's cells."""


def path_of(value: Any) -> str:
    """Return the path that a cell names: the text itself, the path in an object as data hubs write it, or the only
    item of a list; "" if none."""
    if isinstance(value, str):
        path = value.strip()
        return path if path.isascii() else path.strip(_ZERO_WIDTH)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = next(
            (value[key] for key in ("path", "file_name", "filename", "file") if value.get(key)), None
        )
    return path_of(value) if isinstance(value, str) else ""


def looks_like_paths(cells: Sequence[Any]) -> int:
    """Return how much a column's cells look like image paths: 3 paths, 2 addresses, 1 other texts, 0 not at all."""
    plain = [path for path in map(path_of, cells) if path]
    if not plain or _share(_NUMBER, plain) > 0.5:
        return 0
    if _share(_URL, plain, whole=False) > 0.5:
        return 2
    likely = sum(bool(_FILE.fullmatch(path) or "/" in path or "\\" in path) for path in plain)
    return 3 if likely > 0.5 * len(plain) else 1


def names_file(text: str) -> bool:
    """Whether a text, in quotes or not, has the ending of an image file."""
    return _FILE.fullmatch(text.strip("\"'")) is not None


def are_files(cells: Sequence[Any]) -> bool:
    """Whether nearly all cells of a column are names of image files."""
    return _share(_FILE, cells) > 0.9


def looks_like_captions(cells: Sequence[Any]) -> bool:
    """Whether a column's cells may be captions; True without any cells."""
    if not cells:
        return True
    found = [cell for cell in cells if cell is not None and cell != ""]
    if any(not isinstance(cell, str | int | float) for cell in found):
        return True
    words = [cell for cell in found if isinstance(cell, str) and not is_placeholder(cell)]
    poor = sum(
        len(word) < 200 and " " not in word and any(form.match(word) for form in (_CODE, _FILE, _URL))
        for word in words
    )
    return bool(words) and poor < 0.9 * len(words)


def _share(form: re.Pattern[str], cells: Sequence[Any], *, whole: bool = True) -> float:
    """Return the share of the non-empty cells that match `form`."""
    found = [cell for cell in cells if cell is not None and cell != ""]
    fits = form.fullmatch if whole else form.match
    return sum(isinstance(cell, str) and fits(cell) is not None for cell in found) / max(1, len(found))


def keys_in(cells: Sequence[Any]) -> tuple[list[str], Any]:
    """Return the keys of the objects in cells, and one of the objects; nothing where a cell is a plain text."""
    seen: dict[str, None] = {}
    example: Any = None
    pending = [spelled(cell.strip()) or cell if isinstance(cell, str) else cell for cell in reversed(cells)]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += reversed(item)
        elif isinstance(item, dict):
            seen |= dict.fromkeys(item)
            example = example or item
        elif isinstance(item, str) and item.strip():
            return [], None
    return list(seen), example


def cannot_be_files(paths: Sequence[str]) -> str:
    """Return why cells that name no existing file cannot be file names, and what to do; "" if they can."""
    for form, why in _NO_NAMES:
        if _share(form, paths) > 0.5:
            return why
    return ""


def numbered(paths: Sequence[str]) -> bool:
    """Whether names of image files end in the number of a caption, as in Flickr8k: `1000.jpg#0`."""
    return _share(_NUMBERED, paths) > 0.9


def without_number(path: str) -> str:
    """Return the name of an image file without the number of a caption at its end."""
    found = _NUMBERED.fullmatch(path)
    return found[1] if found else path


def refuse_urls(paths: Iterable[object], column: str, where: str) -> None:
    """Raise DataError when a cell of the image column is a web address."""
    for path in paths:
        if isinstance(path, str) and re.match(r"\s*https?://", path):
            raise DataError(
                f"Column '{column}' of {where} holds web addresses, not files",
                got=path,
                fix="Download the images first (img2dataset makes tar shards of such a table) and train on the files",
            )


def refuse_pictures(cells: Iterable[object], column: str, where: str) -> None:
    """Raise DataError when a cell of the image column is a picture written as text."""
    for cell in cells:
        if not isinstance(cell, str):
            continue
        form = "in base64" if _BASE64.match(cell) else "as Python prints bytes" if _BYTES.match(cell) else ""
        if form:
            decoded = (
                'base64.b64decode(text.split(",")[-1])' if form == "in base64" else "ast.literal_eval(text)"
            )
            raise DataError(
                f"Column '{column}' of {where} holds pictures written as text, {form}",
                got=f"{cell[:40]}… ({len(cell):,} characters)",
                cause="A text table holds the names of image files; bytes belong in Parquet",
                fix=f"Turn each text into bytes with Python, {decoded}, and write the bytes to files, or to a column "
                "of bytes in a Parquet file",
            )
