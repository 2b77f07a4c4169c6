from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation_fakes import Captioned, ColorEncoder, color_folder, picture, png
from measured_fakes import measured
from openslip.errors import EvaluationError
from openslip.evaluation import kept_outcomes, results, suite
from openslip.evaluation.compare import compare
from openslip.evaluation.ledger import Ledger
from openslip.evaluation.retrieval import Retrieval


class Blind(ColorEncoder):
    """Reads all texts alike."""

    def encode_text(self, texts, *, normalize=True):
        return super().encode_text(["red"] * len(texts), normalize=normalize)


def files(folder):
    return sorted(path.name for path in folder.glob("outcomes/*"))


def assert_same(one, other):
    """Numbers, arrays and their types."""
    assert one == other
    for a, b in zip(one, other, strict=True):
        for kind in ("outcomes", "answers"):
            left, right = getattr(a, kind), getattr(b, kind)
            assert (left is None) == (right is None)
            for name, value in vars(left).items() if left else ():
                again = getattr(right, name)
                if isinstance(value, np.ndarray):
                    assert value.dtype == again.dtype
                    np.testing.assert_array_equal(value, again)
                else:
                    assert value == again


def test_what_was_kept_is_read_and_compares_as_in_memory(tmp_path) -> None:
    spec = str(color_folder(tmp_path / "colors", {"red": 6, "green": 8, "blue": 7}))
    rng = np.random.default_rng(0)
    captioned = Captioned([(png(picture(c, rng)), (f"a {c} thing",)) for c in ("red", "green", "blue") * 3])
    tasks = [f"zeroshot:{spec}", f"knn:{spec}", f"linear:{spec}", Retrieval(captioned)]
    sides, again = [], []
    for name, encoder in (("a", Blind()), ("b", ColorEncoder())):
        sides.append(suite.run(encoder, tasks))
        (tmp_path / name).mkdir()
        path = tmp_path / name / "results.json"
        results.keep(sides[-1], path)
        found, troubles = kept_outcomes.recall(results.read(path), path)
        assert not troubles
        assert_same(found, sides[-1])
        assert len(files(path.parent)) == len(tasks)
        again.append(found)
    assert compare(*again) == compare(*sides)
    assert not any(one.unpaired for one in compare(*again))


