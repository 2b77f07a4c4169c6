from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.record import Skipped
from openslip.errors import CheckpointError
from openslip.training.saving.feature_files import FeatureFiles, lines_of, records_of

OF = {"weights": {"a": "1"}, "seed": 0, "data": {}}


def files(folder: Path, rows: int = 600, of: dict = OF) -> FeatureFiles:
    return FeatureFiles(folder / "train", rows, {"a": 3, "b": 1}, of)


def block(files: FeatureFiles, number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {name: rng.normal(size=(files.block, width)) for name, width in files.widths.items()}


def write(files: FeatureFiles, *numbers: int) -> None:
    for number in numbers:
        files.write(block(files, number), lines_of([(f"key {number}", ("caption",), -1)]))


def whole(files: FeatureFiles, name: str) -> np.ndarray:
    rows = np.concatenate([block(files, number)[name] for number in range(files.blocks)])
    return rows[: files.rows].astype(np.float16)


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 600])
def test_outputs_come_back_as_they_were_written(tmp_path, rows: int) -> None:
    writer = files(tmp_path, rows)
    assert writer.begin() == ""
    write(writer, *range(writer.blocks))
    writer.settle()
    writer.close()
    reader = files(tmp_path, rows)
    for name, array in reader.load().items():
        assert array.dtype == np.float16
        assert np.array_equal(array, whole(reader, name))
    # Any program reads them, and none of it needs more than numpy.
    assert np.load(tmp_path / "train" / "a.npy").shape == (rows, 3)
    keys = [not isinstance(record, Skipped) and record[0] for record in reader.records()]
    assert keys == [f"key {number}" for number in range(reader.blocks)]
    assert reader.size == rows * 4 * 2


@pytest.mark.parametrize("settled", [0, 1, 2])
def test_what_was_not_forced_to_disk_is_written_again(tmp_path, settled: int) -> None:
    writer = files(tmp_path)
    writer.begin()
    write(writer, *range(settled))
    writer.settle()
    write(writer, *range(settled, 3))
    writer.close()  # and killed: about.json tells of `settled` blocks
    again = files(tmp_path)
    assert again.begin() == ""
    assert again.done == settled
    write(again, *range(settled, 3))
    again.settle()
    again.close()
    assert np.array_equal(again.load()["a"], whole(again, "a"))
    assert len(list(again.records())) == 3


def test_outputs_of_something_else_are_not_used(tmp_path) -> None:
    writer = files(tmp_path)
    writer.begin()
    write(writer, 0)
    writer.settle()
    writer.close()
    other = files(tmp_path, of=OF | {"seed": 1, "weights": {"a": "2"}})
    assert other.begin() == "they were computed with other weights, seed"
    assert other.done == 0
    other.close()


def test_a_file_that_is_not_whole_is_told_of(tmp_path) -> None:
    writer = files(tmp_path)
    writer.begin()
    write(writer, 0, 1, 2)
    writer.settle()
    writer.close()
    path = tmp_path / "train" / "b.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"cannot be read.*b\.npy.*give a run folder that they share"):
        files(tmp_path).load()
    assert files(tmp_path).begin() == "b.npy is incomplete"


def test_no_file_that_runs_code_is_read(tmp_path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    np.save(folder / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        files(tmp_path).load()


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "train").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be kept.*They take 0\.00 GiB"):
        files(tmp_path).begin()


@pytest.mark.parametrize("content", ["[]", '{"of": 3}', '{"of": {}, "done": "x"}', "nothing"])
def test_odd_notes_are_no_notes(tmp_path, content: str) -> None:
    writer = files(tmp_path)
    writer.begin()
    writer.close()
    (tmp_path / "train" / "about.json").write_text(content)
    assert files(tmp_path).begin() != ""


TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)


KNOWN = st.one_of(
    st.tuples(TEXTS, st.sampled_from([(), ("a",), ("a", "b")]), st.integers(-1, 9)),
    st.tuples(TEXTS, st.lists(TEXTS, max_size=3).map(tuple), st.integers(-1, 9)),
    st.builds(Skipped, st.integers(0, 9), TEXTS, TEXTS, TEXTS),
)


@given(st.lists(st.lists(KNOWN, max_size=5), max_size=3))
def test_records_come_back_from_the_lines_of_blocks(blocks: list[list]) -> None:
    lines = [line for block in blocks for line in lines_of(block)]
    assert not any("\n" in line for line in lines)
    assert list(records_of(line.encode() for line in lines)) == [
        record for block in blocks for record in block
    ]


def test_captions_of_a_class_are_written_once_in_a_block() -> None:
    lines = list(lines_of([("a", ("a photo of a dog",), 3), ("b", ("a photo of a dog",), 3)]))
    assert lines == ['["a", ["a photo of a dog"], 3]', '["b", null, 3]']


def test_blocks_are_the_same_whoever_computes_them() -> None:
    assert [(f.blocks, f.block) for f in (files(Path(), rows) for rows in (1, 256, 300, 1000))] == [
        (1, 1),
        (1, 256),
        (2, 150),
        (4, 250),
    ]
