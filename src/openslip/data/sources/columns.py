"""Choose the columns of a table that hold images and captions: those asked for, or guesses, which a note reports."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from openslip.data.captions import WITHOUT_CAPTIONS, texts
from openslip.data.limits import COLUMNS
from openslip.data.sources.cells import (
    Cells,
    are_files,
    keys_in,
    looks_like_captions,
    looks_like_paths,
    names_file,
    without_number,
)
from openslip.data.sources.options import Misfit
from openslip.errors import DataError, did_you_mean

# Well-known names, best first; only letters and digits count, without case and accents: `Image-Path` is image_path.
# Web addresses come last: a column of them is found in order to be refused with advice.
IMAGE_COLUMNS = (
    *("image", "image_path", "img_path", "filepath", "image_file", "file", "filename", "image_name"),
    *("image_filename", "img_file", "img_filename", "img_name", "img", "path", "photo", "photo_path"),
    *(
        "photo_file",
        "photo_name",
        "picture",
        "picture_path",
        "picture_file",
        "pic",
        "pictures",
        "photos",
        "images",
    ),
    *(
        "bild",
        "bilddatei",
        "bildpfad",
        "bildname",
        "bilder",
        "foto",
        "fotos",
        "dateiname",
        "datei",
        "dateipfad",
        "pfad",
    ),
    *("imagen", "archivo", "nombre_archivo", "nombre_de_archivo", "fichero", "ruta"),
    *("fichier", "nom_fichier", "nom_du_fichier", "chemin", "immagine", "nome_file", "imagem", "arquivo"),
    *("afbeelding", "bestand", "bestandsnaam", "图片", "image_id", "img_id", "photo_id"),
    *("image_url", "img_url", "photo_url", "image_src", "url"),
)
MENTIONED = 20
"""The most columns that a note names."""
CAPTION_COLUMNS = (
    *("caption", "captions", "text", "texts", "title", "description", "alt_text", "alt", "txt"),
    *("sentence", "sentences", "prompt", "image_caption", "image_description", "image_text", "img_caption"),
    *("photo_caption", "picture_caption", "comment", "comments", "raw", "raw_caption", "product_description"),
    *("product_title", "product_name", "product_display_name", "item_name", "item_title", "product"),
    *(
        "beschreibung",
        "bildbeschreibung",
        "bildunterschrift",
        "bildtext",
        "titel",
        "produktname",
        "artikelname",
    ),
    *(
        "produktbeschreibung",
        "artikelbeschreibung",
        "produktbezeichnung",
        "artikelbezeichnung",
        "bezeichnung",
    ),
    *(
        "legende",
        "titre",
        "nom_du_produit",
        "descripcion",
        "leyenda",
        "titulo",
        "nombre_del_producto",
        "texto",
    ),
    *(
        "descrizione",
        "didascalia",
        "titolo",
        "descricao",
        "legenda",
        "beschrijving",
        "omschrijving",
        "描述",
        "标题",
        "文本",
        "说明",
        "説明",
        "キャプション",
        "설명",
        "캡션",
    ),
    *("descricao_do_produto", "descricao_produto", "descripcion_del_producto", "description_du_produit"),
    *("opis", "popis", "beskrivning", "beskrivelse", "kuvaus", "açıklama", "описание", "подпись", "название"),
    *("name", "nom", "nombre", "nome", "naam"),
)
_WEAK = frozenset(("name", "nom", "nombre", "nome", "naam", "product", "raw", "comment", "comments"))
"""Names of caption columns only if the cells look like captions."""

# What may follow a well-known name: `caption_en`, `title: short, English`.
_QUALIFIERS = frozenset(
    [
        *(
            "en",
            "eng",
            "english",
            "de",
            "ger",
            "deu",
            "german",
            "deutsch",
            "fr",
            "fra",
            "french",
            "francais",
            "es",
        ),
        *(
            "spa",
            "spanish",
            "espanol",
            "it",
            "ita",
            "italian",
            "nl",
            "pt",
            "ru",
            "zh",
            "ja",
            "ko",
            "short",
            "long",
        ),
        *("full", "clean", "cleaned", "final"),
    ]
)


@dataclass(frozen=True)
class Columns:
    """The image column, the caption columns (none: the records have no captions), and which of them were guessed.

    keys: for each caption column, the keys that lead to the text in cells that are objects; () if no cells are objects.
    among, worded: the candidates for the image and for the captions. others: where no captions were found, the columns
    that were looked at. remark: a remark on the cells, for people.
    """

    image: str
    captions: tuple[str, ...]
    guessed: tuple[str, ...] = ()
    keys: tuple[tuple[str, ...], ...] = ()
    among: tuple[str, ...] = ()
    worded: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    remark: str = ""

    def note(self, name: str) -> str:
        """Return a sentence on what was guessed about the table called `name`; "" if nothing was guessed."""
        parts = []
        if "image" in self.guessed:
            among = f" (among {', '.join(map(repr, self.among))})" if len(self.among) > 1 else ""
            parts.append(f"image from '{self.image}'{among}")
        if "caption" in self.guessed:
            plural = "s" if len(self.captions) > 1 else ""
            spelled_out = (
                repr(".".join([column, *keys])) for column, keys in zip(self.captions, self.key_paths)
            )
            among = (
                f" (among {', '.join(map(repr, self.worded))})"
                if len(self.worded) > len(self.captions)
                else ""
            )
            parts.append(f"caption{plural} from {', '.join(spelled_out)}{among}")
        said = f"{', '.join(parts)} (guessed)" if parts else ""
        if not self.captions:
            others = ", ".join(map(repr, self.others))
            none = f"no captions (other columns: {others})" if others else "no captions"
            said = f"{said}; {none}" if said else none
        return ". ".join(filter(None, [f"Columns of {name}: {said}" if said else "", self.remark]))

    @property
    def key_paths(self) -> tuple[tuple[str, ...], ...]:
        """`keys`, with one entry per caption column."""
        return self.keys or ((),) * len(self.captions)

    def texts(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the captions in a row, whose caption columns hold `values`."""
        if not self.keys:
            return (
                texts(values[0]) if len(values) == 1 else tuple(t for value in values for t in texts(value))
            )
        return tuple(text for value, keys in zip(values, self.keys) for text in texts(value, keys))


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
    described: Sequence[str] = (),
) -> Columns:
    """Choose columns of the table at `where`: those that were asked for, or else the best guesses.

    `image` and `caption` are the names asked for, or "". `caption` may list several names, with commas, and may name a
    key of the objects in a column: `captions.text`. `image_guesses` are candidates, best first; all `caption_guesses`
    are taken. Errors quote `cause`, and the columns as `described`.
    Raises Misfit when there is no such column, DataError when there is no guess for the image, or none for captions
    that are required.
    """
    guessed = tuple(what for what, wanted in (("image", image), ("caption", caption)) if not wanted)
    if not image and not image_guesses:
        raise _no_guess(where, "image", described or columns, cause)
    chosen = _find("image", where, columns, image) if image else image_guesses[0]
    among = () if image else tuple(image_guesses)
    if caption:
        names = [caption] if caption in columns else [name.strip() for name in caption.split(",")]
        found = [_find_key(where, columns, name) for name in names]
        keys = tuple(keys for _, keys in found)
        return Columns(
            chosen, tuple(column for column, _ in found), guessed, keys if any(keys) else (), among
        )
    captions = tuple(name for name in caption_guesses if name != chosen)
    if captions_required and not captions:
        raise _no_guess(where, "caption", described or columns, cause)
    if not captions:
        guessed = tuple(what for what in guessed if what != "caption")
    known = set(map(plain_name, CAPTION_COLUMNS))
    worded = tuple(
        name
        for name in dict.fromkeys(columns)
        if name in captions or plain_name(name) in known - {plain_name(chosen)}
    )
    others = () if captions else tuple(name for name in dict.fromkeys(columns) if name and name != chosen)
    return Columns(chosen, captions, guessed, (), among, worded, others[:MENTIONED])


