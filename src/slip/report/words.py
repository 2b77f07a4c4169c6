"""A run's configuration and course, in words."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from slip.addresses import shown
from slip.config import Config, ObjectiveConfig, ViewConfig
from slip.report.charts import samples
from slip.report.runs import Run, finite


def configuration(run: Run) -> dict[str, str]:
    """Return what was trained and how: topic → sentence. Topics that the objective does not use are left out."""
    config = run.config
    model, optimizer, views = config.model, config.optimizer, config.views
    words = {
        "Loss": config.objective.loss,
        "Training data": shown(config.data.train) or "not recorded",
        "Image tower": _image_tower(config),
        "Text tower": f"width {model.text.width}, {model.text.depth} layers, {model.text.heads} heads; captions up to "
        f"{model.text.context} tokens; shared space of {model.embed_dim} dimensions",
        "Self-supervised head": f"{model.ssl.width} – {model.ssl.width} – {model.ssl.dim}; "
        f"temperature {config.objective.temperature:g}",
        "View that goes with the caption": view(views.image),
        "Self-supervised views": f"two, each {view(views.ssl)}{_how_often(config.objective)}",
        "Optimiser": f"AdamW, learning rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}, betas "
        f"{optimizer.betas[0]:g} and {optimizer.betas[1]:g}; warm-up over {_count(optimizer.warmup_epochs, 'epoch')}, "
        f"then cosine to {optimizer.lr_end:g}",
        "Length": f"{_planned(config)} in batches of {config.training.batch:,}",
        "Seed": str(config.training.seed),
    }
    if run.method == "CLIP":
        words.pop("Self-supervised head")
        words.pop("Self-supervised views")
    if run.method == "SimCLR":
        words.pop("Text tower")
        words.pop("View that goes with the caption")
    return words


def course(run: Run) -> dict[str, str]:
    """Return how the training went: topic → words."""
    last = run.last

    def middle(name: str) -> float | None:
        values = [line[name] for line in run.metrics if finite(line.get(name))]
        return median(values) if values else None

    speed, wait = middle("samples_per_second"), middle("data_wait")
    done = run.done
    state = (
        "–" if done is None else "complete" if done > 0.999 else f"{done:.0%} of its {_planned(run.config)}"
    )
    return {
        "State": state,
        "Samples seen": _integer(last.get("position")),
        "Optimiser steps": _integer(last.get("step")),
        "Speed, median": "–" if speed is None else f"{speed:,.0f} samples/s",
        "Waiting for data, median": "–" if wait is None else f"{wait:.1%} of the time",
        "Records skipped": _integer(last.get("skipped")),
        "Steps with a non-finite loss": _integer(last.get("nonfinite")),
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
    return rows + (f"; on one step of {config.ssl_every}" if config.ssl_every > 1 else "")


def trained_on(runs: Sequence[Run]) -> str:
    """Return `, each on 20k samples of scenes` as far as it is the same for all runs."""
    seen = {run.last.get("position") for run in runs}
    data = {shown(run.config.data.train) for run in runs}
    each = "each " if len(runs) > 1 else ""
    words = ""
    if len(seen) == 1 and finite(position := seen.pop()):
        words = f", {each}trained on {samples(float(position or 0))} samples"
    if words and len(data) == 1 and (name := data.pop()):
        words += f" of {name.split(':')[0].rstrip('/').rpartition('/')[2] or name}"
    return words


def _image_tower(config: Config) -> str:
    tower, size = config.model.image, config.views.size
    if tower.name != "vit":
        return f"{tower.name} (timm{', pre-trained' if tower.pretrained else ''}) at {size} px"
    return f"ViT, patch {tower.patch}, width {tower.width}, {tower.depth} blocks, {tower.heads} heads, at {size} px"


def _planned(config: Config) -> str:
    return config.training.budget or _count(config.training.epochs, "epoch")


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _integer(value: object) -> str:
    return f"{value:,.0f}" if finite(value) and isinstance(value, int | float) else "–"