def test_nothing_needs_pickle_and_arrays_are_there_once(tmp_path) -> None:
    (tmp_path / "outcomes").mkdir()
    found = measured()
    kept_outcomes.keep(found, tmp_path / "results.json")
    (name,) = files(tmp_path)
    with np.load(tmp_path / "outcomes" / name, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    shapes = sorted(array.shape for key, array in arrays.items() if key != "about")
    # hits of top1 (also of mean_per_class), of top5, samples, labels, ranks, rows; of ece, best, probabilities; digests
    assert shapes == sorted([(60,)] * 6 + [(60, 2), (60, 5), (60, 5), (60, 16)])
    assert name.startswith("zeroshot-birds-")


def test_a_later_measurement_takes_the_place_and_files_of_no_result_go(tmp_path) -> None:
    path = tmp_path / "results.json"
    results.keep(measured(0), path)
    before = files(tmp_path)
    again = measured(1)
    results.keep([*again, *measured(2, task="knn:birds")], path)
    assert set(before) < set(files(tmp_path))
    assert_same(kept_outcomes.recall(results.read(path), path)[0][: len(again)], again)
    (tmp_path / "outcomes/mine.txt").write_text("of somebody")
    (tmp_path / "outcomes/.writing-12-x.npz").write_text("of a killed process")
    results.save(again, path)  # the other one is gone
    results.keep([], path)
    assert files(tmp_path) == sorted([*before, "mine.txt"])
    # A measurement whose outcomes nobody knows does not keep those of the one before.
    results.keep([replace(result, outcomes=None, answers=None) for result in again], path)
    assert files(tmp_path) == ["mine.txt"]


def test_the_same_again_writes_nothing(tmp_path) -> None:
    path = tmp_path / "results.json"
    results.keep(measured(), path)
    (file,) = (tmp_path / "outcomes").iterdir()
    before = os.stat(file)
    results.keep(measured(), path)
    assert (os.stat(file).st_ino, os.stat(file).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    results.keep(measured(3), path)
    assert os.stat(file).st_ino != before.st_ino


def test_a_ledger_keeps_them_beside_its_file(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    ledger = Ledger(tmp_path / "run", tmp_path / "numbers.json")
    assert not ledger.add(measured())
    assert not ledger.add(measured(task="knn:birds"))
    assert len(list((tmp_path / "numbers.outcomes").iterdir())) == len(files(tmp_path / "run")) == 2
    for path in (tmp_path / "numbers.json", tmp_path / "run/results.json"):
        found, troubles = kept_outcomes.recall(results.read(path), path)
        assert all(result.outcomes for result in found)
        assert not troubles
    assert not Ledger(None, tmp_path / "numbers.csv").add(measured())
    assert sorted(os.listdir(tmp_path)) == ["numbers.csv", "numbers.json", "numbers.outcomes", "run"]


def test_numbers_are_kept_where_outcomes_cannot_be(tmp_path) -> None:
    (tmp_path / "outcomes").write_text("no folder")
    with pytest.raises(EvaluationError, match="The results themselves are kept"):
        results.keep(measured(), tmp_path / "results.json")
    found = results.read(tmp_path / "results.json")
    assert found == measured()
    again, troubles = kept_outcomes.recall(found, tmp_path / "results.json")
    assert again == found
    assert not any(result.outcomes for result in again)
    assert len(troubles) == 1


def spoil(path, change):
    """Change what a file of outcomes says, or an array."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    about = json.loads(arrays["about"].tobytes())
    change(about, arrays)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def other_value(about, arrays):
    about["metrics"]["top1"]["value"] += 0.01


def other_hits(about, arrays):
    name = about["metrics"]["top1"]["values"]
    arrays[name] = ~arrays[name]


def shorter(about, arrays):
    name = about["metrics"]["top1"]["values"]
    arrays[name] = arrays[name][:-1]


def other_shape(about, arrays):
    name = about["metrics"]["ece"]["values"]
    arrays[name] = arrays[name][:, :1]


def texts(about, arrays):
    arrays[about["metrics"]["top1"]["values"]] = np.array(["a"] * 60)


def lost(about, arrays):
    del arrays[about["answers"]["best"]]


def far(about, arrays):
    arrays[about["answers"]["best"]] += 100


def newer(about, arrays):
    about["format"] = 99


def no_metrics(about, arrays):
    about["metrics"] = "none"


def statistic(about, arrays):
    about["metrics"]["top1"]["statistic"] = "__import__"


def no_best(about, arrays):
    for name in ("best", "probabilities"):
        arrays[about["answers"][name]] = arrays[about["answers"][name]][:, :0]


def no_classes(about, arrays):
    about["metrics"]["mean_per_class"]["classes"] = None


def classes_without_end(about, arrays):
    arrays[about["metrics"]["mean_per_class"]["classes"]][0] = 1 << 40


def several_hits(about, arrays):
    name = about["metrics"]["top1"]["values"]
    arrays[name] = np.stack([arrays[name]] * 2, axis=1)  # of which the mean is the same


@pytest.mark.parametrize(
    "change",
    [
        *(other_value, other_hits, shorter, other_shape, texts, lost, far, newer, no_metrics, statistic),
        *(no_best, no_classes, classes_without_end, several_hits),
    ],
)
def test_an_edited_file_is_not_used_and_that_is_said(tmp_path, change) -> None:
    path = tmp_path / "results.json"
    results.keep(measured(), path)
    (file,) = (tmp_path / "outcomes").iterdir()
    spoil(file, change)
    found, troubles = kept_outcomes.recall(results.read(path), path)
    assert found == measured()
    assert not any(result.outcomes or result.answers for result in found)
    assert len(troubles) == 1
    assert f"{file} is not used: " in troubles[0]


def test_damaged_bytes_are_not_used(tmp_path) -> None:
    path = tmp_path / "results.json"
    results.keep(measured(), path)
    (file,) = (tmp_path / "outcomes").iterdir()
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for data in [b"", b"PK", whole[: len(whole) // 2], b"\x93NUMPY" + whole, b"\x80\x04N.", whole[:-1]]:
        file.write_bytes(data)
        assert len(kept_outcomes.recall(results.read(path), path)[1]) == 1
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = int(rng.integers(256))
        file.write_bytes(damaged)
        found, troubles = kept_outcomes.recall(results.read(path), path)
        assert troubles or all(result.outcomes for result in found)
    file.unlink()
    os.mkfifo(file)
    assert len(kept_outcomes.recall(results.read(path), path)[1]) == 1


def test_numbers_that_were_edited_are_not_paired(tmp_path) -> None:
    path = tmp_path / "results.json"
    results.keep(measured(), path)
    entries = json.loads(path.read_text())
    entries[0]["value"] = 0.99
    path.write_text(json.dumps(entries))
    found, (trouble,) = kept_outcomes.recall(results.read(path), path)
    assert found[0].outcomes is None
    assert "another measurement than the results beside it" in trouble


KILLED = """
import os, signal, sys
import numpy as np
sys.path.insert(0, {tests!r})
from measured_fakes import measured
from openslip.evaluation import results

results.keep(measured(0), sys.argv[1])
usual = np.savez_compressed
def half(file, **arrays):
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
np.savez_compressed = half
results.keep(measured(1), sys.argv[1])
"""


def test_a_killed_write_leaves_the_numbers_and_nothing_that_passes_for_theirs(tmp_path) -> None:
    path = tmp_path / "results.json"
    code = KILLED.format(tests=str(Path(__file__).parents[1] / "support"))
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert results.read(path) == measured(1)
    assert any(name.startswith(".writing-") for name in files(tmp_path))
    found, troubles = kept_outcomes.recall(results.read(path), path)
    assert not any(result.outcomes for result in found)
    assert "another measurement" in troubles[0]
    results.keep(measured(1), path)
    assert_same(kept_outcomes.recall(results.read(path), path)[0], measured(1))
    assert len(files(tmp_path)) == 1
