"""Copies of pictures, or links to pictures, in folders of classes: FOLDER/CLASS/NAME. Nothing is ever overwritten."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from openslip.classifying.labels import Image, Label, Names, path_shown
from openslip.data.formats import EXTENSIONS, FORMATS
from openslip.data.record import Source
from openslip.data.sniff import looks_like
from openslip.data.sources.folder import ImageFolder
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.webdataset import TarShards
from openslip.errors import ConfigError, DataError
from openslip.files import TEMPORARY, expand, unwritable

LONGEST = 120
"""The most bytes of UTF-8 in a name, without the ending and without a digest."""
RESERVED = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)))
)
"""Names that Windows keeps for itself."""
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udfff]')
_KINDS = {
    **{f"a {name} picture": FORMATS[name][0] for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "AVIF")},
    "a WebP picture": "webp",
    "a JPEG 2000 picture": "jp2",
}


class Sorter:
    """Puts pictures into folders of classes below one folder.

    folder: may exist already. names: the names of the C classes. none: the name for pictures of no class, which get a
    folder, too. source, spec: the pictures, and the spec that named them. link: make symbolic links instead of copies.

    A picture keeps its name. If pictures of a class share a name, the first keeps the name, and the others get a
    digest of where they come from. Pictures that an earlier run has put there stay and count as done. So the same call
    again changes nothing.

    Raises ConfigError before anything is written: if links are asked for and the pictures are not files; if the folder
    is among the pictures or cannot be written; if something in the folder is in the way; or if the disk has no room.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], none: str, source: Source, spec: str, *, link: bool = False
    ) -> None:
        self.folder, self.link, self.names_of = expand(folder), link, Names(source, spec)
        self.folders = folder_names([*dict.fromkeys([*names, none])])
        self.placed = self.found = 0
        self._taken: set[bytes] = set()
        if link and not all(isinstance(origin, ImageFiles) for origin in _origins(source)):
            raise ConfigError(
                "--link makes links to files, and these pictures are not separate files",
                got=spec,
                fix="Leave --link out to write copies",
            )
        self._check(source, spec)

    def __call__(self, label: Label, image: Image | None) -> str:
        """Put a picture into the folder of its answer. Return its path below `folder`, or "" for a label with an error.

        image: the picture as it was read; links need none. Raises DataError if the picture cannot be written.
        """
        if label.error:
            return ""
        below = self.folders[label.answer]
        try:
            os.makedirs(self.folder / below, exist_ok=True)
            path = self.names_of.file(label.index)
            stem, ending = self._name(label.picture, path, image)
            told = self.names_of.within(label.index, label.picture)
            place = self._place(os.path.join(below, stem), ending, told, path, image)
        except OSError as error:
            raise DataError(
                f"The picture cannot be put into {self.folder / below}",
                got=label.picture,
                cause=error.strerror or str(error),
                fix=f"{self.placed:,} pictures are there. Make room; then the same command goes on",
            ) from None
        return path_shown(place)

    def _name(self, picture: str, path: str, image: Image | None) -> tuple[str, str]:
        """Return the safe name of a picture without its ending, and the ending that its content has."""
        base = os.path.basename(path or picture.rstrip("/"))
        stem, ending = os.path.splitext(base)
        if ending[1:].lower() not in EXTENSIONS:
            stem, ending = base, ""
        if not path or not ending:  # a key, which may only look as if it had an ending
            ending = f".{ending_of(image)}"
        return safe_name(stem), ending

    def _place(self, stem: str, ending: str, told: str, path: str, image: Image | None) -> str:
        """Put a picture at the first free one of its names, or find where it already is. Return its path.

        stem: the usual path without the ending. told: a text that tells the picture from others of the same name.
        """
        for place in _names(stem, ending, told):
            key = hashlib.blake2b(_folded(place).encode("utf-8", "replace"), digest_size=8).digest()
            if key in self._taken:  # by another picture of this call
                continue
            target = self.folder / place
            if os.path.lexists(target):
                if not self._is_there(target, path, image):
                    continue
                self.found += 1
            elif self._put(target, path, image):
                self.placed += 1
            else:
                continue
            self._taken.add(key)
            return place
        raise AssertionError("There is always another name")

    def _put(self, target: Path, path: str, image: Image | None) -> bool:
        """Make the copy or link, whole or not at all. Return False if something is already there."""
        if self.link:
            try:
                os.symlink(os.path.abspath(path), target)
            except FileExistsError:
                return False
            return True
        unfinished = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            with open(unfinished, "xb") as file:
                file.write(_bytes(image))
            if path:
                with suppress(OSError):
                    status = os.stat(path)
                    os.utime(unfinished, ns=(status.st_atime_ns, status.st_mtime_ns))
            try:
                os.link(unfinished, target)  # fails if anything is there
            except FileExistsError:
                return False
            except OSError:  # a disk without hard links
                if os.path.lexists(target):
                    return False
                os.rename(unfinished, target)
            return True
        finally:
            unfinished.unlink(missing_ok=True)

    def _is_there(self, target: Path, path: str, image: Image | None) -> bool:
        """Whether `target` already holds this picture: the file itself, a link to the file, or the same bytes."""
        if path and os.path.exists(target) and os.path.samefile(path, target):
            return True
        if self.link or os.path.islink(target) or not target.is_file():
            return False
        content = _bytes(image)
        return target.stat().st_size == len(content) and target.read_bytes() == content

    def _check(self, source: Source, spec: str) -> None:
        inside = os.path.realpath(self.folder)
        of_folder = {
            os.path.realpath(origin.root) for origin in _origins(source) if isinstance(origin, ImageFolder)
        }
        for root in of_folder if os.path.isdir(expand(spec)) or "**" in spec else ():
            if inside == root or inside.startswith(root.rstrip(os.sep) + os.sep):
                raise ConfigError(
                    "The folder to sort into is among the pictures, and the next call would classify the copies",
                    got=f"--sort-into {self.folder}, in {root}",
                    fix="Name a folder outside the pictures",
                )
        there = next(
            place for place in (self.folder, *self.folder.absolute().parents) if os.path.lexists(place)
        )
        if not there.is_dir():
            raise ConfigError(
                "Something that is not a folder is in the way of the folder to sort into",
                got=str(there),
                fix="Name another folder with --sort-into",
            )
        if why := unwritable(there / "probe"):
            raise ConfigError(
                "The folder to sort into cannot be written", got=str(there), cause=why, fix="Name another one"
            )
        for below in self.folders.values():
            place = self.folder / below
            if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
                raise ConfigError(
                    "Something is in the way of the folder of a class",
                    got=str(place),
                    cause="It is a link or a file, and pictures are put only into real folders",
                    fix="Remove the link or file, or name another folder with --sort-into",
                )
        if not self.link:
            self._check_room(source, there)

    def _check_room(self, source: Source, there: Path) -> None:
        needed = _size(source) - (_below(self.folder) if self.folder.is_dir() else 0)
        free = shutil.disk_usage(there).free
        if needed > free:
            raise ConfigError(
                "The disk has no room for copies of the pictures",
                got=f"{needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free at {there}",
                fix="Make room, name a folder on another disk, or add --link, which copies nothing",
            )


