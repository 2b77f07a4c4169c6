"""Files beside a data set that name its classes: `classes.json`, `classnames.txt`, and files of hubs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.data.labelled.classes import Naming, Value, as_words, in_order, number
from openslip.data.labelled.prompts import of_set
from openslip.errors import DataError, note, shortened
from openslip.files import read_json, read_whole

if TYPE_CHECKING:
    from openslip.data.labelled.labelled_set import LabelledSet
    from openslip.evaluation.datasets import Card, Names

JSON = ("classes.json", "id2label.json", "class_to_idx.json", "class_names.json", "cat_to_name.json")
TEXTS = ("classnames.txt", "classes.txt", "class_names.txt", "label_names.txt", "labels.txt")
"""One name a line. CLIP_benchmark leaves `classnames.txt` beside its shards."""
HUB = ("README.md", "dataset_infos.json", "dataset_info.json")
"""Files of hubs with the names of a column, if the data files themselves lack them."""
MOST_BYTES = 16 << 20
FRONT_BYTES = 1 << 18
"""Bytes of a README's front matter: the names of some 10,000 classes."""
_WRITE = 'Write it as ["cat", "dog", …] in the order of the labels, or as {"1": "cat", "5": "dog"} by label.'
_WNID = re.compile(r"n\d{8}")
_WRAPS = ("id2label", "classes", "names", "class_names", "categories")
_DELIBERATE = "classes.json"
"""Somebody wrote this file for the set, so a file that does not fit is an error."""

NamesByValue = dict[Value, str]


def names_beside(
    folder: Path, values: Collection[Value] = (), *, root: Path | None = None, column: str = ""
) -> Naming | None:
    """Return the class names in a file in `folder`, or in the folders above up to `root`; None without such a file.

    values: the classes that occur, which are the keys of the result. A list of names is for labels that count from 0,
    or gives the order of classes that the data name. A mapping goes from label to name, or from name to label.
    Capitals and underscores make no difference. column: of the labels; descriptions of several columns go by it.

    Raises DataError for a `classes.json` that cannot be read or leaves classes without a name. Other files that do not
    fit are skipped with a note.
    """
    folders = [folder]
    while root is not None and folders[-1] != root and root in folders[-1].parents:
        folders.append(folders[-1].parent)
    for beside in folders:
        for name in (*JSON, *TEXTS, *HUB):
            if not os.path.isfile(file := beside / name):
                continue
            strict = name == _DELIBERATE
            try:
                found = _read(file, column)
            except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
                if strict:
                    raise DataError(
                        f"{file} does not list class names", cause=shortened(str(error)), fix=_WRITE
                    ) from None
                continue
            if not found:
                continue
            if naming := _fitted(*found, values, file):
                return naming
            if strict:
                raise _does_not_fit(file, found[0], values)
            if name not in HUB:
                note(
                    f"{file} is not used: it does not name the classes of the data, such as {_some(values)}."
                )
    return None


@dataclass(frozen=True)
class GivenNames:
    """Names of classes that somebody gives in a file, for one data set or for several by the sets' names.

    source: the file's name. names: a list, or a mapping from labels or names, as in `classes.json`; with `by_set`, a
    mapping from data sets to these. If a class has a list of names, the embeddings of all names are averaged.
    """

    source: str
    names: Any
    by_set: bool = False


def read_names(file: Path) -> GivenNames:
    """Read names of classes: lines of text, or a JSON list or mapping, also by data set (the SLIP paper's labels.json).

    Raises DataError for a file without names.
    """
    try:
        if file.suffix == ".txt":
            return GivenNames(file.name, [line.strip() for line in _lines(file) if line.strip()])
        found = _unwrapped(read_json(file, MOST_BYTES))
        if not isinstance(found, list | dict) or not found:
            raise TypeError("It holds neither a list nor a mapping")
    except FileNotFoundError:
        raise DataError("There is no such file of class names", got=str(file), fix="Check the path") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{file} does not list class names", cause=shortened(str(error)), fix=_WRITE
        ) from None
    by_set = isinstance(found, dict) and not any(
        number(key) is not None or _WNID.fullmatch(key) for key in found
    )
    return GivenNames(
        file.name, found, by_set and all(isinstance(one, list | dict) for one in found.values())
    )


