"""Tables of labels as CSV, JSON lines or Parquet, chosen by the ending of the name and written as the labels come."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

from openslip.classifying.labels import Label
from openslip.errors import ConfigError, DataError, printable
from openslip.files import check_replaceable, expand, open_regular, whole_or_not

ENDINGS = (".csv", ".jsonl", ".parquet")
FIRST = ("picture", "class")
"""The first columns of every table. They identify a file of labels."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Spreadsheets read a cell that begins so as a formula, or skip the sign and read the rest as a formula."""
CRLF = "\r\n"
ROW_GROUP = 1 << 16
"""Rows of a Parquet file that are held in memory before they are written."""

Add = Callable[[Sequence[Label]], None]


def columns(top: int, *, sorted_into: bool = False) -> tuple[str, ...]:
    """Return the columns of a table: picture, class, top_1, probability_1, …, and error."""
    ranked = [name for rank in range(1, top + 1) for name in (f"top_{rank}", f"probability_{rank}")]
    return (*FIRST, *ranked, *(("sorted_as",) if sorted_into else ()), "error")


def row(label: Label, top: int, placed: str | None = None) -> dict[str, Any]:
    """Return a label by column, with None in empty columns. placed: the path of the copy of the picture."""
    cells: dict[str, Any] = {"picture": label.picture, "class": label.answer or None}
    for rank in range(top):
        name, probability = label.top[rank] if rank < len(label.top) else (None, None)
        cells |= {f"top_{rank + 1}": name, f"probability_{rank + 1}": probability}
    return cells | ({} if placed is None else {"sorted_as": placed or None}) | {"error": label.error or None}


def check_out(out: Path) -> Path:
    """Return the expanded path of a table. Raises ConfigError if the table cannot be written there."""
    out = expand(out)
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(
            "Labels are written as CSV, JSON lines or Parquet",
            got=f"--out {out}",
            fix=f"End the name in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}",
        )
    check_replaceable(out, "labels", "labels.csv", holds_labels)
    return out


def holds_labels(path: Path) -> bool:
    """Whether new labels may replace a file: it is empty, or a table of labels."""
    try:
        with open_regular(path) as file:
            begin = file.read(4096)
        if path.suffix.lower() != ".parquet":
            wanted = ",".join(FIRST) if path.suffix.lower() == ".csv" else f'{{"{FIRST[0]}": '
            return not begin.strip() or begin.startswith(wanted.encode())
        import pyarrow.parquet as pq

        return not begin or tuple(pq.read_schema(path).names[: len(FIRST)]) == FIRST
    except (OSError, ValueError):
        return False


@contextmanager
def writing(path: Path, names: Sequence[str]) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """Yield the function that adds rows to a table. The table appears, or replaces an older one, when all are there.

    names: the columns. Raises DataError if the table cannot be written.
    """
    kinds = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    try:
        with whole_or_not(path) as file, kinds[path.suffix.lower()](file, names) as add:
            yield add
    except OSError as error:
        raise DataError(
            "The labels cannot be written",
            got=str(path),
            cause=error.strerror or str(error),
            fix="Make room, or name another file with --out",
        ) from None


def csv_text(rows: Sequence[dict[str, Any]], names: Sequence[str], *, header: bool = False) -> str:
    """Return rows as CSV: quoted if necessary, with a line feed at the end of each line.

    A text that a spreadsheet would read as a formula gets an apostrophe in front. Paths never begin so (see
    `path_shown`). Bytes of a file's name that are not UTF-8 are written `\\xff`.
    """
    lines: list[str] = []
    # With both characters of a line's end in `lineterminator`, the library quotes cells that hold either.
    table = csv.writer(cast(IO[str], SimpleNamespace(write=lines.append)), lineterminator=CRLF)
    if header:
        table.writerow(names)
    table.writerows([_cell(row[name]) for name in names] for row in rows)
    return "".join(f"{line.removesuffix(CRLF)}\n" for line in lines)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return value
    value = spelled(value)
    return f"'{value}" if value.startswith(FORMULA) else value


def spelled(name: str) -> str:
    """Return a file's name as text that UTF-8 can hold: other bytes are spelled `\\xff`."""
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # lone surrogates that no file's name has
        data = name.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


@contextmanager
def _csv(file: IO[bytes], names: Sequence[str]) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    file.write(csv_text([], names, header=True).encode())
    yield lambda rows: _write(file, csv_text(rows, names))


@contextmanager
def _jsonl(file: IO[bytes], names: Sequence[str]) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    yield lambda rows: _write(
        file,
        "".join(json.dumps({name: one[name] for name in names}, ensure_ascii=False) + "\n" for one in rows),
    )


def _write(file: IO[bytes], text: str) -> None:
    # Bytes of names that are not UTF-8 become JSON's escapes, which Python reads as the same name.
    file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def _parquet(file: IO[bytes], names: Sequence[str]) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [(name, pa.float32() if name.startswith("probability_") else pa.string()) for name in names]
    )
    held: list[dict[str, Any]] = []

    def flush() -> None:
        cells = {
            name: [spelled(one[name]) if isinstance(one[name], str) else one[name] for one in held]
            for name in names
        }
        table.write_table(pa.table(cells, schema=schema))
        held.clear()

    def add(rows: Sequence[dict[str, Any]]) -> None:
        held.extend(rows)
        if len(held) >= ROW_GROUP:
            flush()

    with pq.ParquetWriter(file, schema) as table:
        yield add
        flush()


def lines(labels: Sequence[Label], width: int = 0) -> tuple[list[str], int]:
    """Return labels as lines for a terminal, and the width of their first column; width: the width so far."""
    names = [printable(spelled(label.picture)).replace("\n", "\\n") for label in labels]
    width = min(60, max([width, *map(len, names)]))
    told = []
    for name, label in zip(names, labels):
        best = "  ".join(f"{printable(one)} {probability:.1%}" for one, probability in label.top)
        none = f"{label.answer}: " if label.top and label.answer != label.top[0][0] else ""
        told.append(
            f"{name:<{width}}  {none}{best}"
            if label.top
            else f"{name:<{width}}  cannot be used: {label.error}"
        )
    return told, width
