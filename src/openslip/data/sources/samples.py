"""Group the members of a tar shard into samples, and choose each sample's picture and captions."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from openslip.data.containers.tar import Member
from openslip.data.contents import Contents
from openslip.data.formats import EXTENSIONS, FILMS, NOT_READ, why_not
from openslip.data.sources.sidecars import TEXTS
from openslip.errors import printable

LARGEST = 1 << 32
"""Members of this many bytes or more are left out, because their sizes do not fit the index."""
REASONS = 40
"""The most reasons to leave members out that are told apart; there can be many endings."""
PLAIN = ("jpg", "jpeg", "png", "webp")
"""Extensions of the picture if a sample has several, best first; the other formats follow."""
PICTURES = ("rgb", "image", "img", "photo", "picture", "pic", "color", "colour", "original", "orig", "full")
"""Words before the extension of a sample's picture, as in `rgb.jpg`, best first."""
BESIDE = frozenset(
    (
        *("depth", "disparity", "normal", "normals", "mask", "masks", "seg", "segmentation", "semantic"),
        *("instance", "label", "labels", "annotation", "alpha", "matte", "trimap", "edge", "edges", "canny"),
        *("sketch", "lineart", "pose", "flow", "heatmap", "saliency", "thumb", "thumbnail", "preview"),
        *("small", "ir", "infrared"),
    )
)
"""Words before the extension of other pictures beside the sample's picture."""
_ROLES = frozenset(PICTURES) | BESIDE

Files = dict[str, Member]
"""The members of a sample, by extension."""


class Sample(NamedTuple):
    """Members with one key. renamed: the key is not the name up to the first dot."""

    key: str
    files: Files
    renamed: bool = False


class Chosen(NamedTuple):
    """Extensions of a sample's picture, `.json` and text, "" for none; `tied`: pictures as likely as the chosen one."""

    picture: str
    json: str
    text: str
    tied: tuple[str, ...] = ()


class Census:
    """Counts members, and left-out members by reason, fast enough for a walk over a shard."""

    def __init__(self) -> None:
        self.seen = 0
        self._left: dict[tuple[str, bool], list] = {}

    def leave_out(self, reason: str, member: Member, *, lost: bool = True) -> None:
        """Count a member as not used."""
        key = reason, lost
        if key not in self._left and len(self._left) >= REASONS:
            key = ("members of still other kinds", lost)
        self._left.setdefault(key, [0, member.name])[0] += 1

    def contents(self, shard: str) -> Contents:
        """Return the counts; examples name the shard."""
        contents = Contents("members", self.seen)
        for (reason, lost), (count, example) in self._left.items():
            contents.leave_out(reason, f"{example} in {posixpath.basename(shard)}", count, lost=lost)
        return contents


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its last part, as WebDataset does; hidden files have no extension."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem else (name, "")


def group(
    members: Iterable[Member], census: Census, check: Callable[[], object] = lambda: None
) -> list[Sample]:
    """Group a shard's members by key, in the order of each key's first member. A repeated member begins a new sample.

    The key is the name up to the first dot of its last part, as in WebDataset: `0001.rgb.jpg` and `0001.txt` are one
    sample. But `IMG_2023.05.01_0001.jpg` and `IMG_2023.05.02_0002.jpg` are two samples. Several pictures with one key
    are told apart by the name before the last dot (or before an ending like `rgb.jpg`) in two cases: at least two of
    them have a text or `.json` of their own; or the key has none, and no picture of another key has the same word
    there, as `left.jpg` would. If no picture has a text of the same name, the members of one folder are a sample:
    `0001/image.jpg` and `0001/caption.txt`. Links are resolved to the members that they name. `check` is
    called for each member, and may raise an error to stop.
    """
    samples: list[Sample] = []
    latest: dict[str, Files] = {}
    others: list[Member] = []  # of no sample, but links may name them
    dotted = links = False
    for member in members:
        check()
        census.seen += 1
        key, extension = split_name(member.name)
        if not extension or member.size >= LARGEST or member.sparse:
            _pass_over(member, census)
            others.append(member)
            continue
        files = latest.get(key)
        if files is None or extension in files:
            files = latest[key] = {}
            samples.append(Sample(key, files))
        files[extension] = member
        if "." in extension:
            dotted = True
        if member.link:
            links = True
    if dotted:
        samples = _split_dotted(samples)
    samples = _join_folders(samples)
    if links:
        _resolve(samples, others, census)
    return samples