def renamed(
    given: GivenNames, labelled: LabelledSet, card: Card | None, name: str, *, whole: bool = True
) -> list[Names] | None:
    """Return the given names of each of the C classes of a set, one or several. None if names are given by data set,
    but not for this set.

    The keys of a mapping are labels, folders, or the class names of the data. A list is for labels that count from 0;
    if classes go by other values, the list is in the order of the classes. card, name: of the set. whole: whether a
    list has to name all classes, and no others, unless the names themselves identify the classes.

    Raises DataError for names that do not fit the classes of the set.
    """
    names = of_set(given.names, card, name) if given.by_set else given.names
    if names is None:
        classes = filter(None, (labelled.values, labelled.class_names))
        if not any({*given.names} >= {*map(str, some)} for some in classes):
            return None
        names = given.names  # lists of names by class look as lists by data set do
    try:
        found = _of_lines(names) if given.source.endswith(".txt") else _of_json(names)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise DataError(
            f"{given.source} does not list class names", cause=shortened(str(error)), fix=_WRITE
        ) from None
    told = _told(*(found or ({}, False)), labelled, given.source, whole=whole)
    entries = names.values() if isinstance(names, dict) else names
    several = {_name(one): _all_names(one) for one in entries if isinstance(one, list)}
    return [several.get(one, (one,)) for one in told]


def _all_names(entry: list[Any]) -> Names:
    return tuple(str(one).strip() for one in entry if not _WNID.fullmatch(str(one)))


def named_by(given: GivenNames, labelled: LabelledSet) -> LabelledSet:
    """Return the labelled set with the given names of classes (see `renamed`). Of several names the first is used.

    Raises DataError if a class that occurs has no name.
    """
    from openslip.evaluation import datasets

    found = renamed(given, labelled, datasets.told(labelled.class_names), labelled.name, whole=False)
    if found is None:
        raise DataError(
            f"{given.source} has no names for the classes of {labelled.name}",
            got=f"names for {shortened(', '.join(given.names), 100)}",
            fix=f"Add {labelled.name!r}, or pass a file with only the names of these classes",
        )
    told = tuple(one[0] for one in found)
    values = labelled.values or labelled.class_names
    splits = {split: replace(one, class_names=told, named=True) for split, one in labelled.splits.items()}
    some = ", ".join(f"{value} is {name!r}" for value, name in list(zip(values, told))[:3])
    notes = [said for said in labelled.notes if "zero-shot needs" not in said]
    notes.append(f"Class names from {given.source}: {some}" + ", …" * (len(told) > 3))
    if several := next((one for one in found if len(one) > 1), None):
        notes.append(f"If a class has several names, the first is taken: {several[0]!r}, not {several[1]!r}")
    return replace(labelled, class_names=told, named=True, splits=splits, notes=tuple(notes))


def _told(
    names: NamesByValue, listed: bool, labelled: LabelledSet, source: str, *, whole: bool
) -> tuple[str, ...]:
    """Return the names of the classes of a set. whole: see `renamed`. Raises DataError if a class has no name."""
    values, before = labelled.values or labelled.class_names, labelled.class_names
    if whole and listed and len(names) != len(values):
        naming = None
    else:
        naming = _fitted(names, listed, values, Path(source))
    if naming is None and (by_name := _by_text(names, before, source)):
        naming = Naming({value: by_name.names[name] for value, name in zip(values, before)})
    numbered = all(number(value) is not None for value in values)
    if naming is None and listed and len(names) == len(values) and not numbered:
        naming = Naming(dict(zip(values, names.values())))
    if naming is None and whole and listed and len(names) != len(values):
        raise DataError(
            f"{source} lists {len(names):,} names, and {labelled.name} has {len(values):,} classes",
            got=_some(list(names.values())) + f"; classes: {_some(before)}",
            fix='Write the names by label, {"1": "cat", …}, or by the class names of the data, {"n02123045": "cat"}',
        )
    if naming is None:
        raise _does_not_fit(Path(source), names, values)
    by_number = {number(value): name for value, name in naming.names.items()} if numbered else {}
    return tuple(naming.names.get(value) or by_number[number(value)] for value in values)


