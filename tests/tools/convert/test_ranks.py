"""A conversion by several ranks: the shards of one, and one word for all when something is wrong."""

from __future__ import annotations

from pathlib import Path

from convert_fakes import Listed, of_two_sizes, png
from distributed.ranks import run_on
from openslip.data.record import Record, Skipped
from openslip.errors import DataError, ProcessError
from openslip.processes import joined
from openslip.tools.convert import write_shards


def nine_but_one() -> Listed:
    records: list[Record | Exception] = [Record(png(i), (str(i),), str(i), "listed") for i in range(9)]
    records[8] = DataError("gone")
    return Listed(records)


def nine_written(folder: Path) -> tuple[int, list[Skipped]]:
    with joined() as ranks:
        done = write_shards(nine_but_one(), folder, 2, ranks=ranks)
    return done.written, done.skipped


def test_ranks_make_the_same_shards_together(tmp_path) -> None:
    alone = write_shards(nine_but_one(), tmp_path / "alone", 2)
    first, second = run_on(2, nine_written, tmp_path / "both")
    assert second == (2, alone.skipped)
    assert first == (alone.written, alone.skipped) == (8, alone.skipped)
    for name in ("convert.json", "skipped.jsonl", *(path.name for path in alone.paths)):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def of_first_size(folders: list[Path]) -> list[str]:
    """Write to this rank's folder; the first has a good day."""
    with joined() as ranks:
        done = write_shards(
            of_two_sizes()[ranks.rank], folders[ranks.rank], shard_mb=0.02, encoding="png", ranks=ranks
        )
    return [path.name for path in done.paths]


def test_all_ranks_take_the_first_ones_size(tmp_path) -> None:
    alone = write_shards(of_two_sizes()[0], tmp_path / "alone", shard_mb=0.02, encoding="png")
    names = [path.name for path in alone.paths]
    assert run_on(2, of_first_size, [tmp_path / "both"] * 2) == [names, names]
    for path in alone.paths:
        assert path.read_bytes() == (tmp_path / "both" / path.name).read_bytes()
    assert len(names) == len(list((tmp_path / "both").glob("*.tar"))) == 4


def refused(folders: list[Path]) -> str:
    try:
        of_first_size(folders)
    except (DataError, ProcessError) as error:
        return str(error)
    return "all is well"


def test_ranks_without_a_folder_in_common(tmp_path) -> None:
    first, second = run_on(2, refused, [tmp_path / "a", tmp_path / "b"])
    assert "one shared folder" in second
    assert "Another process of the run has failed" in first
