"""slip recipes [show NAME]"""

from __future__ import annotations

from slip import recipes, toml
from slip.errors import ConfigError, did_you_mean

USAGE = """usage: slip recipes [show NAME]

List the recipes, or print one as TOML (save it, change it, and train it with `slip train --config FILE`)."""


def main(argv: list[str]) -> None:
    """List recipes or show one."""
    match argv:
        case []:
            width = max(map(len, recipes.RECIPES))
            for name, recipe in recipes.RECIPES.items():
                print(f"{name:<{width}}  {recipe.summary}")
        case ["-h" | "--help"]:
            print(USAGE)
        case ["show", name]:
            print(toml.dumps(recipes.get(name)), end="")
        case ["show", *_]:
            raise ConfigError("`slip recipes show` takes one recipe's name", fix="`slip recipes` lists them")
        case [word, *_]:
            raise ConfigError(f"`slip recipes` does not know {word!r}", fix=did_you_mean(word, ["show"]))
