"""What a report says about runs in words: what was trained and how, how it went, and what is missing."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

from openslip.addresses import is_url, shown
from openslip.config import Config, ObjectiveConfig, ViewConfig
from openslip.report.charts import samples
from openslip.report.losses import KnownLoss
from openslip.report.rows import Row, Rows
from openslip.report.runs import Run, finite
from openslip.shell import command

PLACEHOLDER = "PICTURES"
"""Stands for the user's labelled pictures, which a page cannot know."""
_NUMBERS = {2: "two", 3: "three", 4: "four"}


def configuration(row: Row) -> dict[str, str]:
    """Return what was trained and how: topic → sentence. Topics that the objective does not use are left out."""
    loss, config = row.first.loss, row.first.config
    optimizer = config.optimizer
    words = {
        "Loss": config.objective.loss,
        "Training data": shown(config.data.train) or "not recorded",
        "Image tower": image_tower(config),
        **({"Starts from": shown(config.init)} if config.init else {}),
        **({"Frozen": frozen} if (frozen := _frozen(config)) else {}),
    }
    if loss.text_tower:
        words["Text tower"] = f"{text_tower(config)}; shared space of {config.model.embed_dim} dimensions"
    for name, options in loss.options.items():
        if options:
            words[f"Options of {name}"] = "; ".join(
                f"{_plain(key)} {_value(value)}" for key, value in options.items()
            )
    words |= _views(loss, config)
    words |= {
        "Optimiser": f"AdamW, learning rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}, betas "
        f"{optimizer.betas[0]:g} and {optimizer.betas[1]:g}; warm-up over {_count(optimizer.warmup_epochs, 'epoch')}, "
        f"then cosine to {optimizer.lr_end:g}{_rates(config)}",
        "Length": f"{_planned(config)} in batches of {config.training.batch:,}",
        "Seeds" if len(row.runs) > 1 else "Seed": ", ".join(map(str, row.seeds)),
    }
    if config.data.ssl and (not loss.whole or any(view.scheduled for view in loss.views)):
        words["Pictures of the self-supervised views"] = shown(config.data.ssl)
    return words


def _frozen(config: Config) -> str:
    """Return which parts of the towers are frozen, and which of these have adapters; "" if all parts learn."""
    words = []
    for name, tower in (("image", config.model.image), ("text", config.model.text)):
        if tower.lora:
            words.append(f"{name} tower, with adapters of rank {tower.lora}")
        elif tower.freeze == "all":
            words.append(f"{name} tower")
        elif tower.freeze.startswith("-"):
            words.append(f"{name} tower except for its last {_count(int(tower.freeze[1:]), 'block')}")
        elif tower.freeze.isdecimal() and int(tower.freeze):
            words.append(f"first {_count(int(tower.freeze), 'block')} of the {name} tower")
    return "; ".join(words)


def _rates(config: Config) -> str:
    """Return separate learning rates: of towers that learn, of their layers, and of weights that the start lacks."""
    words, optimizer, model = [], config.optimizer, config.model
    for name, rate, tower in (("image", optimizer.image, model.image), ("text", optimizer.text, model.text)):
        if tower.freeze == "all" and not tower.lora:
            continue
        if rate.lr >= 0:
            words.append(f"{name} tower {rate.lr:g}")
        if rate.layer_decay != 1:
            words.append(f"{name} tower times {rate.layer_decay:g} from layer to layer")
    if optimizer.fresh_lr >= 0:
        words.append(f"weights that the start lacks {optimizer.fresh_lr:g}")
    return "; " + ", ".join(words) if words else ""


def _views(loss: KnownLoss, config: Config) -> dict[str, str]:
    """Return how the views of each kind are drawn; if a part of the loss is unknown, the views of all kinds."""
    titles = {"image": "View that goes with the caption", "ssl": "Self-supervised views"}
    counts = Counter(view.kind for view in loss.views)
    scheduled = {view.kind for view in loss.views if view.scheduled}
    words = {}
    for kind in (field.name for field in dataclasses.fields(config.views)):
        how = getattr(config.views, kind)
        if isinstance(how, ViewConfig) and (kind in counts or not loss.whole):
            each = f"{_NUMBERS.get(counts[kind], counts[kind])}, each " if counts[kind] > 1 else ""
            often = _how_often(config.objective) if kind in scheduled else ""
            words[titles.get(kind, f"Views of the kind {kind}")] = f"{each}{view(how)}{often}"
    return words