def guess_images(columns: Iterable[str], cells: Cells | None = None, where: str = "") -> list[str]:
    """Return the columns that may name image files, best first.

    These are the columns with well-known names. With `cells`, columns of paths come first, then columns of web
    addresses, then others, and columns of numbers last. Where no name is known, a single column of names of image
    files is taken. Raises DataError, about the table at `where`, when two columns are equally likely.
    """
    columns = list(dict.fromkeys(column for column in columns if column))
    by_name = by_plain_name(columns)
    known = [column for name in IMAGE_COLUMNS for column in by_name.pop(plain_name(name), ())]
    if cells is None:
        return list({plain_name(column): column for column in reversed(known)}.values())[::-1]
    if not known:
        # In a table without a line of names, a file's name is taken for the name of its column.
        known = [column for column in file_columns(columns, cells) if not names_file(column)]
        if len(known) > 1:
            raise _equally_likely(where, known)
        return known
    ranked = sorted(known, key=lambda column: -looks_like_paths(cells(column)))
    best = looks_like_paths(cells(ranked[0]))
    for other in ranked[1:]:
        if (
            plain_name(other) == plain_name(ranked[0])
            and looks_like_paths(cells(other)) == best
            and list(cells(other)) != list(cells(ranked[0]))
        ):
            raise _equally_likely(where, [ranked[0], other])
    return ranked


