"""slip --print-completion bash|zsh|fish

The printed script contains the commands and their options, so the shell answers Tab alone and at once. Options of
objectives (`--objective.simclr.…`) are not in the script: listing them would need to import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from shlex import quote

from openslip import cli, recipes
from openslip.cli import data
from openslip.cli.described import Option, options
from openslip.cli.help import ALL
from openslip.errors import UsageError, did_you_mean

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = "slip openslip"
HOW = """usage: slip --print-completion bash|zsh|fish

Print a script that completes commands and options in a shell. Write it once to the place where the shell looks for it:
  bash  slip --print-completion bash > ~/.local/share/bash-completion/completions/slip
  zsh   slip --print-completion zsh > ~/.slip-completion.zsh; echo 'source ~/.slip-completion.zsh' >> ~/.zshrc
  fish  slip --print-completion fish > ~/.config/fish/completions/slip.fish"""


@dataclass(frozen=True)
class Command:
    """A command to complete. words: what may follow it in the place of a file. text: what the command does."""

    path: tuple[str, ...]
    text: str
    words: tuple[str, ...]
    options: tuple[Option, ...]

    @property
    def name(self) -> str:
        """The command as typed after `slip`."""
        return " ".join(self.path)


def main(argv: list[str]) -> int:
    """Print the script for a shell. Raises UsageError for an unknown shell."""
    match argv:
        case ["bash"]:
            print(bash(commands()))
        case ["zsh"]:
            print(zsh(commands()))
        case ["fish"]:
            print(fish(commands()))
        case ["-h" | "--help"]:
            print(HOW)
        case []:
            raise UsageError(
                "--print-completion takes the name of a shell", fix=f"One of {', '.join(SHELLS)}"
            )
        case [shell, *_]:
            raise UsageError(
                "There is no completion for this shell", got=" ".join(argv), fix=did_you_mean(shell, SHELLS)
            )
    return 0


def commands() -> list[Command]:
    """Return every command with its options. A command of two words follows the command of its first word."""
    names = tuple(recipes.RECIPES)
    follow = {
        "train": names, "data": tuple(data.COMMANDS), "evaluate": ("suite",), "datasets": ("show",),
        "ablate": ("show",), "recipes": ("show",),
    }  # fmt: skip
    found = []
    for name, text in cli.COMMANDS.items():
        module = importlib.import_module(f"openslip.cli.{name}")
        known = tuple(options(module.Options)) if hasattr(module, "Options") else ()
        found.append(Command((name,), text, follow.get(name, ()), known))
        if name == "data":
            for inner, about in data.COMMANDS.items():
                known = tuple(options(importlib.import_module(f"openslip.cli.data.{inner}").Options))
                found.append(Command((name, inner), about, (), known))
        if name == "evaluate":
            suite = importlib.import_module("openslip.cli.suite")
            found.append(
                Command((name, "suite"), "measure several models", (), tuple(options(suite.Options)))
            )
        if name == "recipes":
            found.append(Command((name, "show"), "print one as TOML", names, ()))
    return found


def bash(commands: Iterable[Command]) -> str:
    """Return the script for bash."""
    commands = list(commands)
    first = " ".join([*(one.name for one in commands if len(one.path) == 1), "help", "--help", "--version"])
    paths = "|".join(quote(" ".join(["", *one.path])) for one in commands)
    cases = "\n".join(line for one in commands for line in _bash_case(one))
    return f"""\
# Completes commands and options of slip. Printed by `slip --print-completion bash`.
_slip() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="" path="" words="" names="" values="" i
    [[ $COMP_CWORD -gt 0 ]] && prev="${{COMP_WORDS[COMP_CWORD-1]}}"
    if [[ $cur == "=" ]]; then cur=""
    elif [[ $prev == "=" ]]; then prev="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    for (( i = 1; i < COMP_CWORD; i++ )); do
        case "$path ${{COMP_WORDS[i]}}" in
            {paths}) path="$path ${{COMP_WORDS[i]}}" ;;
            *) break ;;
        esac
    done
    case "$path" in
        '') words="{first}" ;;
{cases}
    esac
    if [[ -n $values ]]; then COMPREPLY=( $(compgen -W "$values" -- "$cur") )
    elif [[ $cur == -* ]]; then COMPREPLY=( $(compgen -W "$names" -- "$cur") )
    elif [[ $prev != -* ]]; then COMPREPLY=( $(compgen -W "$words" -- "$cur") )
    else COMPREPLY=()
    fi
}}
complete -o bashdefault -o default -F _slip {PROGRAMS}"""


def _bash_case(command: Command) -> Iterator[str]:
    """Yield the lines that set what may follow a command, and the possible values of its options."""
    names = " ".join(_spellings(command))
    yield f"        {quote(' ' + command.name)})"
    yield f'            words="{" ".join(command.words)}"'
    yield f'            names="{names}"'
    chosen = [option for option in command.options if option.spellings and option.choices]
    if chosen:
        yield '            case "$prev" in'
        for option in chosen:
            yield f'                {"|".join(option.spellings)}) values="{" ".join(option.choices)}" ;;'
        yield "            esac"
    yield "            ;;"


def zsh(commands: Iterable[Command]) -> str:
    """Return the script for zsh, which contains the script for bash."""
    return f"""\
# Completes commands and options of slip. Printed by `slip --print-completion zsh`.
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
{bash(commands)}"""


def fish(commands: Iterable[Command]) -> str:
    """Return the script for fish."""
    lines = ["# Completes commands and options of slip. Printed by `slip --print-completion fish`."]
    for command in commands:
        *before, last = command.path
        where = _seen(before) if before else "__fish_use_subcommand"
        lines.append(f"complete -c slip -n {quote(where)} -f -a {last} -d {quote(command.text)}")
        here = quote(_seen(command.path))
        for word in command.words if command.name in ("train", "recipes show", "datasets", "ablate") else ():
            lines.append(f"complete -c slip -n {here} -a {word}")
        for option in command.options:
            for spelling in option.spellings:
                takes = "" if option.flag else " -r"
                values = f" -f -a {quote(' '.join(option.choices))}" if option.choices else ""
                about = f" -d {quote(_sentence(option.text))}" if option.text else ""
                lines.append(f"complete -c slip -n {here} -l {spelling[2:]}{takes}{values}{about}")
        lines.append(
            f"complete -c slip -n {here} -l help -d {quote('What the command does, and its options')}"
        )
    return "\n".join([*lines, "complete -c openslip -w slip"])


def _seen(path: Iterable[str]) -> str:
    return "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path)


def _spellings(command: Command) -> list[str]:
    found = [spelling for option in command.options for spelling in option.spellings]
    return [*found, "--help", ALL]


def _sentence(text: str) -> str:
    """Return the beginning of a text, which a shell shows beside an option."""
    return text.split(". ")[0].split("\n")[0].rstrip(".")
