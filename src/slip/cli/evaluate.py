"""slip evaluate RUN_OR_CHECKPOINT TASK [TASK ...]"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from slip.cli.arguments import parse

DESCRIPTION = """Measure a run folder, a checkpoint folder of one, or a released SLIP .pt file.

A task is PROTOCOL:DATASET. Protocols: zeroshot, linear, knn, finetune (DATASET is a folder of images by class, Parquet
files, or `scenes`), retrieval (DATASET is what `slip train` reads). A run keeps its results in results.json."""


@dataclass(frozen=True)
class Options:
    """What to measure, and how."""

    model: Annotated[Path, tyro.conf.Positional]
    """Run folder, checkpoint folder or .pt file."""
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """PROTOCOL:DATASET, for example zeroshot:/data/birds; or PROTOCOL alone with --data."""
    data: str = ""
    """Data set of the tasks that name none."""
    which: Literal["latest", "best"] = "latest"
    """Checkpoint of a run folder."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    out: Path | None = None
    """Also write the results to this JSON file."""


def main(argv: list[str]) -> None:
    """Load, measure, print and keep."""
    options = parse(Options, argv, prog="slip evaluate", description=DESCRIPTION)

    from slip.errors import ConfigError
    from slip.evaluation import suite
    from slip.interop import load
    from slip.training.precision import choose_device

    if not options.tasks:
        raise ConfigError(
            "No task was named", fix="For example `slip evaluate RUN zeroshot:scenes knn:/data/birds`"
        )
    tasks = [
        suite.parse_task(f"{t}:{options.data}" if ":" not in t and options.data else t) for t in options.tasks
    ]
    encoder = load(options.model, which=options.which).to(choose_device(options.device))
    results = suite.run(encoder, tasks)
    print(suite.table(results))
    if options.out:
        suite.save(results, options.out)
    if (options.model / "config.toml").is_file():
        path = options.model / "results.json"
        measured = {(r.task, r.metric) for r in results}
        suite.save([r for r in suite.read(path) if (r.task, r.metric) not in measured] + results, path)