def guess_captions(columns: Iterable[str], cells: Cells | None = None) -> tuple[str, ...]:
    """Return the columns with the best well-known name for captions, or the numbered columns of it (`caption_0`, …).

    Columns whose names differ only in case or spaces are all captions. So are columns that pandas numbers
    (`caption.1`), and columns in several languages. With `cells`, columns of numbers, file names or nothing come last.
    """
    columns = list(dict.fromkeys(column for column in columns if column))
    if cells is not None:
        likely = [column for column in columns if looks_like_captions(cells(column))]
        found = guess_captions(likely) if len(likely) < len(columns) else ()
        if found:
            return found
        columns = [column for column in columns if column in likely or plain_name(column) not in _WEAK]
    by_name = by_plain_name(columns)
    numbered: dict[str, list[str]] = {}
    for column in columns:
        plain = plain_name(column)
        if (stem := re.sub(r"\d+$", "", plain)) != plain:
            numbered.setdefault(stem, []).append(column)
    for name in map(plain_name, CAPTION_COLUMNS):
        if name in by_name:
            equal = by_name[name]
            return *equal, *(
                c for c in columns if any(re.fullmatch(rf"{re.escape(e)}\.\d+", c) for e in equal)
            )
        if name in numbered:
            return tuple(numbered[name])
    qualified: dict[str, list[str]] = {}
    for column in columns:
        if name := _qualified(column):
            qualified.setdefault(name, []).append(column)
    for name in map(plain_name, CAPTION_COLUMNS):
        if name in qualified:
            return tuple(qualified[name])
    last = tuple(column for column in columns if re.search(r"[\W_]captions?$", column.strip().lower()))
    return last if len(last) == 1 else ()


def file_columns(columns: Iterable[str], cells: Cells) -> list[str]:
    """Return the columns whose cells have the endings of image files, whatever the columns are called."""
    return [column for column in dict.fromkeys(columns) if column and are_files(cells(column))]


