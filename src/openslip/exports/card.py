"""The model card: a README.md that says what a model is, where it comes from, how good it is, and what nobody knows.

The card is for others, so it shows nothing of the machine: no host, no user, and of each path only the last part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from openslip import recipes
from openslip.config import FOR_TRAINING, Config, as_typed
from openslip.encoder import Encoder
from openslip.errors import ConfigError, ExportError, SlipError, printable
from openslip.evaluation import Result
from openslip.evaluation.distinct import distinct
from openslip.evaluation.results import COLUMNS_SHOWN, cells
from openslip.exports.history import History, history
from openslip.exports.plan import Plan
from openslip.files import expand, read_whole
from openslip.interop import hub
from openslip.models.weights import Pretrained
from openslip.report.description import configuration, data_name, image_tower, text_tower
from openslip.report.rows import Row
from openslip.report.runs import Run
from openslip.training.fixed import millions
from openslip.training.saving import metadata
from openslip.training.saving.run import MAY_CHANGE, PLACES, matches, values_of
from openslip.training.start import parts

NAME = "README.md"
LIBRARIES = {"open_clip": "open_clip", "timm": "timm", "huggingface": "transformers", "openslip": "openslip"}
"""What the hub calls the library that loads a format."""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""A licence's identifier on the hub."""
LARGEST_NOTES = 1 << 20
FEW = 1_000_000
"""Records below which a card says that they are few; CLIP was trained on 400 million."""
CACHED = re.compile(r"models--(.+?)--(.+?)[/\\]snapshots[/\\]")
"""The path of a file in the hub's cache, with the owner and name of its repository."""
OF_THE_START = ("model.*", "views.size", "views.mean", "views.std", "views.interpolation", "views.fit")
"""Values that a run takes over from the weights that it starts from."""
ACCURACY = {"top1": "accuracy", "top5": "top_5_accuracy"}
"""Our metrics that the hub has with exactly the same meaning, and the hub's names."""
_ABSOLUTE = re.compile(
    r"(?<![\w:/\\.<])(?:[A-Za-z]:[/\\]|[/\\]{1,2}(?=[\w.~@-])|~[\w.-]*[/\\])[^\s'\"`|,;)]*"
)

_PARENTS = re.compile(
    r"(hf(?:-stream)?:[\w.-]+/[\w.-]+)|(?:\b[A-Za-z]:(?=[/\\]))?[^\s'\"`:*+,;=(]*[/\\]+(?=[^\s/\\])"
)


@dataclass(frozen=True)
class Wanted:
    """What people say of a model that they share.

    license: the licence's identifier on the hub, empty if none is given. notes: text in Markdown, for the beginning
    of the card. repository: the hub repository from which the card's lines load the model; empty for a folder.
    """

    license: str = ""
    notes: str = ""
    repository: str = ""

    @classmethod
    def given(cls, license: str = "", notes: Path | None = None, repository: str = "") -> Wanted:
        """Return checked values. notes: a file. Raises ConfigError for the licence, ExportError for notes not read."""
        if license and not LICENSE.fullmatch(license.lower()):
            raise ConfigError(
                "This is not the identifier of a licence",
                got=license,
                fix="Give one that the hub knows, such as mit, apache-2.0, cc-by-4.0 or cc-by-nc-4.0; else give other",
            )
        text = ""
        if notes is not None:
            try:
                text = read_whole(expand(notes), LARGEST_NOTES).decode().strip()
            except (OSError, ValueError) as error:
                raise ExportError(
                    "The notes for the model card cannot be read",
                    got=str(notes),
                    cause=str(error),
                    fix="Give a text file in UTF-8",
                ) from None
        return cls(license.lower(), text, repository)


def write(
    model: str | Path, which: str, encoder: Encoder, source: Pretrained, plan: Plan, to: str, place: Path,
    title: str, wanted: Wanted,
) -> None:  # fmt: skip
    """Write the card of an exported model into its folder.

    model, which: what was exported. title: the name of the folder or repository. place: the folder.
    """
    text = card(history(model, which), encoder, source, plan, to, title, wanted)
    (place / NAME).write_text(text, encoding="utf-8")


