"""Which columns of a table hold images and captions: the ones asked for, else guessed, and then said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slip.data.sources.options import Misfit
from slip.errors import DataError, did_you_mean

# Well-known names, best first; case is ignored, spaces and dashes count as underscores.
# Web addresses come last: a column of them is found in order to be refused with advice.
IMAGE_COLUMNS = (
    *("image", "image_path", "img_path", "imagepath", "filepath", "file_path", "image_file", "file"),
    *("filename", "file_name", "image_name", "img", "path", "image_url", "img_url", "url"),
)
CAPTION_COLUMNS = (
    *("caption", "captions", "text", "texts", "title", "description", "alt_text", "alt", "txt"),
    *("sentence", "sentences", "prompt"),
)


@dataclass(frozen=True)
class Columns:
    """The image column, the caption columns (none: the records have no captions), and which of them were guessed."""

    image: str
    captions: tuple[str, ...]
    guessed: tuple[str, ...] = ()

    def note(self, name: str) -> str:
        """Return what was guessed about the table called `name`, a sentence for people; "" if nothing was."""
        parts = []
        if "image" in self.guessed:
            parts.append(f"image from '{self.image}'")
        if "caption" in self.guessed:
            plural = "s" if len(self.captions) > 1 else ""
            parts.append(f"caption{plural} from {', '.join(map(repr, self.captions))}")
        said = f"{', '.join(parts)} (guessed)" if parts else ""
        if not self.captions:
            said = f"{said}; no captions" if said else "no captions"
        return f"Columns of {name}: {said}" if said else ""


def choose(
    where: str,
    columns: Sequence[str],
    *,
    image: str = "",
    caption: str = "",
    image_guesses: Sequence[str],
    caption_guesses: tuple[str, ...],
    captions_required: bool = True,
    cause: str = "",
) -> Columns:
    """Choose among the `columns` of the table at `where` those that were asked for, else the best guesses.

    `image` and `caption` are names asked for, "" where none was; `caption` may list several, with commas.
    `image_guesses` are candidates, best first; `caption_guesses` are taken all. `cause` goes into the errors.
    Raises Misfit when there is no such column, DataError when there is no guess for the image, or none for captions
    that are required.
    """
    guessed = tuple(what for what, wanted in (("image", image), ("caption", caption)) if not wanted)
    if not image and not image_guesses:
        raise _no_guess(where, "image", columns, cause)
    chosen = _find("image", where, columns, image) if image else image_guesses[0]
    if caption:
        names = [caption] if caption in columns else [name.strip() for name in caption.split(",")]
        return Columns(chosen, tuple(_find("caption", where, columns, name) for name in names), guessed)
    captions = tuple(name for name in caption_guesses if name != chosen)
    if captions_required and not captions:
        raise _no_guess(where, "caption", columns, cause)
    return Columns(chosen, captions, guessed if captions else tuple(g for g in guessed if g != "caption"))


def guess_images(columns: Iterable[str]) -> list[str]:
    """Return the columns with well-known names of image paths, best first."""
    by_name = _by_plain_name(columns)
    return [by_name[name] for name in IMAGE_COLUMNS if name in by_name]


def guess_captions(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the column with the best well-known name for captions, or the numbered ones (`caption_0`, …) of it."""
    by_name = _by_plain_name(columns)
    for name in CAPTION_COLUMNS:
        if name in by_name:
            return (by_name[name],)
        numbered = tuple(by_name[plain] for plain in by_name if re.fullmatch(rf"{name}_?\d+", plain))
        if numbered:
            return numbered
    return ()


def refuse_urls(paths: Iterable[object], column: str, where: str) -> None:
    """Raise DataError when a cell of the image column is a web address."""
    for path in paths:
        if isinstance(path, str) and re.match(r"\s*https?://", path):
            raise DataError(
                f"Column '{column}' of {where} holds web addresses, not files",
                got=path,
                fix="Download the images first (img2dataset makes tar shards of such a table) and train on those",
            )


def _find(what: str, where: str, columns: Sequence[str], wanted: str) -> str:
    """Return the column called `wanted`, if need be by its plain name."""
    if wanted in columns:
        return wanted
    by_name = _by_plain_name(columns)
    if _plain(wanted) in by_name:
        return by_name[_plain(wanted)]
    raise Misfit(f"{what}_column", f"{where} has no column {wanted!r}", fix=did_you_mean(wanted, columns))


def _no_guess(where: str, what: str, columns: Sequence[str], cause: str) -> DataError:
    fix = f"Say which one it is with --data.{what}-column, or name it '{what}'"
    if what == "caption":
        fix += "; if there are none, train without text: --objective.loss simclr"
    return DataError(
        f"No column of {where} looks like the {what}", got=", ".join(columns)[:500], cause=cause, fix=fix
    )


def _by_plain_name(columns: Iterable[str]) -> dict[str, str]:
    """Return plain name → column; of two with one plain name, the first."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(_plain(column), column)
    return by_name


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())
