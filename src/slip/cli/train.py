"""slip train RECIPE | --config FILE | --resume --out RUN   [--section.key value ...]"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from slip import recipes, toml
from slip.cli.arguments import parse, say_note, take_option, take_positional
from slip.config import FORMATS, Config
from slip.errors import ConfigError

DESCRIPTION = """Train a recipe (`slip recipes` lists them) or a configuration file (`--config FILE`) on your pictures.
Every value of the configuration is an option. `--resume` continues the run in `--out`, or starts it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, and where to write."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    out: str = ""
    """Run folder; by default runs/NAME with the recipe's name."""
    resume: bool = False
    """Continue the run in the folder from its newest checkpoint (or start it, if there is none)."""


def main(argv: list[str]) -> None:
    """Parse, open the data, train, print the results."""
    options = resolve(argv)
    run(options.config, options.out, options.resume)


def resolve(argv: list[str]) -> Options:
    """Return the options that `argv` amounts to: the recipe, file or run it starts from, changed by the others."""
    recipe, rest = take_positional(argv)
    path, rest = take_option(rest, "--config")
    out, _ = take_option(rest, "--out")
    if recipe and path:
        raise ConfigError("Give a recipe or --config, not both", got=f"{recipe} and {path}")
    wants_help = any(word in ("-h", "--help") for word in rest)
    if recipe:
        base = recipes.get(recipe)
    elif path:
        base = toml.load(path)
    elif "--resume" in rest and out and (Path(out) / "config.toml").is_file():
        base = toml.load(Path(out) / "config.toml")
    elif wants_help:
        base = Config()
    else:
        raise ConfigError(
            "Nothing to train was named",
            fix="`slip train RECIPE` (see `slip recipes`), or `slip train --config FILE`",
        )
    options = parse(
        Options,
        rest,
        prog=f"slip train {recipe or 'RECIPE'}",
        default=Options(config=base),
        description=DESCRIPTION,
    )
    if not options.config.data.train:
        raise ConfigError(
            "No training data was named",
            fix=f"Add --data.train with {FORMATS}",
        )
    return Options(
        config=options.config, out=options.out or f"runs/{options.config.name}", resume=options.resume
    )


def run(config: Config, out: str, resume: bool) -> None:
    """Train and evaluate as `config` says."""
    from rich.console import Console

    from slip import objectives
    from slip.data.sources import open_source
    from slip.evaluation import suite
    from slip.training.loop import train

    data = config.data
    needs = objectives.parse(config.objective.loss).needs
    source = partial(
        open_source,
        image_root=data.image_root,
        image_column=data.image_column,
        caption_column=data.caption_column,
    )
    tasks = [suite.parse_task(task) for task in config.evaluation.tasks]
    if data.val:
        from slip.evaluation.retrieval import Retrieval

        val = source(data.val, must_fit=False)
        say_note(val)  # those of the other sources are in the plan
        tasks.insert(0, Retrieval(val, task="retrieval:val"))
    folder = train(
        config,
        source(data.train, captions_required="text" in needs),
        out,
        ssl=source(data.ssl, captions_required=False, caption_column="", must_fit=False)
        if data.ssl
        else None,
        evaluate=partial(suite.run, tasks=tasks) if tasks else None,
        resume=resume,
    )
    results = suite.read(folder.path / "results.json")
    if results:
        print(suite.table(results))
    Console(stderr=True).print(f"  done: {folder.path}", highlight=False)
