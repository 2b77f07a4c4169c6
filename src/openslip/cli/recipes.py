"""slip recipes [show NAME]"""

from __future__ import annotations

from dataclasses import replace

from openslip import recipes, toml
from openslip.cli.help import asks_for_help, help_text
from openslip.errors import UsageError, did_you_mean

DESCRIPTION = """List the recipes, or print one as TOML. Save the TOML, change it, and train it with `slip train
--config FILE`."""
EXAMPLES = """\
slip recipes
    List the recipes, each with what it is for.
slip recipes show small-data
    Print a recipe as TOML.
"""


def main(argv: list[str]) -> None:
    """List recipes or show one."""
    if asks_for_help(argv) or argv == ["help"]:
        print(help_text([], prog="slip recipes [show NAME]", description=DESCRIPTION, examples=EXAMPLES))
        return
    match argv:
        case [] | ["list"]:
            width = max(map(len, recipes.RECIPES))
            for name, recipe in recipes.RECIPES.items():
                print(f"{name:<{width}}  {recipe.summary}")
        case ["show", name]:
            config = recipes.get(name)
            from openslip import objectives  # imports torch

            complete, said = objectives.complete(config.objective), config.objective.options
            # The data decide which pairs are positives, unless the configuration does.
            options = {
                name: {
                    key: value
                    for key, value in own.items()
                    if key != "positives" or key in said.get(name, {})
                }
                for name, own in complete.options.items()
            }
            print(toml.dumps(replace(config, objective=replace(complete, options=options))), end="")
        case ["show"]:
            raise UsageError("`slip recipes show` takes one recipe's name", fix="`slip recipes` lists them")
        case ["show", name, *more]:
            raise UsageError(
                "`slip recipes show` takes one recipe's name, and nothing else",
                got=" ".join(more),
                fix=f"Values are changed where it is trained: `slip train {name} --training.epochs 40`",
            )
        case [word, *_] if word in recipes.RECIPES:
            raise UsageError(
                f"`slip recipes` does not know {word!r}", fix=f"`slip recipes show {word}` prints it"
            )
        case [word, *_]:
            raise UsageError(
                f"`slip recipes` does not know {word!r}", fix=did_you_mean(word, ["show", "list"])
            )
