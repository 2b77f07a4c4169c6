"""A folder of images, searched to any depth, with the captions beside the images, if there are any."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from openslip.data.contents import Contents
from openslip.data.formats import EXTENSIONS, FILMS, NOT_READ, image_endings, is_picture, why_not
from openslip.data.limits import TEXT_BYTES
from openslip.data.record import ImageFile, Record
from openslip.data.sources import sidecars
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.options import Misfit
from openslip.data.sources.roots import spread
from openslip.data.sources.sidecars import Asked
from openslip.data.storage.shared_array import SharedArray
from openslip.errors import DataError
from openslip.files import open_regular, read_whole

if TYPE_CHECKING:
    import pyarrow as pa

CONTAINERS = frozenset(("tar", "tgz", "zip", "7z", "rar", "gz", "parquet", "arrow", "npy"))
"""Extensions of files that hold many things, which a user would miss: they count as lost."""
TOLD = 20
"""The most endings of files that are told apart."""

_MARK = "\0"
"""Separates a path from the kind of its sidecars, a letter. No path holds it, and it sorts before all characters."""

_Beside = tuple[str, str]  # what replaces the image's ending for its .json and for its text, "" for none


class ImageFolder(ImageFiles):
    """Every image below `folder`, sorted by relative path, which is also the record's key.

    Captions are read with an image, from the text and the `.json` beside it with the same name: `1.txt` or
    `1.jpg.txt` for `1.jpg` (see `sidecars.read`). `caption_column` asks for one ending, or for keys of the `.json`.
    Hidden files and folders are left out; links are followed, each folder once. `contents` counts the files and says
    why some are not used. `files`: take only these images. `name`: the source's name, by default the folder's.

    Raises DataError when a folder cannot be listed or there is no image; Misfit when no image has captions as asked.
    """

    options = ("caption_column",)

    def __init__(
        self,
        folder: str | Path,
        *,
        files: Sequence[str] | None = None,
        caption_column: str = "",
        name: str = "",
    ) -> None:
        listing = _Listing(str(folder), Asked.parse(caption_column))
        found = sorted(listing.walk() if files is None else listing.these(files))
        if not found:
            raise DataError(
                "The folder holds no images",
                got=str(folder),
                cause=listing.what_is_there(),
                fix=listing.advice(),
            )
        self._asked, self._kinds = listing.asked, listing.kinds
        marked = len(self._kinds) > 1
        paths = (entry.partition(_MARK)[0] for entry in found) if marked else found
        super().__init__(name or str(folder), Path(folder), ((path, ()) for path in paths))
        beside = (ord(entry.partition(_MARK)[2] or "\0") if marked else 0 for entry in found)
        self._beside = SharedArray(np.fromiter(beside, np.uint16, len(found)))
        self.contents = listing.contents(captioned=marked)
        self.note = "\n".join(self._notes(caption_column, listing))
        if not (marked or listing.others):
            self.options = ()  # there is nothing to choose among

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when one of its files cannot be read, IndexError beyond the end."""
        record = super().__getitem__(index)
        return replace(record, captions=self._captions_beside(range(len(self))[index]))

    def file(self, index: int) -> ImageFile:
        file = super().file(index)
        return replace(file, captions=self._captions_beside(range(len(self))[index]))

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the fields of the `.json` beside these images, except captions (see `sidecars.own_fields`).

        Types are JSON's, from these images alone. Where the `.json` of an image cannot be read, all fields are null.
        """
        if not any(sidecar for sidecar, _ in self._kinds):
            return None
        return sidecars.own_columns(self._read, indices, self._asked)

    def _captions_beside(self, index: int) -> tuple[str, ...]:
        try:
            return sidecars.read(*self._read(index), self._asked)
        except (
            OSError,
            ValueError,
            RecursionError,
        ) as error:  # what broken JSON and UTF-8 raise, among others
            raise DataError(
                "The caption cannot be read", got=f"that of {self.path(index)}", cause=str(error)
            ) from None

    def _read(self, index: int) -> tuple[bytes | None, bytes | None]:
        """Return what the `.json` and the text of an image hold, None for none."""
        stem = os.path.splitext(self.path(index))[0]
        sidecar, text = self._kinds[self._beside.array[index]]
        return (
            read_whole(stem + sidecar, TEXT_BYTES) if sidecar else None,
            read_whole(stem + text, TEXT_BYTES) if text else None,
        )

    def _notes(self, caption_column: str, listing: _Listing) -> Iterator[str]:
        """Look at the captions of a few images; yield remarks on them."""
        facts: Counter[str] = Counter()
        with_some = np.flatnonzero(self._beside.array)
        for number in spread(len(with_some)):
            try:
                facts += sidecars.look(*self._read(int(with_some[number])), self._asked)
            except OSError:
                continue
        if caption_column and facts["none"] == facts["looked"]:
            raise Misfit(
                "caption_column",
                f"There are no captions {caption_column!r} beside the images of {self.name}",
                cause=f"A caption of 1.jpg is looked for in 1.{sidecars.TEXTS[0]}, or in 1.json under such a key",
                fix="Leave the option out, or give the table that holds the captions instead of the folder",
            )
        yield from sidecars.notes(facts, self.name)
        texts = [found for extension, found in listing.unused.items() if extension != "json"]
        if texts and not len(with_some):
            count, example = max(texts)
            yield (
                f"No captions lie beside the images of {self.name}: {count:,} texts such as {example} do not have the "
                f"name of an image in the same folder, as a caption of 1.jpg in 1.{sidecars.TEXTS[0]} has"
            )
        elif listing.tables and not len(with_some):
            yield (
                f"No captions lie beside the images of {self.name}. If the captions are in "
                f"{os.path.join(self.root, min(listing.tables))}, give that file instead of the folder"
            )


class _Listing:
    """The images of a folder, each with the kind of its sidecars, an index into `kinds`; and all other files.

    tables: files that may hold captions, by relative path. unused: extension → count and example of the texts and
    `.json` that have no image, or that are one too many for it.
    """

    def __init__(self, folder: str, asked: Asked) -> None:
        self.folder, self.asked = folder, asked
        names = [name.lower() for name in asked.names if name.lower() != "json"]
        self._text_endings = names if asked.names else list(sidecars.TEXTS)
        self.kinds: list[_Beside] = [("", "")]
        self.tables: list[str] = []
        self._numbers: dict[_Beside, int] = {("", ""): 0}
        self._images = self._texts = self._hidden = 0
        self.others: dict[str, list] = {}  # ending → count, example
        self.unused: dict[str, list] = {}
        self._hidden_example = ""

    def walk(self) -> Iterator[str]:
        """Yield the relative path of each image below the folder, with slashes; then _MARK and the kind of its
        sidecars, if it has any."""
        seen: set[tuple[int, int]] = set()
        for parent, folders, files in os.walk(self.folder, onerror=_cannot_list, followlinks=True):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in seen:  # reached again through a link, perhaps endlessly
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            # Sorted, so that the file system does not decide which of two links to one folder is taken.
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
            prefix = os.path.relpath(parent, self.folder).replace(os.sep, "/") + "/"
            yield from self._of_folder("" if parent == self.folder else prefix, files, None)

    def these(self, files: Sequence[str]) -> Iterator[str]:
        """Yield what `walk` yields for the images `files`, absolute or relative to the working folder."""
        relative = sorted(os.path.relpath(file, self.folder).replace(os.sep, "/") for file in files)
        for parent, images in groupby(relative, key=os.path.dirname):
            try:
                there = os.listdir(os.path.join(self.folder, parent))
            except OSError as error:
                _cannot_list(error)
            wanted = {os.path.basename(image) for image in images}
            yield from self._of_folder(f"{parent}/" if parent else "", there, wanted)

    def _of_folder(self, prefix: str, files: Iterable[str], wanted: set[str] | None) -> Iterator[str]:
        """Yield the images among one folder's files: those that are `wanted`, or all if that is None."""
        images: list[tuple[str, str]] = []
        beside: dict[str, dict[str, str]] = {}  # name without ending → ending in lower case, as it is
        for file in files:
            stem, ending = os.path.splitext(file)
            extension = ending[1:].lower()
            if extension in EXTENSIONS and not file.startswith("."):
                if wanted is None or file in wanted:
                    images.append((stem, ending))
            elif not file.startswith(".") and (
                extension == "json" or extension in sidecars.TEXTS or extension in self._text_endings
            ):
                beside.setdefault(stem, {})[extension] = ending
            elif wanted is None:
                self._count(prefix, file, extension)
        self._images += len(images)
        used: set[tuple[str, str]] = set()
        for stem, ending in images:
            kind = self._kind(stem, ending, beside, used) if beside else 0
            yield prefix + stem + ending + (_MARK + chr(kind) if kind else "")
        if wanted is None:
            for stem, endings in beside.items():
                for extension, ending in endings.items():
                    if (stem, extension) not in used:
                        self.unused.setdefault(extension, [0, f"{prefix}{stem}{ending}"])[0] += 1
        self._texts += len(used)

    def _kind(
        self, stem: str, ending: str, beside: dict[str, dict[str, str]], used: set[tuple[str, str]]
    ) -> int:
        """Return the kind of an image's sidecars; add the sidecars that are taken to `used`."""
        chosen = ["", ""]
        for base, added in ((stem, ""), (stem + ending, ending)):
            there = beside.get(base, {})
            text = next((text for text in self._text_endings if text in there), "")
            if text and not chosen[1]:
                chosen[1] = added + there[text]
                used.add((base, text))
            if "json" in there and not chosen[0]:
                chosen[0] = added + there["json"]
                used.add((base, "json"))
        if self.asked.names and chosen[1]:
            chosen[0] = ""
        kind = chosen[0], chosen[1]
        number = self._numbers.get(kind)
        if number is None:
            number = self._numbers[kind] = len(self.kinds)
            self.kinds.append(kind)
        return number

    def _count(self, prefix: str, file: str, extension: str) -> None:
        """Count a file that is neither an image nor lies beside one."""
        if file.startswith("."):
            self._hidden += 1
            self._hidden_example = self._hidden_example or prefix + file
            return
        if extension in ("csv", "tsv", "jsonl") and len(self.tables) < TOLD:
            self.tables.append(prefix + file)
        key = extension if extension in self.others or len(self.others) < TOLD else "…"
        self.others.setdefault(key, [0, prefix + file])[0] += 1

    def contents(self, *, captioned: bool) -> Contents:
        """Return how many files there are, and why some are not used; `captioned`: captions lie beside images."""
        contents = Contents("files", self._images + self._texts)
        for extension, (count, example) in self.others.items():
            contents.see(count)
            contents.leave_out(*self._why(extension, example), count, lost=self._missed(extension, example))
        for extension, (count, example) in self.unused.items():
            contents.see(count)
            # A single text, or a few among many pictures, is a note beside pictures.
            text = extension != "json" and (captioned or (count > 1 and 2 * count > self._images))
            reason = (
                "a text beside no image, or beside an image that has another text"
                if text
                else f".{extension} is not read"
            )
            contents.leave_out(reason, example, count, lost=text)
        contents.see(self._hidden)
        contents.leave_out("hidden files", self._hidden_example, self._hidden, lost=False)
        return contents

    def what_is_there(self) -> str:
        """Return a sentence on what there is instead of images."""
        there = {
            f".{extension}" if extension else "without extension": count
            for extension, (count, _) in (self.others | self.unused).items()
        }
        if not there:
            return "It is empty"
        most = sorted(there.items(), key=lambda item: -item[1])[:5]
        return "It holds only " + ", ".join(f"{count} × {extension}" for extension, count in most)

    def advice(self) -> str:
        """Return what to do where there are no images."""
        for ending in ("tar", "parquet"):
            if ending in self.others:
                return f"For the .{ending} files in the subfolders, write '{self.folder}/**/*.{ending}'"
        if self.tables:
            return f"Give the table instead of the folder: {os.path.join(self.folder, self.tables[0])}"
        if NOT_READ & self.others.keys():
            return f"Convert them to JPEG: images end in {image_endings()}"
        return (
            f"Images end in {image_endings()}; if there are captions, give the table or annotation file that holds "
            "them instead of the folder"
        )

    def _why(self, extension: str, example: str) -> tuple[str, str]:
        if extension not in NOT_READ and self._is_picture(example):
            return (
                f".{extension}" if extension else "no"
            ) + " ending of a picture: rename such pictures", example
        return why_not(extension), example

    def _missed(self, extension: str, example: str) -> bool:
        beside = os.path.join(self.folder, os.path.splitext(example)[0])
        holds = extension in CONTAINERS and not os.path.isdir(
            beside
        )  # else it describes the folder, as img2dataset's files do
        return holds or extension in NOT_READ | FILMS or self._is_picture(example)

    def _is_picture(self, example: str) -> bool:
        try:
            with open_regular(os.path.join(self.folder, example)) as file:
                return is_picture(file.read(16))
        except (OSError, ValueError):
            return False


def _cannot_list(error: OSError) -> NoReturn:
    raise DataError("A folder cannot be listed", got=str(error.filename), cause=str(error.strerror))
