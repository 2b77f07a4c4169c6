"""Objectives of a user's own: `--objective.loss 'clip + 0.5 * mylosses:Mine'`, a class in the user's file.

Such a file is code, so it is imported only if a user names it: on the command line, in a configuration given by
path, or by passing the class itself. A file that a run folder or a checkpoint names is imported only to continue that
run, and only if it is the file that the run was started with: `objective.json` in the folder has its checksum.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from openslip import toml
from openslip.config import ObjectiveConfig, ViewConfig, ViewsConfig
from openslip.errors import ConfigError, did_you_mean, shortened
from openslip.files import read_json, read_whole, write_json
from openslip.needs import TEXT, Need, View
from openslip.objectives import combine
from openslip.objectives.objective import Curve, LogitScale, Objective

RECORD = "objective.json"
"""File of a run folder that notes the file of each of a user's own classes, and the curves that the class reports."""
NOTED = ("key", "title", "note", "best")
"""Fields of a curve that are noted."""
LARGEST = 1 << 22
"""The largest Python file that is read, in bytes."""
OF_TOWERS = ("feature", "embedding", "tokens")
"""Outputs of teachers and fixed models."""
OF_TEXT = ("ids", "logit_scale", "labels", "records")
"""Outputs that captions and records have, and views have not."""
HOW = "docs/objectives.md says how to write one"
OURS = frozenset(combine.REGISTRY)


@dataclass(frozen=True)
class Code:
    """A Python file that is going to be imported."""

    module: str
    """Name that it is imported by."""
    file: Path
    root: str
    """Folder from which the module imports its neighbours; "" if the module is on the import path."""

    @cached_property
    def source(self) -> bytes:
        """The content of the file, read once, so that the checked code is the code that runs."""
        try:
            return read_whole(self.file, LARGEST)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "The file of an objective cannot be read", got=str(self.file), cause=str(error)
            ) from None

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.source).hexdigest()


def named(text: str) -> list[str]:
    """Return the classes that the text of a loss names, `mylosses:Mine` or `path/to/file.py:Mine`, as written."""
    return [name for _, name in combine.written_terms(text) if ":" in name]


def load(text: str, *, outside: Path | None = None) -> None:
    """Import the classes that the text of a loss names, so that `openslip.objectives.parse` knows them.

    A module is looked for in the current folder, then on the import path. Call this only for texts that a user wrote.
    outside: folder whose files are refused. Raises ConfigError for a file that is missing or fails, and for a class
    that is no objective.
    """
    for name in named(text):
        if name not in combine.REGISTRY:
            _add(name, _found(name, outside))


def register(kind: Any) -> str:
    """Register an objective's class; return its name in the text of a loss, `module:Class`.

    Raises ConfigError for a class that is no objective.
    """
    if isinstance(name := getattr(kind, "name", None), str) and combine.REGISTRY.get(name) is kind:
        return name
    text = f"{getattr(kind, '__module__', '')}:{getattr(kind, '__qualname__', kind)}".replace("<locals>.", "")
    check(kind, text)
    combine.REGISTRY[text] = kind
    return text


def write(folder: Path, config: ObjectiveConfig) -> None:
    """Note in a run folder the files of a user's own classes, if the loss has any.

    Notes of the same classes under other names are updated.
    """
    if entries := _entries(config):
        now = {entry["name"]: entry for entry in entries.values()}
        known = {text: now.get(str(entry.get("name")), entry) for text, entry in _record(folder).items()}
        write_json(folder / RECORD, known | entries)


def noted_curves(folder: Path) -> tuple[Curve, ...]:
    """Return the usable curves that a run folder notes of a user's own classes."""
    found: dict[str, Curve] = {}
    for entry in _record(folder).values():
        curves = entry.get("curves")
        for curve in curves if isinstance(curves, list) else ():
            values: list[Any] = [curve.get(name) for name in NOTED] if isinstance(curve, dict) else []
            if values and all(isinstance(value, str) for value in values) and values[-1] in ("low", "high"):
                key, title, note = (shortened(value, 100) for value in values[:3])
                found.setdefault(key, Curve(key, title, note, values[3]))
    return tuple(found.values())


def changed(folder: Path, config: ObjectiveConfig) -> list[str]:
    """Return a sentence for each of a user's own classes whose file has changed since the run was started."""
    known = _record(folder)
    names = {entry.get("name"): entry for entry in known.values()}
    sentences = []
    for text, entry in _entries(config).items():
        was = names.get(entry["name"], {})
        if was.get("sha256") != entry["sha256"]:
            sentences.append(
                f"{text} is not the code that the run was started with ({_short(was)}, now {_short(entry)}): "
                "the run will not equal an uninterrupted one"
            )
    return sentences


