"""slip data show SOURCE"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openslip.cli.arguments import parse
from openslip.cli.source import RECIPE, SourceOptions

EXAMPLES = """\
slip data show 'shards/train-*.tar' --count 12
    Draw twelve records and their views.
"""


@dataclass(frozen=True)
class Options(SourceOptions):
    """What to draw, and where."""

    count: int = 8
    """Records on the sheet, up to 200: the first records that a run with this seed reads."""
    recipe: str = RECIPE
    """Recipe whose views are drawn."""
    seed: int = 0
    out: Path = Path("sheet.png")
    """The picture to write."""


def main(argv: list[str]) -> None:
    """Draw a contact sheet."""
    options = parse(
        Options,
        argv,
        prog="slip data show",
        examples=EXAMPLES,
        description="""Draw a contact sheet: pictures with their captions, and beside each picture the three views that
the model sees of it in the first epoch, cropped and augmented as the recipe says.""",
    )

    from openslip import recipes
    from openslip.data.augment import augment
    from openslip.errors import printable
    from openslip.tools.sheet import write_sheet
    from openslip.tools.show import contact_sheet

    views = recipes.get(options.recipe).views
    sheet = contact_sheet(
        options.open(),
        views,
        augment=augment,
        count=options.count,
        seed=options.seed,
        recipe=options.recipe,
    )
    write_sheet(options.out, sheet)
    print(printable(f"wrote {options.out}, {sheet.width} × {sheet.height} pixels"))