def _lines(file: Path) -> list[str]:
    return read_whole(file, MOST_BYTES).decode("utf-8-sig").splitlines()


def _read(file: Path, column: str) -> tuple[NamesByValue, bool] | None:
    """Return the names in a file, and whether they are a list, which counts from 0; None if it has no such names."""
    if file.suffix == ".txt":
        return _of_lines(_lines(file))
    if file.suffix == ".md":
        described = _front_matter(read_whole(file, MOST_BYTES))
    else:
        described = read_json(file, MOST_BYTES)
        if file.name in JSON:
            return _of_json(described)
    names = _of_features(described, column)
    return _of_json(names) if names else None


def _unwrapped(data: Any) -> Any:
    """Return the list or mapping of names under a key like `id2label`: `{"id2label": {…}}`."""
    while isinstance(data, dict):
        inner = next((data[key] for key in _WRAPS if isinstance(data.get(key), list | dict)), None)
        if inner is None:
            break
        data = inner
    return data


def _of_json(data: Any) -> tuple[NamesByValue, bool]:
    """Return the names in a list of names, a mapping in either direction, or a list of {label, name}."""
    data = _unwrapped(data)
    if isinstance(data, dict):
        numbered = all(re.fullmatch(r"-?\d{1,18}", key, re.ASCII) for key in data)
        if not numbered and all(isinstance(v, str) and number(v) is not None for v in data.values()):
            data = {name: int(label) for name, label in data.items()}
        if all(isinstance(value, int) and not isinstance(value, bool) for value in data.values()):
            if numbered:
                raise ValueError("It maps numbers to numbers")
            inverse: NamesByValue = {}
            for name, label in data.items():  # the first of several names of a class
                inverse.setdefault(label, _name(name))
            return {label: inverse[label] for label in in_order(inverse)}, False
        return {int(key) if numbered else str(key): _name(value) for key, value in data.items()}, False
    if not isinstance(data, list):
        raise TypeError(f"It holds a {type(data).__name__}")
    if data and isinstance(data[0], dict):
        found: NamesByValue = {}
        for entry in data:
            key = next((entry[key] for key in ("label", "id", "index") if key in entry), None)
            label = number(key) if isinstance(key, str | int) else None
            if label is None:
                raise ValueError(f"No label in {entry}")
            found[label] = _name(next(entry[key] for key in ("name", "names") if key in entry))
        return {label: found[label] for label in in_order(found)}, False
    return dict(enumerate(map(_name, data))), True


def _of_lines(lines: list[str]) -> tuple[NamesByValue, bool] | None:
    """Return the names in lines of text: after numbers, after WordNet ids, or in the order of the labels."""
    lines = [line.strip() for line in lines if line.strip()]
    for form, is_key in ((r"(\d+)[\s,:;]+(\S.*)", number), (rf"({_WNID.pattern})[\s,:;]+(\S.*)", str)):
        parts = [re.fullmatch(form, line) for line in lines]
        if not lines or not all(parts):
            continue
        # Synonyms follow a WordNet id.
        found = {
            is_key(part[1]): part[2].split(",")[0].strip() if is_key is str else part[2]
            for part in parts
            if part
        }
        counted = list(found) in (list(range(len(lines))), list(range(1, len(lines) + 1)))
        if len(found) == len(lines) and (counted or is_key is str):
            return {key: name for key, name in found.items() if key is not None}, False
    if len(set(lines)) < 0.9 * len(lines):  # a label for each of many pictures
        return None
    return dict(enumerate(lines)), True


