"""Choose the column that holds the class: the one asked for, else one with a known name. No other is guessed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from openslip.data.labelled.splits import split_called
from openslip.data.sources.columns import CAPTION_COLUMNS, by_plain_name, guess_captions, plain_name
from openslip.data.sources.options import Misfit
from openslip.errors import DataError, did_you_mean, shortened

LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "class_label", "target", "category", "fine_label"),
    *("class_name", "label_name", "category_name", "label_text", "class_text", "target_name"),
    *(
        "class_id",
        "label_id",
        "category_id",
        "target_id",
        "class_index",
        "label_index",
        "class_idx",
        "label_idx",
    ),
    *("cls", "ground_truth", "gt", "coarse_label", "superclass"),
)
"""Names of columns that hold classes, best first. As for other columns, only letters and digits of a name count."""
KINDS = (
    *("species", "breed", "variety", "cultivar", "genus", "family", "diagnosis", "dx", "disease", "emotion"),
    *("object", "object_class", "product_type", "article_type", "scene", "style", "artist", "make", "model"),
)
"""Names that tell a kind of class. They are taken if the table has only one of them."""
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase", "dataset_split")
"""Names of columns that give the split of each row, if their cells are names of splits."""
_NAMES = ("class_name", "label_name", "category_name", "label_text", "class_text", "target_name")


class NoLabels(DataError):
    """No column is known to hold the labels."""


@dataclass(frozen=True)
class Chosen:
    """The column of the labels, and a sentence on the choice, "" if there was no choice."""

    column: str
    note: str = ""


def choose_label(
    where: str,
    columns: Sequence[str],
    *,
    wanted: str = "",
    marked: Sequence[str] = (),
    is_text: Callable[[str], bool] = lambda column: False,
    named: bool = False,
    besides: Collection[str] = (),
    what: str = "column",
) -> Chosen:
    """Choose the column of the labels among the `columns` of `where`.

    wanted: the name asked for. marked: columns that hold classes by the schema. is_text: whether a column holds texts.
    named: whether names of numbered classes are known; numbers then are as good as texts. besides: columns that hold
    something else. Raises Misfit if `wanted` is not there, DataError if no column can be chosen.
    """
    by_name = by_plain_name(column for column in columns if column)
    if wanted:
        found = (
            [wanted]
            if wanted in columns
            else by_name.get(plain_name(wanted), [])
            if plain_name(wanted)
            else []
        )
        if not found:
            fix = did_you_mean(wanted, {column for column in columns if column})
            raise Misfit("label_column", f"{where} has no {what} {wanted!r} of labels", fix=fix)
        return Chosen(found[0])
    known = [column for name in LABEL_COLUMNS for column in by_name.get(plain_name(name), ())]
    known = [column for column in known if column not in besides]
    sure = [column for column in known if column in marked] + [
        column for column in marked if column not in known
    ]
    if not sure and known:
        texts = [
            column for column in known if is_text(column) and plain_name(column) in map(plain_name, _NAMES)
        ]
        numbers = [column for column in known if not is_text(column)]
        # If one column holds numbers and another their names, the names say more.
        sure = [*texts, *known] if not named and texts and known[0] in numbers else known
    guessed = not sure
    if guessed:
        sure = [
            column for name in KINDS for column in by_name.get(plain_name(name), ()) if column not in besides
        ]
        if len(sure) != 1:
            raise _none(where, columns, sure, besides, what)
    others = [column for column in dict.fromkeys([*marked, *known]) if column != sure[0]]
    if not (guessed or others):
        return Chosen(sure[0])
    among = f", not from {', '.join(map(repr, others))}" if others else ""
    return Chosen(sure[0], f"Labels of {where}: from {sure[0]!r}{among} (guessed)")


def choose_split(columns: Sequence[str], cells: Callable[[str], Collection[object]]) -> str:
    """Return the column that gives the split of each row, by its name and by cells that name splits; "" if none."""
    by_name = by_plain_name(column for column in columns if column)
    for name in SPLIT_COLUMNS:
        for column in by_name.get(plain_name(name), ()):
            if any(isinstance(cell, str) and split_called(cell.strip()) for cell in cells(column)):
                return column
    return ""


def _none(
    where: str, columns: Sequence[str], several: Sequence[str], besides: Collection[str], what: str
) -> NoLabels:
    captions = guess_captions(columns)
    words = set(map(plain_name, CAPTION_COLUMNS))
    may_be = several or [c for c in columns if c and c not in besides and plain_name(c) not in words]
    fix = ""
    if may_be:
        fix = f"Tell `slip evaluate` which it is, for example --data.label-column {may_be[0]}; or rename it 'label'"
    if captions and not may_be:
        fix = "Measure how well captions and pictures find each other: retrieval:…; or add a column 'label'"
    what_is = (
        f"Several {what}s of {where} may be the label"
        if several
        else f"{where} has no label {what} with a known name"
    )
    return NoLabels(
        what_is,
        got=shortened(", ".join(several or [c for c in columns if c])),
        cause=f"It has captions ({', '.join(map(repr, captions))}), and a caption is no class"
        if captions
        else "",
        fix=fix or f"Add a {what} 'label'",
    )
