"""slip serve [MODEL] VECTORS"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse, refuse_idle
from openslip.errors import ConfigError, UsageError, printable

DESCRIPTION = """Serve a page on this machine to search an index of `slip embed` and look at its pictures: by text, by
dropped pictures, by liked results, with conditions on columns, and on a map. The page uses a JSON API, described at
/docs. Ctrl-C ends the server. Needs `pip install 'openslip[serve]'`."""
EXAMPLES = """\
slip serve vectors --open
    Open a page on this machine.
slip serve runs/mine vectors --host 0.0.0.0 --port 8000
    Let other machines search, if they know the token.
"""


@dataclass(frozen=True)
class Options:
    """Which index, by which model, and at which address."""

    places: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL] VECTORS")]
    """The folder that `slip embed --out` wrote; before it the model, if the model has moved since."""
    model: str = ""
    """The model, as an option."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of the run that is named as the model."""
    host: str = "127.0.0.1"
    """Name or address of this machine. 127.0.0.1: no other machine reaches the page. 0.0.0.0: everybody in the network
    who knows the token reaches it."""
    port: int = 8420
    """Port of the server; 0: any free port."""
    open: bool = False
    """Open the page in a browser."""
    token: str = ""
    """Secret that clients must send. If other machines reach the page, the default is a random token."""
    max_upload: float = 20.0
    """Largest picture that a client may send, in MB."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


def main(argv: list[str]) -> None:
    """Serve until Ctrl-C."""
    options = parse(Options, argv, prog="slip serve", description=DESCRIPTION, examples=EXAMPLES)
    model, folder = _places(options)
    if not model:
        because = (
            "It picks a checkpoint of the model that is named here, and the index names its own checkpoint"
        )
        refuse_idle(given(Options, argv), "which", because=because)
    else:
        idle.which(given(Options, argv), Path(model))
    if not 0 <= options.port < 1 << 16 or not 0 < options.max_upload <= 1000:
        raise ConfigError(
            "--port must be from 0 to 65535, and --max-upload above 0 and at most 1000",
            got=f"{options.port}, {options.max_upload:g}",
        )
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise ConfigError(
            "`slip serve` needs a package that is not installed",
            got=", ".join(missing),
            fix="pip install 'openslip[serve]'",
        )

    from openslip.progress import Working
    from openslip.search.app.server import Server, open_page
    from openslip.search.index import Index
    from openslip.training.precision import choose_device

    try:
        device = choose_device(options.device)
    except ConfigError as error:
        raise ConfigError(error.what, got=f"--device {options.device}", fix="Use --device auto") from None
    with Working("reading the index and its model"):
        index = Index.open(folder, model=model or None, which=options.which)
        index.model.to(device)

    def say(server: Server) -> None:
        name = index.model.config.name or index.about["model"]["spec"] or "a model"
        print(printable(f"{len(index):,} pictures of {folder}, searched by {name}"))
        print(f"{server.address}   (Ctrl-C ends the server)")
        if not server.alone:
            print(
                "Other machines reach it, too, by this machine's name. Whoever has the token sees all pictures. The "
                "connection is not encrypted."
            )
        print(end="", flush=True)
        if options.open:
            open_page(server)

    Server(
        index,
        host=options.host,
        port=options.port,
        token=options.token,
        max_upload=round(options.max_upload * 1e6),
        ready=say,
    ).run()


def _places(options: Options) -> tuple[str, str]:
    """Return the model ("" for the model of the index) and the index. Raises UsageError for too few or too many
    words."""
    if not 1 <= len(options.places) <= 2:
        raise UsageError(
            "`slip serve` takes the folder of an index, and optionally a model before it",
            got=" ".join(options.places) or "nothing",
            fix="As in `slip serve vectors/` or `slip serve runs/mine vectors/`",
        )
    *models, folder = options.places
    if models and options.model:
        raise UsageError("The model is named twice", got=f"{models[0]} and --model {options.model}")
    model = models[0] if models else options.model
    if model and (Path(model) / "index.json").is_file() and not (Path(folder) / "index.json").is_file():
        raise UsageError("The model comes first, then the index", got=f"{model} {folder}")
    return model, folder
