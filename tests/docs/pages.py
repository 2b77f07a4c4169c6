"""The code blocks of a page of the docs, and how they are run: in order, in one folder, as a reader would. And the
page's command lines.

A comment below a block says where a test does otherwise. It is not shown on the site:

    <!-- not run: why -->
    <!-- run instead: slip train … -->                 the same with less to compute
    <!-- run with: this => that; why -->               the block, with one text in the place of another

Blocks of `sh` are lines of `slip`. Blocks of `python` share their names. A block with a title is a file.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openslip.cli import main

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```\n'
    r"(?:<!-- (?P<how>not run|run instead|run with): (?P<what>[^\n]+) -->\n)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One block: what the page shows, and what is run of it. `code` is empty where nothing is; `why` says why."""

    language: str
    title: str
    code: str
    why: str


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in order; raises ValueError for a comment that says nothing, or replaces nothing."""
    return [_block(match) for match in BLOCK.finditer(text)]


def _block(match: re.Match[str]) -> Block:
    language, title, code, how, what = (
        match[name] or "" for name in ("language", "title", "code", "how", "what")
    )
    if how == "not run":
        return Block(language, title, "", what)
    if how == "run instead":
        return Block(language, title, f"{what}\n", "less to compute")
    if how == "run with":
        pairs = [part.split(" => ") for part in what.split("; ") if " => " in part]
        if not pairs or any(old not in code for old, _ in pairs):
            raise ValueError(f"This replaces nothing: {what}")
        for old, new in pairs:
            code = code.replace(old, new)
    return Block(language, title, code, what)


def commands(text: str) -> list[str]:
    """Return the lines of `slip` in a page's blocks of the shell, without comments, pipes and redirections.

    Lines with variables of the shell are left out, because the shell alone knows the values.
    """
    shown = [block.code for block in blocks(text) if block.language in ("", "sh")]
    lines = [
        line.strip().removeprefix("$ ") for code in shown for line in code.replace("\\\n", " ").splitlines()
    ]
    return [_without_shell(line) for line in lines if line.startswith("slip ") and "$" not in line]


def _without_shell(line: str) -> str:
    """Return the one command of a line, up to a redirection, a pipe, a second command or a comment."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|&;")
    lexer.whitespace_split = True
    return shlex.join(itertools.takewhile(lambda word: not set(word) <= set("<>|&;"), lexer))


def run(page: list[Block], folder: Path, place: Callable[[str], str] = str) -> int:
    """Run blocks in `folder`, which is the current one; return how many were run.

    place: what a line of the shell becomes before it is run. Raises AssertionError where a command does not end with 0.
    """
    names: dict[str, Any] = {"__name__": "page"}
    done = 0
    for block in page:
        if block.code and block.title:
            (folder / block.title).write_text(block.code)
        elif block.code and block.language == "python":
            exec(compile(block.code, "block of the page", "exec"), names)
        elif block.code and block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                _run_line(place(line))
        else:
            continue
        done += 1
    return done


def _run_line(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "slip", f"A line of another program must be marked as not run: {line}"
    assert not {">", "|", "&&"} & set(words), (
        f"A line with signs of the shell must be marked as not run: {line}"
    )
    status = main(words)
    assert status == 0, f"{line} ended with {status}"