def same_loss(folder: Path, one: str, other: str) -> bool:
    """Return whether two losses of a run are the same, wherever the files of the classes are."""
    known = _record(folder)

    def terms(text: str) -> list[tuple[float, str]]:
        kinds = {
            name: combine.REGISTRY[name].name
            for _, name in combine.written_terms(text)
            if name in combine.REGISTRY
        }
        noted = {name: str(entry.get("name")) for name, entry in known.items()}
        return [
            (weight, kinds.get(name) or noted.get(name, name)) for weight, name in combine.written_terms(text)
        ]

    with suppress(ConfigError):  # the error is raised elsewhere
        return one == other or terms(one) == terms(other)
    return False


def resume(folder: Path, text: str) -> None:
    """Import the classes that the loss of a run names, if their files are the files that it was started with.

    A module is looked for in the current folder and on the import path, and not in the run folder, which may be
    somebody else's. Raises ConfigError, which says what is missing or differs.
    """
    names = [name for name in named(text) if name not in combine.REGISTRY]
    known = _record(folder) if names else {}
    for name in names:
        _add(name, _the_same(name, known.get(name, {}), folder, text))


def _the_same(name: str, entry: dict[str, Any], folder: Path, loss: str) -> Code:
    """Return the file of a run's objective, wherever it is now."""
    fix = (
        "Put the original file back, or name the class again to take the file as it is now: "
        f"--objective.loss {loss!r}"
    )
    what = f"The run in {folder} minimises {name!r}, a class of a user's own"
    if not isinstance(entry.get("sha256"), str) or not entry["sha256"]:
        raise ConfigError(what, cause=f"{folder / RECORD} does not name the file of the class", fix=fix)
    seen = {}
    for code in _candidates(name, str(entry.get("file", ""))):
        if _lies_in(code.file, folder):
            why = "is in the run folder, whose code is not run"
        elif code.checksum == entry["sha256"]:
            return code
        else:
            why = f"has sha256 {code.checksum[:12]}; the file that the run was started with has {entry['sha256'][:12]}"
        seen[os.path.realpath(code.file)] = f"{code.file} {why}"
    module, _, _ = name.rpartition(":")
    nowhere = f"There is no {module!r} in the current folder or on the import path"
    raise ConfigError(what, cause="; ".join(seen.values()) or nowhere, fix=fix)


def _found(name: str, outside: Path | None) -> Code:
    """Return the file of a class that a user names."""
    module = name.rpartition(":")[0]
    for code in _candidates(name):
        if outside is not None and _lies_in(code.file, outside):
            raise ConfigError(
                f"{code.file} is in a run folder, whose code is not run",
                got=name,
                fix="Copy the file to the current folder",
            )
        return code
    if _is_path(module):
        raise ConfigError(
            "The file of an objective is not there", got=module, fix=_near(Path(module).parent, module)
        )
    with suppress(ImportError, ValueError):
        if importlib.util.find_spec(module.partition(".")[0]):
            raise ConfigError(f"The module {module!r} is no Python file", got=name, fix="Name a Python file")
    raise ConfigError(
        f"There is no module {module!r} in the current folder or on the import path",
        got=name,
        fix=_near(Path(), module),
    )


def _near(folder: Path, module: str) -> str:
    with suppress(OSError):
        if files := sorted(path.name for path in folder.glob("*.py"))[:1000]:
            return did_you_mean(
                Path(module).name, files if module.endswith(".py") else [file[:-3] for file in files]
            )
    return "Name a file in another folder by its path, as in path/to/mylosses.py:Mine"


def _candidates(name: str, file: str = "") -> Iterator[Code]:
    """Yield the files that may be the module of a class. Nothing is imported.

    file: the original file's name, for a class that was named by a path that leads nowhere any more.
    """
    module = name.rpartition(":")[0]
    if _is_path(module):
        path = Path(module).expanduser()
        if path.is_file():
            yield Code(path.stem, path, str(path.parent))
        module = Path(file or module).stem
        if not file:
            return
    here = os.getcwd()
    for root, places in ((here, [here]), ("", None)):
        if path := _file_of(module, places):
            yield Code(module, path, root)


def _file_of(module: str, places: list[str] | None) -> Path | None:
    """Return the Python file of a dotted name in some folders, or on the import path."""
    parts = module.split(".")
    spec: ModuleSpec | None = None
    for number in range(1, len(parts) + 1):
        try:
            spec = PathFinder.find_spec(".".join(parts[:number]), places)
            if spec is None and number == 1 and places is None:
                spec = importlib.util.find_spec(parts[0])  # installed in place
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    if (
        spec is None
        or spec.origin is None
        or not spec.origin.endswith(".py")
        or not os.path.isfile(spec.origin)
    ):
        return None
    return Path(spec.origin)


