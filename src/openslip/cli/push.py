"""slip push MODEL owner/name"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse

if TYPE_CHECKING:
    from openslip.exports.push import Upload

DESCRIPTION = """Export a model, write its model card, and upload both to a repository of the Hugging Face hub as one
commit. The command first shows what it will upload. Log in once with `hf auth login`, or set HF_TOKEN."""
EXAMPLES = """\
slip push runs/mine owner/name --license mit --private
    Upload a model to a private repository.
"""


@dataclass(frozen=True)
class Options:
    """Which model, where it goes, and how it is shared."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """What `openslip.load` takes: a run folder, a checkpoint folder, a file of weights, or a public model.
    Or a finetuned classifier, RUN/finetune/NAME."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """The repository on the hub, which is created if it does not exist."""
    to: Literal["huggingface", "open_clip", "timm", "openslip", "onnx"] = "huggingface"
    """Format of the files. huggingface: for transformers. timm: the image tower alone. openslip: one file for
    `openslip.load`, for every model. onnx: for programs without torch. `hf:owner/name` reads all but ONNX."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""
    license: str = ""
    """The licence, by its identifier on the hub: mit, apache-2.0, cc-by-4.0, … Without one the card says so."""
    notes: Path | None = None
    """A file with Markdown text for the beginning of the card: what the model is for, who made it."""
    private: bool = False
    """Make a new repository visible only to you, or your organisation."""
    branch: str = ""
    """A branch of the repository, which is created if it does not exist; by default main."""
    replace: bool = False
    """Replace the model in the repository, whose files stay in the history. Other files, such as a LICENSE, are left
    alone."""


def main(argv: list[str]) -> None:
    """Export, show, upload, and print where the model is."""
    options = parse(Options, argv, prog="slip push", description=DESCRIPTION, examples=EXAMPLES)
    idle.which(given(Options, argv), Path(options.model))

    from openslip.errors import printable
    from openslip.exports.push import push
    from openslip.progress import Working

    def show(upload: Upload) -> None:
        work.close()  # from now on the hub's library shows the progress
        _show(upload)

    with Working(f"exporting {options.model} to {options.to}") as work:
        done = push(
            options.model,
            options.repository,
            to=options.to,
            which=options.which,
            license=options.license,
            notes=options.notes,
            private=options.private,
            branch=options.branch,
            replace=options.replace,
            show=show,
        )
    for note in done.notes:
        print(printable(f"slip: the hub says: {note}"), file=sys.stderr)
    print(
        printable(f"{'uploaded' if done.changed else 'nothing is new, and nothing was uploaded'}: {done.url}")
    )


def _show(upload: Upload) -> None:
    """Print what is about to be uploaded."""
    from openslip.cli.output import listed_files
    from openslip.errors import printable

    for note in upload.exported.notes:
        print(printable(f"slip: {note}."), file=sys.stderr)
    print(printable(f"exported: {upload.exported.trial.described()}"))
    print(printable(f"to {upload.repository}, {'a new ' if upload.new else ''}branch {upload.branch}:"))
    print(printable(listed_files(upload.files)))
    for what, names in (("replaces", upload.replaced), ("removes", upload.removed)):
        if names:
            print(printable(f"{what} {', '.join(names)}"))
    sys.stdout.flush()