def choose(files: Files, picture: str = "", captions: Sequence[str] = ()) -> Chosen:
    """Choose among a sample's members; `picture` and `captions` are the extensions that were asked for.

    By default the picture is the one with a plain extension, else one like `rgb.jpg`, else any except those like
    `depth.png`. The text is the one with a plain extension, else the picture's own (`1.txt` of `1.jpg`), else the only
    one.
    """
    pictures = [e for e in files if e in EXTENSIONS or ("." in e and _format(e) in EXTENSIONS)]
    tied: tuple[str, ...] = ()
    if picture:
        image = next((e for e in pictures if picture in (e, e.rpartition(".")[0])), "")
    elif len(pictures) > 1:
        image, *rest = sorted(pictures, key=_rank)
        tied = tuple(e for e in rest if _rank(e)[:2] == _rank(image)[:2] and _stem(e) != _stem(image))
    else:
        image = pictures[0] if pictures else ""
    stem = _stem(image)
    sidecar = "json" if "json" in files else f"{stem}json" if stem and f"{stem}json" in files else ""
    if captions:
        text = next((name for name in captions if name in files and name != "json"), "")
        return Chosen(image, "" if text else sidecar, text, tied)
    return Chosen(image, sidecar, _text(files, stem), tied)


def leave_out(files: Files, chosen: Chosen, census: Census, *, asked: tuple[bool, bool]) -> None:
    """Count the members of a sample that are not used; `asked`: whether a user chose the picture, and the text, and so
    does not miss others."""
    for extension, member in files.items():
        if extension in (chosen.picture, chosen.json, chosen.text):
            if not chosen.picture and extension:
                census.leave_out("the sample has no picture", member)
            continue
        format = _format(extension)
        if format in NOT_READ | FILMS:
            census.leave_out(why_not(format), member)
        elif format in EXTENSIONS and chosen.picture:
            lost = not asked[0] and _stem(extension)[:-1] not in BESIDE
            reason = f"a sample has several pictures, of which .{printable(chosen.picture[-30:])} is taken"
            census.leave_out(reason, member, lost=lost)
        elif format in EXTENSIONS:
            census.leave_out("the sample has no such picture as was asked for", member)
        elif not chosen.picture:
            text = format in TEXTS or format == "json"
            census.leave_out("the sample has no picture" if text else why_not(format), member)
        elif format in TEXTS:
            taken = (
                f".{printable(chosen.text[-30:])} is taken"
                if chosen.text
                else "none is taken unless it is asked for"
            )
            census.leave_out(f"a sample has several texts, of which {taken}", member, lost=not asked[1])
        else:
            census.leave_out(why_not(format), member, lost=False)


def _pass_over(member: Member, census: Census) -> None:
    """Count a member that belongs to no sample."""
    if posixpath.basename(member.name).startswith("."):
        census.leave_out("hidden files", member, lost=False)
    elif member.sparse:
        census.leave_out("sparse files are not read (pack them without --sparse)", member)
    elif member.size >= LARGEST:
        census.leave_out("files of 4 GB and more are not read", member)
    else:
        census.leave_out(why_not(""), member)


def _format(extension: str) -> str:
    return extension.rpartition(".")[2]


def _stem(extension: str) -> str:
    """Return the part of an extension before the format, with its dot: "rgb." of "rgb.jpg", "" of "jpg"."""
    return extension[: len(extension) - len(_format(extension))]


def _rank(extension: str) -> tuple[int, int, int]:
    """Return a rank of an extension as the sample's picture, the lowest best; the last number is for the format."""
    stem, _, format = extension.rpartition(".")
    order = PLAIN.index(format) if format in PLAIN else len(PLAIN)
    last = stem.rpartition(".")[2]
    word = re.sub(r"[_-]?\d+$", "", last)
    if not stem:
        return 0, 0, order
    if word in PICTURES:
        return 1, 2 * PICTURES.index(word) + (word != last), order
    return (3 if word in BESIDE else 2), 0, order


def _text(files: Files, stem: str) -> str:
    """Return the extension of the text that goes by default with a picture of this stem."""
    for prefix in dict.fromkeys(("", stem)):
        for text in TEXTS:
            if prefix + text in files:
                return prefix + text
    dotted = [extension for extension in files if "." in extension and _format(extension) in TEXTS]
    return dotted[0] if len(dotted) == 1 else ""