def _of_features(described: Any, column: str) -> Any:
    """Return the names in a hub's description of a set, of a column or of the only column of classes."""
    found: dict[str, list[Any]] = {}  # by column, of each configuration
    pending = [described]
    for _ in range(1000):
        if not pending:
            break
        item = pending.pop()
        if isinstance(item, list):
            pending += item
        if not isinstance(item, dict):
            continue
        features = item.get("features")
        if isinstance(features, dict):  # dataset_infos.json
            for name, feature in features.items():
                if isinstance(feature, dict) and feature.get("names"):
                    found.setdefault(name, []).append(feature["names"])
        elif isinstance(features, list):  # a README's front matter
            for feature in features:
                kind = feature.get("dtype") if isinstance(feature, dict) else None
                label = kind.get("class_label") if isinstance(kind, dict) else None
                if isinstance(label, dict) and label.get("names"):
                    found.setdefault(str(feature.get("name")), []).append(label["names"])
        else:
            pending += item.values()
    listed = found.get(column, []) if column else next(iter(found.values())) if len(found) == 1 else []
    return listed[0] if listed and all(names == listed[0] for names in listed) else None


def _front_matter(data: bytes) -> Any:
    """Return the front matter of a README, between the first two lines of dashes, if it describes classes."""
    head = re.match(rb"(?:\xef\xbb\xbf)?---\s*\n(.*?)\n---\s*(?:\n|$)", data[:FRONT_BYTES], re.DOTALL)
    if head is None or b"class_label" not in head[1]:
        return None
    import yaml

    try:
        return yaml.load(head[1], getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # texts alone
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _name(value: Any) -> str:
    """Return the name in an entry. In a list, such as a WordNet id and synonyms, it is the first that is no id."""
    if isinstance(value, list):
        value = next((item for item in value if not _WNID.fullmatch(str(item))), None)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise ValueError(f"{value!r} is no name")
    return str(value).strip()


def _fitted(found: NamesByValue, listed: bool, values: Collection[Value], file: Path) -> Naming | None:
    """Return the names by the values that occur, None if a value has no name."""
    if not values:
        return Naming(found, declared=True, source=file.name)
    if all(number(value) is not None for value in values):
        named = {key for key in found if isinstance(key, int)}
        used = {number(value) for value in values}
        if not named or not used <= named:
            return None
        if listed and 0 not in used and 1 in used:
            note(
                f"{file} is a list, which counts from 0, but no picture has the label 0. If labels count from 1, "
                'write the names by label, {"1": "cat", …}.'
            )
        return Naming({key: found[key] for key in in_order(named)}, declared=True, source=file.name)
    return _by_text(found, values, file.name)


def _by_text(found: Mapping[Value, str], values: Collection[Value], source: str) -> Naming | None:
    """Return the names of classes whose values are texts: keys of the names, or the names themselves."""
    keys, names = ({_folded(text): i for i, text in enumerate(texts)} for texts in (found, found.values()))
    for entry_of in (keys, names):
        by_entry = {entry_of.get(_folded(value)): value for value in values}
        if None in by_entry:
            continue
        entries = enumerate(found.items())
        if entry_of is keys:
            return Naming({by_entry.get(i, key): name for i, (key, name) in entries}, True, source)
        return Naming({by_entry.get(i, name): name for i, (_, name) in entries}, True, source)
    return None


def _folded(value: Value) -> str:
    return as_words(str(value)).casefold()


def _some(values: Collection[Value]) -> str:
    return ", ".join(map(repr, in_order(values)[:3]))


def _does_not_fit(file: Path, found: NamesByValue, values: Collection[Value]) -> DataError:
    """Return the error for names that lack some classes of the data."""
    texts = {_folded(text) for text in (*found, *found.values())}
    missing = in_order(value for value in values if _folded(value) not in texts) or in_order(values)
    highest = max((key for key in found if isinstance(key, int)), default=0)
    by_one = missing == [len(found)] and highest == len(found) - 1
    return DataError(
        f"The labels name no class of {file}",
        got=shortened(", ".join(map(str, missing[:5])) + f"; {len(found)} have names"),
        cause="The labels count from 1, but a list counts from 0" if by_one else "",
        fix='Write the names by label: {"1": "cat", "2": "dog", …}.'
        if by_one
        else f"Remove these images, or add the names of all classes to {file.name}: {_WRITE}",
    )