def card(
    told: History | None,
    encoder: Encoder,
    source: Pretrained,
    plan: Plan,
    to: str,
    title: str,
    wanted: Wanted,
) -> str:
    """Return the text of a card. It begins with the front matter for the hub, between lines of dashes."""
    base = base_model(told.init if told else {"spec": source.origin.spec, "files": source.origin.files})
    results = told.results if told else []
    text = encoder.model.text_tower is not None and to != "timm"
    data = {
        "front_matter": Markup(_front_matter(told, encoder, to, title, wanted, base, text=text)),
        "title": title,
        "text": text,
        "dims": encoder.config.model.embed_dim if text else encoder.model.image_tower.width,
        "notes": Markup(wanted.notes),
        "usage": Markup(usage(plan, wanted.repository or title, hub=bool(wanted.repository))),
        "repository": wanted.repository if to != "onnx" else "",  # whose graphs slip does not read
        "remarks": (*plan.of_version(), *plan.notes),
        "model": _model(encoder, text=text),
        "run": told is not None,
        "sources": sources(told) if told else [],
        "training": _training(told) if told else _unknown(source),
        "recipe": told.run.config.name if told else "",
        "deviations": _deviations(told) if told else [],
        "how": _how(told.run) if told else [],
        "columns": COLUMNS_SHOWN,
        "results": rows(results),
        "unmeasured": _unmeasured(told),
        "limits": _limits(told, results),
        "license": licence(wanted),
        "base_model": base,
    }
    return environment().get_template("card.md.j2").render(data)


def usage(plan: Plan, name: str, *, hub: bool) -> str:
    """Return the lines of Python that load the model by the name of its folder, or of its repository on the hub."""
    lines = plan.usage.replace("local-dir:PLACE", f"hf-hub:{name}") if hub else plan.usage
    if hub and '"PLACE/' in lines:  # files that a program opens by itself
        fetched = f'from huggingface_hub import snapshot_download\nplace = snapshot_download("{name}")\n'
        return fetched + lines.replace('"PLACE/', 'f"{place}/')
    if hub and plan.library == "openslip":
        name = f"hf:{name}"
    return lines.replace("PLACE", name)


def licence(wanted: Wanted) -> str:
    """Return the sentence about a model's licence."""
    if wanted.license:
        return f"The model is released under the licence {wanted.license}"
    return "No licence was given. Ask whoever shares the model before you use it"


def _front_matter(
    told: History | None,
    encoder: Encoder,
    to: str,
    title: str,
    wanted: Wanted,
    base: str,
    *,
    text: bool,
) -> str:
    """Return the YAML that the hub reads."""
    from huggingface_hub import ModelCardData

    objectives = told.run.loss.options if told else {}
    exact = [one for result in (told.results if told else []) for one in _exact(result)]
    values: dict[str, Any] = {
        "library_name": LIBRARIES.get(to, to),
        "pipeline_tag": "zero-shot-image-classification" if text else "image-feature-extraction",
        "license": wanted.license or None,
        "base_model": base or None,
        "datasets": _datasets(told) or None,
        "tags": list(dict.fromkeys(["openslip", *(["clip"] if text else []), *objectives])),
        "metrics": sorted({one.metric_type for one in exact}) or None,
        "eval_results": exact or None,
        "model_name": title if exact else None,
    }
    return ModelCardData(**values).to_yaml().strip()


def _exact(result: Result) -> list[Any]:
    """Return a result in the hub's form if that form is exact: an accuracy on a data set of the hub; else nothing."""
    from huggingface_hub import EvalResult

    kind, _, name = result.data.partition(":")
    name = re.split(r"[:@]", name)[0]
    protocol = result.task.partition(":")[0]
    if kind != "hf" or not hub.is_name(name) or protocol != "zeroshot" or result.metric not in ACCURACY:
        return []
    about: dict[str, Any] = {"dataset_split": result.split} if result.split else {}
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=name,
            dataset_name=name.partition("/")[2],
            metric_type=ACCURACY[result.metric],
            metric_value=result.value,
            **about,
        )
    ]


def _datasets(told: History | None) -> list[str]:
    """Return the data sets of the hub that the run was trained on."""
    if told is None:
        return []
    found = re.findall(r"(?:^|\s)hf(?:-stream)?:([\w.-]+/[\w.-]+)", told.run.config.data.train)
    return list(dict.fromkeys(found))


def base_model(init: Mapping[str, Any]) -> str:
    """Return the hub repository that weights came from; empty if they came from elsewhere."""
    for path in init.get("files") or {}:
        if found := CACHED.search(str(path)):
            return f"{found[1]}/{found[2]}"
    return ""