def find_keys(columns: Columns, cells: Cells, where: str) -> Columns:
    """Return the columns with the keys that lead to the texts, where caption columns hold objects.

    Without a named key, a well-known name among the keys is taken. Raises DataError, which lists the keys, when there
    is no such key, or when the named key is missing.
    """
    paths, remarks = [], []
    for column, path in zip(columns.captions, columns.key_paths):
        seen, example = keys_in(cells(column))
        by_name = by_plain_name(seen)
        known = [by_name[name][0] for name in map(plain_name, CAPTION_COLUMNS) if name in by_name]
        if seen and (path[0] not in seen if path else not known):
            raise DataError(
                f"Column '{column}' of {where} holds objects, "
                + (f"without a key {path[0]!r}" if path else "not texts"),
                got=str(example)[:200],
                cause=f"Their keys are {', '.join(map(repr, seen))}",
                fix=f"Name the key that holds the text, for example: --data.caption-column {column}.{seen[0]}",
            )
        if seen and not path:
            remarks.append(f"The cells of '{column}' are objects with {', '.join(map(repr, seen))}")
        paths.append(path or tuple(known[:1]))
    keys = tuple(paths) if any(paths) else ()
    return replace(columns, keys=keys, remark=". ".join(remarks))


def _qualified(column: str) -> str:
    """Return the first word of a column's name if only languages or lengths follow it; "" if not."""
    first, *rest = re.findall(r"[^\W_]+", _folded(column)) or [""]
    return first if rest and set(rest) <= _QUALIFIERS else ""


def _equally_likely(where: str, columns: Sequence[str]) -> DataError:
    return DataError(
        f"Several columns of {where} may be the image",
        got=", ".join(columns),
        fix="Name the image column with --data.image-column",
    )


def _find(what: str, where: str, columns: Sequence[str], wanted: str) -> str:
    """Return the column called `wanted`, if need be by plain name. Raises Misfit when there is none."""
    if wanted in columns:
        return wanted
    by_name = by_plain_name(columns)
    if plain_name(wanted) and plain_name(wanted) in by_name:
        return by_name[plain_name(wanted)][0]
    raise Misfit(
        f"{what}_column", f"{where} has no column {wanted!r}", fix=did_you_mean(wanted, filter(None, columns))
    )


def _find_key(where: str, columns: Sequence[str], wanted: str) -> tuple[str, tuple[str, ...]]:
    """Return the caption column called `wanted`, with its keys if `wanted` is `column.key`."""
    column, *keys = wanted.split(".")
    for count in range(len(keys), 0, -1):
        prefix = ".".join([column, *keys[: count - 1]])
        by_name = by_plain_name(columns)
        if wanted not in columns and plain_name(wanted) not in by_name and plain_name(prefix) in by_name:
            return _find("caption", where, columns, prefix), tuple(keys[count - 1 :])
    return _find("caption", where, columns, wanted), ()


def _no_guess(where: str, what: str, columns: Sequence[str], cause: str) -> DataError:
    fix = f"Name the column with --data.{what}-column, or call it '{what}'"
    if what == "caption":
        fix += f"; if there are no captions, `slip train` can do without: {WITHOUT_CAPTIONS}"
    if any(names_file(without_number(column)) for column in columns):  # naming it would lose the row
        fix = "The first line seems to be a row: put a line of names above it, such as 'image' and 'caption'"
    return DataError(
        f"No column of {where} looks like the {what}",
        got=", ".join(filter(None, columns))[:500],
        cause=cause,
        fix=fix,
    )


def by_plain_name(columns: Iterable[str]) -> dict[str, list[str]]:
    """Return plain name → the columns of that name, in order."""
    by_name: dict[str, list[str]] = {}
    for column in columns:
        by_name.setdefault(plain_name(column), []).append(column)
    return by_name


@lru_cache(4 * COLUMNS)
def plain_name(column: str) -> str:
    """Return the part of a column's name that counts: letters and digits, in lower case without accents."""
    return re.sub(r"[\W_]+", "", _folded(column))


def _folded(text: str) -> str:
    """Return text in lower case without accents."""
    split = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in split if not unicodedata.combining(letter))
