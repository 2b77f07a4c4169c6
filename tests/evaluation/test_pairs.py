"""Pair choice: Winoground's scores and SugarCrepe's accuracy, on small files in the layouts they are had in."""

from __future__ import annotations

import json
import os
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation_fakes import COLORS, ColorEncoder, picture, png
from openslip.data.choices import open_choices
from openslip.errors import DataError, EvaluationError, SlipError
from openslip.evaluation import measure
from openslip.evaluation.pairs import Pairs, both_scores, right_caption
from openslip.evaluation.suite import parse_task


@pytest.fixture
def pictures() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {color: png(picture(color, rng)) for color in COLORS}


def winoground(pictures) -> list[dict]:
    """Right in all; right in neither; captions that are equal."""
    examples = [
        ("red", "blue", "red", "blue"),
        ("green", "gold", "gold", "green"),
        ("red", "gold", "red", "red"),
    ]
    tags = ["Object", "Relation", "Object"]
    return [
        {"id": i, "image_0": a, "image_1": b, "caption_0": f"a {c} thing", "caption_1": f"a {d} thing"}
        | {"tag": f"{tag}-of-some-kind", "collapsed_tag": tag, "num_main_preds": 1}
        for i, ((a, b, c, d), tag) in enumerate(zip(examples, tags))
    ]


def values(results) -> dict[str, float]:
    return {result.metric: result.value for result in results}