def setup(rows: Rows) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each topic of `configuration` with the sentences of the rows, as (label, sentence).

    If all rows that have the topic agree, there is one sentence without a label; not if only one of several has it.
    """
    said = {name: configuration(row) for name, row in rows.items()}
    fullest_first = sorted(said.values(), key=len, reverse=True)
    entries = []
    for topic in dict.fromkeys(topic for topics in fullest_first for topic in topics):
        texts = {name: topics[topic] for name, topics in said.items() if topic in topics}
        alike = len(set(texts.values())) == 1 and (len(texts) == len(rows) or len(texts) > 1)
        entries.append((topic, [("", next(iter(texts.values())))] if alike else list(texts.items())))
    return entries


def course(run: Run) -> dict[str, str]:
    """Return how the training went: topic → words."""
    last = run.last

    def middle(name: str) -> float | None:
        values = [line[name] for line in run.metrics if finite(line.get(name))]
        return median(values) if values else None

    speed, wait = middle("samples_per_second"), middle("data_wait")
    memory = last.get("memory_gib")
    computed = run.operations and run.operations * last["position"]
    return {
        "State": _state(run),
        "Samples seen": _integer(last.get("position")),
        "Steps": _integer(last.get("step")),
        "Time in steps": "–" if run.seconds is None else _duration(run.seconds),
        "Speed, median": "–" if speed is None else f"{speed:,.0f} samples/s",
        "Waiting for data, median": "–" if wait is None else f"{wait:.1%} of the time",
        "Operations of rank 0": f"{operations(computed)}FLOP" if computed else "–",
        "Memory of rank 0, most": f"{memory:.1f} GiB" if finite(memory) else "–",
        "Skipped records": _integer(last.get("skipped")),
        "Non-finite steps": _integer(last.get("nonfinite")),
    }


def view(config: ViewConfig) -> str:
    """Return how a view is drawn, in words."""
    parts = [f"a crop of {config.scale[0]:.0%}–{config.scale[1]:.0%} of the picture"]
    parts += [f"at {config.size} px"] if config.size else []
    parts += [f"{config.drop_tokens:.0%} of the tokens dropped in training"] if config.drop_tokens else []
    chances = {
        "flipped": config.flip,
        "colour jitter": config.jitter_probability,
        "grey": config.grayscale,
        "blurred": config.blur,
    }
    parts += [f"{name} {chance:.0%}" for name, chance in chances.items() if chance > 0]
    return ", ".join(parts)


def _how_often(config: ObjectiveConfig) -> str:
    rows = f"; of {config.ssl_share:.0%} of each batch" if config.ssl_share < 1 else ""
    steps = f"; on one step of {config.ssl_every}" if config.ssl_every > 1 else ""
    return rows + steps + (f"; after {config.ssl_from:.0%} of the steps" if config.ssl_from else "")


def _state(run: Run) -> str:
    done = run.done
    if done is None:
        return "no line in its log yet"
    if run.complete:
        return "complete"
    return f"at {math.floor(100 * done)}% of its {_planned(run.config)}"


def troubles(rows: Rows) -> list[str]:
    """Return sentences on runs whose numbers are worth less than they look, because steps changed nothing."""
    said = []
    for label, row in rows.items():
        for run in row.runs:
            step, lost = run.last.get("step"), run.last.get("nonfinite")
            if finite(step) and finite(lost) and step and lost and lost > 0.01 * step:
                said.append(
                    f"{label}{seed_of(row, run)} diverged or came close: {lost:,} of its {step:,} steps had a loss or "
                    "gradient that was not finite, and changed nothing."
                )
    return said


def runs_of(rows: Rows) -> list[Run]:
    """Return all runs."""
    return [run for row in rows.values() for run in row.runs]


def seed_of(row: Row, run: Run) -> str:
    """Return the words that tell a run from the others of its row: `, seed 2`."""
    return f", seed {run.config.training.seed}" if len(row.runs) > 1 else ""


def of_which_seed(row: Row) -> str:
    """Return which run of a row is shown, if the row has several."""
    return f" (of seed {row.seeds[0]}; the others differ in the seed)" if len(row.runs) > 1 else ""


def why_no_results(rows: Rows) -> str:
    """Return why there are no results, and what the commands below do about that."""
    runs = runs_of(rows)
    if not all(run.complete for run in runs):
        return (
            "None yet: training is not complete. A run that has `evaluation.tasks` or `data.val` is measured at its "
            "end. To continue a run that was stopped:"
        )
    if all(run.config.evaluation.tasks or run.config.data.val for run in runs):
        return "None yet: training is complete, but the measurement at its end is not. To complete it:"
    return (
        "None: training had neither `evaluation.tasks` nor `data.val`. To measure, put your own folder in the place of "
        f"{PLACEHOLDER}, with a folder of pictures for each class:"
    )


def trained_on(runs: Sequence[Run], rows: int) -> str:
    """Return `, each trained on 20k samples of scenes`, as far as known; `so far` if a run is not complete."""
    seen = [float(run.last["position"]) for run in runs if finite(run.last.get("position"))]
    if not seen:
        return ", with no step in the log yet"
    if len(seen) < len(runs):
        return ""
    low, high = samples(min(seen)), samples(max(seen))
    length = low if min(seen) == max(seen) else f"{low} to {high}"
    words = f", {'each ' if rows > 1 and low == high else ''}trained on {length} samples"
    data = {run.config.data.train for run in runs}
    if len(data) == 1 and (name := data_name(data.pop())):
        words += f" of {name}"
    return words + ("" if all(run.complete for run in runs) else " so far")


def seeds(rows: Sequence[Row]) -> str:
    """Return `, 3 seeds each`, or nothing for single runs."""
    counts = {len(row.runs) for row in rows}
    if counts == {1}:
        return ""
    each = " each" if len(rows) > 1 else ""
    return f", {min(counts)} to {max(counts)} seeds" if len(counts) > 1 else f", {counts.pop()} seeds{each}"


def data_name(spec: str) -> str:
    """Return the name of data in a sentence: `scenes` for `/data/scenes`, `3 sources` for a mixture."""
    spec = shown(spec).strip()
    if parts := len(re.split(r"\s\+\s", spec)) - 1:
        return f"{parts + 1} sources"
    if re.match(r"(hf|hf-stream):", spec):
        return spec.partition(":")[2]
    if not is_url(spec) and not re.search(r"[/\\]", spec):
        spec = spec.partition(":")[0]  # scenes:train:4000
    *_, folder, name = ["", *spec.replace("\\", "/").rstrip("/").split("/")]
    return f"{folder}/{name}" if name[:1] in ("*", "{") and folder else name


def image_tower(config: Config) -> str:
    """Return the description of an image tower."""
    tower, size = config.model.image, config.views.size
    if tower.name != "vit":
        return f"{tower.name} (timm) at {size} px"
    return f"ViT, patch {tower.patch}, width {tower.width}, {tower.depth} blocks, {tower.heads} heads, at {size} px"


def text_tower(config: Config) -> str:
    """Return the description of a text tower."""
    tower = config.model.text
    return f"width {tower.width}, {tower.depth} layers, {tower.heads} heads; captions up to {tower.context} tokens"


def _planned(config: Config) -> str:
    return config.training.budget or _count(config.training.epochs, "epoch")


def _duration(seconds: float) -> str:
    """Return `45 s`, `3 min 20 s`, `5 h 10 min`, `2 d 3 h`."""
    for large, small, size in (("d", "h", 86_400), ("h", "min", 3_600), ("min", "s", 60)):
        if seconds >= size:
            part = {"d": 3_600, "h": 60, "min": 1}[large]
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole:,} {large} {rest} {small}"
    return f"{seconds:.0f} s"


def operations(count: float | None) -> str:
    """Return a number of floating-point operations as people write it: `2.94 P`, `–` if it is unknown."""
    if count is None:
        return "–"
    sizes = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    size, prefix = next((one for one in sizes if count >= one[0]), (1.0, ""))
    return f"{count / size:.3g} {prefix}".rstrip()


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _integer(value: object) -> str:
    return f"{value:,.0f}" if finite(value) and isinstance(value, int | float) else "–"


def measuring(run: Run) -> str:
    """Return the command that measures a run without results.

    A run that is not complete, or that has tasks of its own, is resumed: it is measured at its end.
    """
    if not run.complete or run.config.evaluation.tasks or run.config.data.val:
        return command("slip", "train", "--resume", "--out", run.folder)
    protocol = "zeroshot" if run.loss.shared_space else "knn"
    return command("slip", "evaluate", run.folder, f"{protocol}:{PLACEHOLDER}")