def _model(encoder: Encoder, *, text: bool) -> list[tuple[str, str]]:
    """Return what the model is, by topic."""
    config, model = encoder.config, encoder.model
    views = config.views
    rows = [("Image tower", f"{image_tower(config)}; {millions(_count(model.image_tower))} parameters")]
    if text and model.text_tower is not None:
        rows += [
            ("Text tower", f"{text_tower(config)}; {millions(_count(model.text_tower))} parameters"),
            ("Tokenizer", "its own, which is part of the model" if config.model.text.tokenizer else "CLIP's"),
            ("Space of pictures and texts", f"{config.model.embed_dim} dimensions"),
            ("Parameters", f"{_count(model):,}"),
        ]
    fit = "cropped at the middle" if views.fit == "crop" else "squashed to a square"
    return [
        *rows,
        (
            "Pictures",
            f"{views.size} × {views.size} pixels, {views.interpolation}, {fit}; mean {as_typed(views.mean)}, deviation "
            f"{as_typed(views.std)}",
        ),
    ]


def _count(module: Any) -> int:
    return sum(value.numel() for value in module.parameters())


def sources(told: History) -> list[tuple[str, str]]:
    """Return each training source, by the last part of its name, with the number of its records."""
    data = told.run.data or {}
    rows = []
    for option, words in (("train", ""), ("ssl", ", for self-supervision")):
        for part in data.get(option, []):
            rows.append((f"{data_name(str(part['name']))}{words}", f"{part['records']:,}"))
    return rows


def _training(told: History) -> list[str]:
    """Return sentences: what the model started from, how long it was trained, and what was held out or skipped."""
    run, lines = told.run, []
    lines += _started(told.init)
    for name, about in told.fixed.items():
        lines.append(f"The objective {name} learns from {bare_spec(str(about.get('spec', 'another model')))}")
    position, step = told.state.get("position"), told.state.get("step")
    if isinstance(position, int):
        steps = "1 step" if step == 1 else f"{step:,} steps" if isinstance(step, int) else ""
        rate = f" in {steps} of {run.config.training.batch:,}" if steps else ""
        lines.append(f"The model saw {position:,} samples{rate}")
    if told.progress is not None and told.progress < 1:
        lines.append(f"Training was not complete: {math.floor(100 * told.progress)} % of what was planned")
    for about in (run.data or {}).get("held_out", []):
        lines.append(
            f"{about['records']:,} of {about['total']:,} records were held out of training, to measure on"
        )
    skipped = told.state.get("counts", {}).get("skipped", 0)
    if skipped:
        lines.append(
            f"Another record took the place of an unusable one {skipped:,} time{'s' * (skipped != 1)}"
        )
    if run.data is None:
        lines.append(
            f"The data were given as {data_name(run.config.data.train) or 'nothing'}; no more was noted"
        )
    versions = ", ".join(
        f"{name} {run.versions[name]}" for name in ("openslip", "torch", "timm") if name in run.versions
    )
    return [*lines, *([f"The model was trained with {versions}"] if versions else [])]


def _started(init: Mapping[str, Any]) -> list[str]:
    if not init:
        return ["Training started from random weights"]
    taken, fresh = (tuple(map(str, init.get(key) or ())) for key in ("taken", "fresh"))
    words = f"Training started from {bare_spec(str(init.get('spec', '')))} ({init.get('format', 'unknown')})"
    words += f": {parts(taken)}" if taken else ""
    words += f". Started at random: {parts(fresh)}" if fresh else ""
    digests = [
        f"{Path(str(path)).name} has the SHA-256 {digest}"
        for path, digest in (init.get("files") or {}).items()
    ]
    return [words, *digests]


def _unknown(source: Pretrained) -> list[str]:
    """Return what is known of a model that is no run, and what is not."""
    spec, form = bare_spec(source.origin.spec), source.origin.format
    lines = [f"The weights are those of {spec} ({form})"]
    if form == "openslip":
        loss = last_parts(source.config.objective.loss)
        lines.append(f"The file says that they were trained with the loss `{loss}`")
        lines += [f"The file says of itself: {line}" for line in _comments(source)]
    return [
        *lines,
        "It is not known here on what data, for how long and from what start they were trained. Whoever made them may "
        "have said so",
    ]