def _is_path(module: str) -> bool:
    return "/" in module or module.endswith(".py")


def _lies_in(file: Path, folder: Path) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def _add(text: str, code: Code) -> None:
    """Import a file, and register the class that a text names."""
    module, (_, _, name) = _imported(code), text.rpartition(":")
    kind: Any = module
    for part in name.split("."):
        if not hasattr(kind, part):
            classes = [key for key, value in vars(module).items() if _is_own(value)]
            fix = did_you_mean(name, classes) if classes else HOW
            raise ConfigError(f"{code.file} has no class {name!r}", got=text, fix=fix)
        kind = getattr(kind, part)
    check(kind, text)
    combine.REGISTRY[text] = kind


def _is_own(value: Any) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, Objective)
        and value.__module__.partition(".")[0] != "openslip"
    )


def _imported(code: Code) -> ModuleType:
    """Return the module of a file. It runs the source that was read, and no compiled file beside it."""
    there = sys.modules.get(code.module)
    if there is not None:
        if os.path.realpath(getattr(there, "__file__", None) or "") == os.path.realpath(code.file):
            return there
        raise ConfigError(
            f"A module {code.module!r} is loaded already, from another file",
            got=str(code.file),
            fix="Give the file another name",
        )
    source = code.source
    with _beside(code.root):
        try:
            parent, _, leaf = code.module.rpartition(".")
            package = importlib.import_module(parent) if parent else None
            spec = importlib.util.spec_from_file_location(code.module, code.file)
            if spec is None or spec.loader is None:
                raise ImportError(
                    "Python does not import files of such a name; names of Python files end in .py"
                )
            module = sys.modules[code.module] = importlib.util.module_from_spec(spec)
            exec(compile(source, str(code.file), "exec"), module.__dict__)
            if package is not None:
                setattr(package, leaf, module)
            return module
        except (Exception, SystemExit) as error:  # anything may go wrong in it
            sys.modules.pop(code.module, None)
            raise ConfigError(
                "The file of an objective fails when it is imported",
                got=_place(error, code.file),
                cause=f"{type(error).__name__}: {shortened(str(error))}",
            ) from None