def write_parquet(path, examples, pictures):
    rows = [
        example | {key: {"bytes": pictures[example[key]], "path": None} for key in ("image_0", "image_1")}
        for example in examples
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def write_jsonl(path, examples, pictures):
    (path.parent / "images").mkdir(parents=True)
    for color, data in pictures.items():
        (path.parent / "images" / f"ex_{color}.png").write_bytes(data)
    rows = [e | {key: f"ex_{e[key]}" for key in ("image_0", "image_1")} for e in examples]
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("layout", ["data/test-00000-of-00001.parquet", "data/examples.jsonl"])
def test_winoground_as_the_hub_has_it(tmp_path, pictures, layout):
    write = write_parquet if layout.endswith(".parquet") else write_jsonl
    write(tmp_path / "winoground" / layout, winoground(pictures), pictures)
    task = parse_task(f"pairs:{tmp_path / 'winoground'}")
    assert task.name == "pairs:winoground"
    assert isinstance(task, Pairs)
    task.check()
    assert "3 examples of two pictures and two captions (Object 2, Relation 1)" in task.lines()[0]
    results = task.evaluate(ColorEncoder())
    found = values(results)
    assert results[0].metric == "group_score"
    assert [found[f"{side}_score"] for side in ("group", "text", "image")] == pytest.approx([1 / 3] * 3)
    assert (found["text_score[Object]"], found["text_score[Relation]"]) == (0.5, 0.0)
    assert (results[0].count, results[0].skipped) == (3, 0)
    assert measure("pairs:winoground/text_score[Object]").title == "right caption of a pair, Object"


def slow_scores(s):
    """Thrush et al. 2022, equations 1 to 3, word by word; s[i][j]: of picture i and caption j."""
    text = s[0][0] > s[0][1] and s[1][1] > s[1][0]
    image = s[0][0] > s[1][0] and s[1][1] > s[0][1]
    return {"group_score": float(text and image), "text_score": float(text), "image_score": float(image)}


def test_scores_equal_their_slow_twin_and_ties_count_against_the_model():
    every = [np.array(s, dtype=float).reshape(2, 2) for s in product((0, 1, 2, np.nan), repeat=4)]
    found = both_scores(every)
    for i, s in enumerate(every):
        assert {name: hits[i] for name, hits in found.items()} == slow_scores(s.tolist())
    assert right_caption([np.array([[1.0, 1.0]]), np.array([[1.0, 0.5, 0.9]])])["top1"].tolist() == [0, 1]


def test_by_chance_the_scores_are_a_quarter_a_quarter_and_a_sixth():
    rng = np.random.default_rng(0)
    found = both_scores(list(rng.random((60_000, 2, 2))))
    assert [found[m].mean() for m in ("text_score", "image_score")] == pytest.approx([0.25, 0.25], abs=0.01)
    assert found["group_score"].mean() == pytest.approx(1 / 6, abs=0.01)


@pytest.fixture
def sugarcrepe(tmp_path, pictures):
    """Two files of SugarCrepe's, and COCO's pictures."""
    (tmp_path / "coco" / "val2017").mkdir(parents=True)
    for color in pictures:
        (tmp_path / "coco" / "val2017" / f"{color}.jpg").write_bytes(pictures[color])
    folder = tmp_path / "sugarcrepe"
    folder.mkdir()
    for name, rows in {
        "add_att": [("red", "a red car", "a blue car"), ("blue", "a gold sea", "a blue sea")],
        "swap_obj": [("red", "red", "red")],
    }.items():
        entries = {
            str(i): {"filename": f"{color}.jpg", "caption": right, "negative_caption": wrong}
            for i, (color, right, wrong) in enumerate(rows)
        }
        (folder / f"{name}.json").write_text(json.dumps(entries))
    (folder / "package.json").write_text("{}")
    return folder


def test_sugarcrepe_with_its_categories(sugarcrepe, tmp_path):
    results = Pairs(str(sugarcrepe), image_root=str(tmp_path / "coco")).evaluate(ColorEncoder())
    assert values(results) == pytest.approx(
        {"top1": 1 / 3, "mean_per_category": 0.25, "top1[add_att]": 0.5, "top1[swap_obj]": 0.0}
    )
    assert [result.count for result in results] == [3, 3, 2, 1]
    assert all(result.low <= result.value <= result.high for result in results)
    outcomes = results[0].outcomes
    assert outcomes is not None
    assert outcomes.value() == results[0].value
    # the picture of two examples is one group
    assert outcomes.groups is not None
    assert len(set(outcomes.groups.tolist())) == 2


def test_one_file_of_sugarcrepe_and_pictures_that_are_not_there(sugarcrepe, tmp_path):
    (sugarcrepe / "val2017").symlink_to(tmp_path / "coco" / "val2017")
    assert len(open_choices(str(sugarcrepe / "add_att.json"))) == 2
    (sugarcrepe / "val2017").unlink()
    with pytest.raises(DataError, match="--data.image-root, for SugarCrepe COCO's val2017"):
        open_choices(str(sugarcrepe))
    with pytest.raises(DataError, match="does not hold pair choices"):
        open_choices(str(sugarcrepe / "package.json"))


def test_a_broken_picture_is_skipped_and_counted(sugarcrepe, tmp_path, caplog):
    (tmp_path / "coco" / "val2017" / "blue.jpg").write_bytes(b"no picture")
    results = Pairs(str(sugarcrepe), image_root=str(tmp_path / "coco")).evaluate(ColorEncoder())
    assert [(r.count, r.skipped) for r in results[:2]] == [(2, 1), (2, 1)]
    assert "1 of 3 examples skipped" in caplog.text


def test_results_hang_on_no_order_and_no_batch(sugarcrepe, tmp_path):
    root = str(tmp_path / "coco")
    results = Pairs(str(sugarcrepe), image_root=root).evaluate(ColorEncoder())
    for file in sugarcrepe.glob("*_*.json"):
        entries = json.loads(file.read_text())
        file.write_text(json.dumps(dict(reversed(entries.items()))))
    again = Pairs(str(sugarcrepe), image_root=root, batch_size=1).evaluate(ColorEncoder())
    assert again == results
    assert again[0].outcomes is not None
    assert results[0].outcomes is not None
    assert np.array_equal(again[0].outcomes.values, results[0].outcomes.values)


def test_a_table_of_ones_own(tmp_path, pictures):
    for color, data in pictures.items():
        (tmp_path / f"{color}.png").write_bytes(data)
    table = tmp_path / "mine.csv"
    table.write_text(
        "image,caption,negative_1,negative_2,category\n"
        "red.png,a red hat,a blue hat,a gold hat,hats\n"
        "gold.png,a red coin,a gold coin,,coins\n"
        ",nothing,something,,coins\n"
    )
    task = Pairs(str(table))
    task.check()
    assert any("1 of 3 examples left out" in line for line in task.lines())
    results = task.evaluate(ColorEncoder())
    assert values(results)["top1"] == 0.5
    assert results[0].skipped == 1
    table.write_text("file,good,bad\nred.png,a red hat,a blue hat\n")
    with pytest.raises(DataError, match="No column has a known name for the right caption"):
        open_choices(str(table))
    assert open_choices(str(table), caption_column="good,bad").captions == [("a red hat", "a blue hat")]
    with pytest.raises(DataError, match="There is no column 'worse'"):
        open_choices(str(table), caption_column="good,worse")


def test_a_list_of_wrong_captions(tmp_path, pictures):
    (tmp_path / "red.png").write_bytes(pictures["red"])
    table = tmp_path / "mine.jsonl"
    table.write_text(json.dumps({"image": "red.png", "caption": "red", "negative_captions": ["a", "b", "a"]}))
    assert open_choices(str(table)).captions == [("red", "a", "b")]


def test_what_cannot_be_measured(tmp_path, sugarcrepe):
    with pytest.raises(EvaluationError, match="needs a text tower"):
        Pairs(str(sugarcrepe)).evaluate(ColorEncoder(("image",)))
    with pytest.raises(SlipError, match="There are no pair choices"):
        Pairs(str(tmp_path / "nowhere")).check()
    with pytest.raises(SlipError, match="There are no pair choices"):
        Pairs(str(tmp_path / "coco")).check()


def test_a_pipe_beside_the_files_is_passed_over(sugarcrepe, tmp_path) -> None:
    before = len(open_choices(str(sugarcrepe), image_root=str(tmp_path / "coco")))
    os.mkfifo(sugarcrepe / "pipe.json")
    assert len(open_choices(str(sugarcrepe), image_root=str(tmp_path / "coco"))) == before