def _split_dotted(samples: list[Sample]) -> list[Sample]:
    """Split samples whose pictures share only the first part of their names; see `group`."""
    stems = [_picture_stems(sample.files) if len(sample.files) > 1 else set() for sample in samples]
    shared = Counter(stem for several in stems if len(several) > 1 for stem in several)
    split: list[Sample] = []
    for sample, several in zip(samples, stems):
        if len(several) > 1 and _are_several(sample.files, several, shared):
            split.extend(_apart(sample))
        else:
            split.append(sample)
    return sorted(split, key=lambda sample: next(iter(sample.files.values())).offset)


def _join_folders(samples: list[Sample]) -> list[Sample]:
    """Make one sample of each folder, if no picture has a text of the same name and each has one in its folder."""
    folders: dict[str, list[Sample]] = {}
    for sample in samples:
        if len(sample.files) > 1 or "/" not in sample.key:
            return samples
        folders.setdefault(posixpath.dirname(sample.key), []).append(sample)
    joined = []
    for parts in folders.values():
        own = [(part.key, extension, member) for part in parts for extension, member in part.files.items()]
        pictures = [key for key, extension, _ in own if _format(extension) in EXTENSIONS]
        if len(pictures) != 1 or sum(_format(extension) in TEXTS for _, extension, _ in own) != 1:
            return samples
        files = {f"{posixpath.basename(key)}.{extension}": member for key, extension, member in own}
        joined.append(Sample(pictures[0], files))
    return joined


def _divide(extension: str) -> tuple[str, str]:
    """Split an extension before its last part, or before `rgb.jpg` and the like: the key's part, and the rest."""
    stem, _, last = extension.rpartition(".")
    before, _, role = stem.rpartition(".")
    return (before, f"{role}.{last}") if role in _ROLES else (stem, last)


def _picture_stems(files: Files) -> set[str]:
    return {stem for stem, last in map(_divide, files) if _format(last) in EXTENSIONS}


def _are_several(files: Files, stems: set[str], shared: Counter[str]) -> bool:
    sidecars = (*TEXTS, "json")
    own = sum(any(f"{stem}.{text}".lstrip(".") in files for text in sidecars) for stem in stems)
    if own > 1:
        return True
    return not any(text in files for text in sidecars) and all(shared[stem] == 1 for stem in stems if stem)


def _apart(sample: Sample) -> list[Sample]:
    """Return the samples that one sample holds, by the name before the last dot."""
    parts: dict[str, Sample] = {}
    for extension, member in sample.files.items():
        stem, last = _divide(extension)
        if stem not in parts:
            name = member.name.removeprefix("./").rsplit(".", last.count(".") + 1)[0]
            parts[stem] = Sample(name, {}, bool(stem))
        parts[stem].files[last] = member
    return list(parts.values())


def _resolve(samples: list[Sample], others: list[Member], census: Census) -> None:
    """Give links the place and size of the members that they name: the latest before the link, else a later one."""
    places = [
        (m.offset, extension, sample.files) for sample in samples for extension, m in sample.files.items()
    ]
    places += [(m.offset, "", {"": m}) for m in others if not (m.link or m.sparse or m.size >= LARGEST)]
    found: dict[str, Member] = {}
    waiting = []
    for _, extension, files in sorted(places, key=lambda place: place[0]):
        member = files[extension]
        if member.link and not _follow(member, extension, files, found):
            waiting.append((extension, files))
        found[posixpath.normpath(member.name)] = files[extension]
    while waiting:  # symbolic links may name a later member, also another link
        left = [(e, files) for e, files in waiting if not _follow(files[e], e, files, found)]
        if len(left) == len(waiting):
            break
        waiting = left
    for extension, files in waiting:
        census.leave_out("a link to what is not in the shard", files.pop(extension))


def _follow(member: Member, extension: str, files: Files, found: dict[str, Member]) -> bool:
    """Put the place of the member that a link names into `files`; return whether that place is known yet."""
    target = found.get(posixpath.normpath(member.link))
    if target is None or target.link:
        return False
    files[extension] = found[posixpath.normpath(member.name)] = member._replace(
        offset=target.offset, size=target.size, extended=True, link=""
    )
    return True