@contextmanager
def _beside(root: str) -> Iterator[None]:
    """Within the block, the files of a folder can be imported: a file's neighbours."""
    if not root:
        yield
        return
    folder = os.path.abspath(root)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def _place(error: BaseException, file: Path) -> str:
    """Return the file and line that an error comes from, as far as they are the user's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def check(kind: Any, text: str) -> None:
    """Raise ConfigError unless a class keeps the contract of an objective, as far as a check without training shows."""

    def refuse(cause: str, got: object = None) -> ConfigError:
        return ConfigError(f"{text} cannot be trained", got=got, cause=cause, fix=HOW)

    if not isinstance(kind, type) or not issubclass(kind, Objective) or kind is Objective:
        raise refuse("It is no subclass of openslip.objectives.Objective", type(kind).__name__)
    name = getattr(kind, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise refuse(
            "Its `name`, which its options go by, must be a word of small letters, digits and _", name
        )
    if name in OURS:
        raise refuse("Its `name` is that of one of openslip's objectives: give it another name", name)
    if name in {field.name for field in dataclasses.fields(ObjectiveConfig)}:
        raise refuse("Its `name` is that of an option: give it another name", name)
    for other, another in combine.REGISTRY.items():
        if another.name == name and another is not kind and other != text:
            raise refuse(f"Its `name` is that of {other}: give one of the two another name", name)
    if not isinstance(getattr(kind, "title", None), str):
        raise refuse("It has no `title`, which is what people call it")
    config = _default_of(kind, refuse)
    _check_inputs(kind, config, refuse)
    if not all(isinstance(curve, Curve) for curve in kind.curves):
        raise refuse("Its `curves` must be of openslip.objectives.Curve", kind.curves)
    if not isinstance(kind.logit_scale, LogitScale | None):
        raise refuse("Its `logit_scale` must be an openslip.objectives.LogitScale", kind.logit_scale)
    if kind.forward is Objective.forward:
        for method in ("embed", "loss"):
            if getattr(kind, method) is getattr(Objective, method):
                raise refuse(f"It has no method `{method}`")


def _default_of(kind: type[Objective], refuse: Any) -> Any:
    """Return the default options of a class."""
    cls = kind.Config
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise refuse("Its `Config` must be a dataclass", cls)
    if not cls.__dataclass_params__.frozen:  # type: ignore
        raise refuse("Its `Config` must be frozen: @dataclass(frozen=True, kw_only=True)")
    try:
        config = cls()
    except TypeError as error:
        raise refuse(f"Its `Config` has an option without a default: {error}") from None
    except ConfigError as error:
        raise refuse(f"Its `Config` refuses its own defaults: {error}") from None
    try:
        same = toml.from_dict(toml.to_dict(config), cls, config)
    except (ConfigError, TypeError, NameError) as error:
        kinds = "bool, int, float, str, Literal, or a tuple of those"
        raise refuse(
            f"Its `Config` has an option that a configuration cannot hold ({kinds}): {error}"
        ) from None
    if same != config:
        raise refuse(
            "Its `Config` has an option whose default is of another type than its annotation", config
        )
    return config


def _check_inputs(kind: type[Objective], config: Any, refuse: Any) -> None:
    """Check the views and needs of a class."""
    try:
        views, needs = kind.views_for(config), kind.needs_for(config)
    except AttributeError as error:
        raise refuse(f"It lacks `views` or `needs`: {error}") from None
    for values, cls, what in ((views, View, "views"), (needs, Need, "needs")):
        if not isinstance(values, tuple) or not all(isinstance(value, cls) for value in values):
            raise refuse(f"Its `{what}` must be a tuple of openslip.needs.{cls.__name__}", values)
    if not needs:
        raise refuse("Its `needs` are empty: it would be computed from nothing")
    if not views:
        raise refuse("Its `views` are empty: an objective draws at least one view of each image")
    kinds = [name for name, hint in typing.get_type_hints(ViewsConfig).items() if hint is ViewConfig]
    for view in views:
        if view.kind not in kinds:
            raise refuse(
                f"Its view {view.name!r} is of a kind that is not among {', '.join(kinds)}", view.kind
            )
    given = {view.name for view in views}
    if TEXT in given or len(given) < len(views):
        raise refuse(f"Its `views` have a name twice, or the name of the captions, {TEXT!r}", sorted(given))
    hints = typing.get_type_hints(Need)
    for need in needs:
        if need.view not in given | {TEXT}:
            raise refuse("It needs a view that is not among its `views`", need.view)
        for field in ("out", "by"):
            choices = typing.get_args(hints[field])
            if getattr(need, field) not in choices:
                raise refuse(f"What it needs is not among {', '.join(choices)}", getattr(need, field))
        text = need.view == TEXT
        if need.out in (("tokens",) if text else OF_TEXT) or (text and need.masked):
            raise refuse(
                "There is no such feature of captions" if text else "There is no such feature of a view", need
            )
        several = text and need.out in ("feature", "embedding", "ids")
        if need.captions < 1 or (need.captions > 1 and not several):
            raise refuse(
                "Several captions are only for features and ids of captions, and `captions` is at least 1",
                need,
            )
        if need.by == "teacher" and (need.out not in OF_TOWERS or need.masked):
            raise refuse("A teacher gives only features of whole views and of captions", need)
        if need.by == "fixed" and (need.out not in OF_TOWERS or need.masked):
            raise refuse("A fixed model gives only features of whole views and of captions", need)
    if (
        any(need.by == "fixed" for need in needs)
        and kind.fixed_model.__func__ is Objective.fixed_model.__func__
    ):
        raise refuse("It needs a fixed model, and has no class method `fixed_model` that names the model")
    if any(need.masked for need in needs) and kind.masked is Objective.masked:
        raise refuse("It needs a masked view, and has no method `masked`")
    averaged = kind.teacher_heads or any(need.by == "teacher" for need in needs)
    if averaged and kind.momentum is Objective.momentum:
        raise refuse("It needs a teacher, and has no method `momentum`")


def _entries(config: ObjectiveConfig) -> dict[str, dict[str, Any]]:
    """Return the note of each of a user's own classes in a loss: the name of its file without the folder, and its
    curves, which a report then draws without the file. A curve's `chance` is code, and stays with the file."""
    entries = {}
    for text in named(config.loss):
        if kind := combine.REGISTRY.get(text):
            file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
            entries[text] = {
                "name": kind.name,
                "class": f"{kind.__module__}:{kind.__qualname__}",
                "file": os.path.basename(file),
                "sha256": _checksum(Path(file)) if file else "",
                "curves": [{name: getattr(curve, name) for name in NOTED} for curve in kind.curves],
            }
    return entries


def _record(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `write` noted in a run folder, as far as it can be read."""
    try:
        found = read_json(folder / RECORD)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)}


def _checksum(file: Path) -> str:
    try:
        return hashlib.sha256(read_whole(file, LARGEST)).hexdigest()
    except (OSError, ValueError):
        return ""


def _short(entry: dict[str, Any]) -> str:
    return f"sha256 {str(entry.get('sha256') or 'unknown')[:12]}"