def _comments(source: Pretrained) -> list[str]:
    """Return the comment lines in the header of a file of ours. Those of a mixed model say what was mixed, and how."""
    for path in source.origin.files:
        with suppress(SlipError):
            text = metadata.read_header(Path(path))[1].get(metadata.KEY, "")
            return [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    return []


def _deviations(told: History) -> list[tuple[str, str, str]] | None:
    """Return the values that differ from the recipe's and that the weights depend on; None if there is no recipe."""
    config = told.run.config
    if config.name not in recipes.RECIPES:
        return None
    here, there = values_of(config), values_of(recipes.get(config.name))
    skipped = (*MAY_CHANGE, *PLACES, "data.*", "name", "init", *(OF_THE_START if told.init else ()))
    return [
        (key, _value(here[key]), _value(there[key]))
        for key in here
        if key in there
        and here[key] != there[key]
        and (not matches(key, skipped) or (told.init and key.rpartition(".")[2] in FOR_TRAINING))
    ]


def _value(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else last_parts(str(value)) or "–"


def _how(run: Run) -> list[tuple[str, str]]:
    """Return how a run was trained, by topic, as in `slip report`, but without data, start and towers."""
    config = _shareable(run.config)
    topics = configuration(Row("", (replace(run, config=config),)))
    elsewhere = ("Training data", "Image tower", "Text tower", "Starts from")
    return [(name, words) for name, words in topics.items() if name not in elsewhere]


def _shareable(config: Config) -> Config:
    """Return a configuration without places: of data, and of models that objectives learn from."""
    options = {
        name: {
            key: bare_spec(value) if matches(f"objective.{name}.{key}", PLACES) else value
            for key, value in each.items()
        }
        for name, each in config.objective.options.items()
    }
    return replace(
        config,
        data=replace(config.data, train=data_name(config.data.train), ssl=data_name(config.data.ssl)),
        objective=replace(config.objective, loss=last_parts(config.objective.loss), options=options),
    )


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return the rows of a table of results, in the order of the results. Names that end up equal are numbered."""
    table, seen = [], dict[tuple[str, str], int]()
    for name, result in zip(distinct(results), results):
        key = last_parts(name), result.metric
        seen[key] = seen.get(key, 0) + 1
        label = key[0] + (f" ({seen[key]})" if seen[key] > 1 else "")
        about = [f"split {result.split}" if result.split else "", last_parts(result.settings)]
        table.append((label, *cells(result), "; ".join(filter(None, about))))
    return table


def _unmeasured(told: History | None) -> str:
    if told is None:
        return "How good the model is, is not known here. `slip evaluate` measures it"
    if told.run.results:
        others = sorted({result.checkpoint for result in told.run.results})
        return f"This checkpoint, {told.name}, was not measured. The run has results of {', '.join(others)}"
    return "The model was not measured. `slip evaluate` measures it"


def _limits(told: History | None, results: Sequence[Result]) -> list[str]:
    """Return what the model may be bad at, and what nobody knows of it."""
    limits = []
    if told is not None:
        records = sum(part["records"] for part in (told.run.data or {}).get("train", []))
        if 0 < records < FEW:
            start = " and beyond what its start knew" if told.init else ""
            limits.append(
                f"The model was trained on {records:,} records, which are few. It knows little beyond them{start}"
            )
        if any(result.task.endswith(":val") for result in results) and "%" in told.run.config.data.val:
            limits.append(
                "The records of `val` were held out of the training data. Other records differ more from that data"
            )
        lost = told.state.get("counts", {}).get("nonfinite", 0)
        if lost:
            limits.append(
                f"{lost:,} step{'s' * (lost != 1)} of the training had a loss that was not finite, and changed nothing"
            )
    if results:
        limits.append(
            "Only what the table names was measured. It is not known how good the model is for other pictures, "
            "languages and uses"
        )
    else:
        limits.append("It is not known how good the model is for any use. Measure it on your own pictures")
    limits.append(
        "Whether the model treats groups of people alike was not measured. Do not base decisions about people on it"
    )
    return limits


def bare_spec(spec: str) -> str:
    """Return a model's spec without paths of this machine: `hf:owner/name` stays, a path is cut to its last part."""
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in ("timm", "open_clip", "hf"):
        return last_parts(spec)
    name, at, file = rest.partition("@")
    if at and kind != "hf":
        return f"{kind}:{name}@{last_parts(file)}"
    return spec if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) else f"{kind}:{last_parts(rest)}"


def last_parts(text: str) -> str:
    """Return a text with each path in it cut down to its last part; names of the hub stay."""
    return _PARENTS.sub(lambda found: found[1] or "", text).rstrip("/\\")


@cache
def environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("openslip.exports"),
        autoescape=False,  # it is Markdown, which `_plain` escapes
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sentence"] = _sentence
    return environment


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _plain(value: object) -> object:
    """Return what the template prints as plain text in one line: no markup, no absolute path, no control character."""
    if isinstance(value, Markup):
        return value
    text = _ABSOLUTE.sub(
        lambda found: found[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2], str(value)
    )
    text = " ".join(printable(text).split())
    return re.sub(r"[|<\[]|&(?=#?\w+;)", lambda found: "\\" + found[0], text)
