"""slip mix A B [--alpha 0.5 ...] [--out FILE]"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse

DESCRIPTION = """Write the weights between two models of one architecture: (1 - alpha) of A and alpha of B (WiSE-FT,
Wortsman et al. 2022). If A is a model before further training, and B the model after it, the result often keeps most of
what A could do and most of what B has learned. `openslip.load` and `slip evaluate` take the files like any other
model; `slip evaluate MIXED TASK ... --against A` measures what was gained and lost."""
ENDING = ".safetensors"
EXAMPLES = """\
slip mix open_clip:ViT-B-32/openai runs/mine --out mixed.safetensors
    Write the weights half-way between a public model and a run.
slip mix runs/before runs/after --alpha 0.25 0.5 0.75
    Write three files, each with its alpha in the name.
"""


@dataclass(frozen=True)
class Options:
    """Which two models, how much of each, and where the result goes."""

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """What `openslip.load` takes: a run folder, a checkpoint folder, a file of weights, a released SLIP .pt file, or a
    public model such as open_clip:NAME/TAG."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The second model, as for A: usually what A became by further training."""
    alpha: tuple[float, ...] = (0.5,)
    """Share of B, from 0 to 1. With several shares each has its own file, with alpha in the name."""
    out: Path = Path(f"mixed{ENDING}")
    """The file to write, which must not exist yet."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""


def main(argv: list[str]) -> None:
    """Check, read both, write a file for each alpha."""
    options = parse(Options, argv, prog="slip mix", description=DESCRIPTION, examples=EXAMPLES)
    idle.which(given(Options, argv), Path(options.a), Path(options.b))

    from openslip.errors import ConfigError, printable
    from openslip.files import check_free
    from openslip.interop import mixing, read
    from openslip.interop.filling import encoder_of
    from openslip.progress import Working
    from openslip.training.saving import metadata

    for alpha in options.alpha:
        mixing.check_alpha(alpha)
    if not options.alpha or len({*options.alpha}) < len(options.alpha):
        raise ConfigError("Give each alpha once", got=f"--alpha {' '.join(map(_plain, options.alpha))}")
    files = _files(options)
    for file in files.values():
        check_free(file, "The mixed model")
        metadata.check_place(file)
    models = (options.a, options.b)
    runs = [os.path.isfile(os.path.join(os.path.expanduser(model), "config.toml")) for model in models]
    with Working(f"reading {options.a} and {options.b}"):
        sources = [
            read(model, options.which if is_run or not any(runs) else "latest")
            for model, is_run in zip(models, runs)
        ]
        a, b = map(encoder_of, sources)
    for line in mixing.check(a, b):
        print(printable(f"slip: {line}."), file=sys.stderr, flush=True)
    of = [
        f"{which}: {os.path.basename(file)} sha256:{digest}"
        for which, source in zip("ab", sources)
        for file, digest in source.origin.files.items()
        if not file.endswith(".toml")
    ]
    for alpha, file in files.items():
        lines = ["Mixed by `slip mix`: (1 - alpha) of a and alpha of b", f"alpha: {_plain(alpha)}", *of]
        with Working(f"writing {file}"):
            weights = mixing.weights(a, b, alpha)
            metadata.write_model(file, weights, b.config, "\n".join(map(printable, lines)))
        count = sum(tensor.numel() for tensor in weights.values())
        shares = f"{1 - alpha:.4g} of {options.a} and {alpha:.4g} of {options.b}"
        print(printable(f"wrote {count:,} numbers to {file}: {shares}"))


def _files(options: Options) -> dict[float, Path]:
    """Return the file for each alpha. Raises ConfigError for the name of another kind of file."""
    from openslip.errors import ConfigError
    from openslip.files import expand

    out = expand(options.out)
    if out.suffix != ENDING:
        raise ConfigError(
            f"Weights are written to a file whose name ends in {ENDING}",
            got=f"--out {options.out}",
            fix=f"Write --out {out / f'mixed{ENDING}' if out.is_dir() else out.with_name(out.name + ENDING)}",
        )
    if len(options.alpha) == 1:
        return {options.alpha[0]: out}
    return {alpha: out.with_name(f"{out.stem}-{_plain(alpha)}{ENDING}") for alpha in options.alpha}


def _plain(number: float) -> str:
    """Return a number as people write it, 0.25 or 1; different numbers have different texts."""
    return repr(float(number)).removesuffix(".0")