def folder_names(names: Sequence[str]) -> dict[str, str]:
    """Return the name of a folder for each class. Names are safe on any system, and differ by more than capitals."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        safe = safe_name(name)
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        choices = [safe, *(f"{safe}-{digest[:length]}" for length in (6, 12, 32))]
        found[name] = next(choice for choice in choices if _folded(choice) not in taken)
        taken.add(_folded(found[name]))
    return found


def safe_name(name: str) -> str:
    """Return a name that any system accepts for one file or folder: `a_b` for `a/b`, `_` for `..`.

    Separators, control characters, `: * ? " < > |` and leading dots become `_`. Spaces in front, and dots and spaces at
    the end, are removed. Names that Windows keeps for itself get a `_` in front. Long names are cut.
    """
    text = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name))
    text = re.sub(r"^\s+|[\s.]+$", "", text)
    text = re.sub(r"^\.+", "_", text)
    text = (
        text.encode()[:LONGEST].decode("utf-8", "ignore").rstrip(" .")
        if len(text.encode()) > LONGEST
        else text
    )
    return f"_{text}" if not text or text.split(".")[0].lower() in RESERVED else text


def ending_of(image: Image | None) -> str:
    """Return the ending that fits a picture's content; `png` for pixels, which are written as PNG."""
    if image is None or isinstance(image, np.ndarray):
        return "png"
    kind = looks_like(image)
    if image[:1] == b"P" and image[1:2] in b"123456":
        return "ppm"
    return _KINDS.get(kind, "jpg" if not kind.endswith("picture") else "img")


def _bytes(image: Image | None) -> bytes:
    if not isinstance(image, np.ndarray):
        return image or b""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _names(stem: str, ending: str, told: str) -> Iterator[str]:
    """Yield the names that a picture may have, the usual name first. Further names depend on `told` alone."""
    digest = hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    yield f"{stem}{ending}"
    yield f"{stem}-{digest[:8]}{ending}"
    for number in itertools.count(2):
        yield f"{stem}-{digest}-{number}{ending}"


def _folded(name: str) -> str:
    """Return a form of a name that is equal for two names that a disk may treat as one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _origins(source: Source) -> list[Source]:
    """Return the sources that hold the records of a source."""
    firsts, start = [], 0
    for part in source.parts:
        if part.length:
            firsts.append(source.origin(start)[0])
        start += part.length
    return firsts


def _size(source: Source) -> int:
    """Return the size of the pictures in bytes, as far as it is known without reading them."""
    total = 0
    names = Names(source)
    for origin in _origins(source):
        if isinstance(origin, TarShards):
            total += sum(os.path.getsize(path) for path in origin.paths if os.path.exists(path))
    for index in range(len(source)):
        if path := names.path(index):
            with suppress(OSError, ValueError):
                total += os.path.getsize(path)
    return total


def _below(folder: Path) -> int:
    """Return the size in bytes of the files in a folder, which a second run does not write again."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
