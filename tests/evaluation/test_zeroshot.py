from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation_fakes import ColorEncoder, color_folder, picture, png
from openslip import create
from openslip.data.labelled.names import read_names
from openslip.errors import DataError, EvaluationError
from openslip.evaluation.features import session
from openslip.evaluation.zeroshot import ZeroShot, classifier


class TableEncoder(ColorEncoder):
    """Gives every text its own random embedding."""

    def encode_text(self, texts, *, normalize=True):
        import torch

        rows = [np.random.default_rng(list(text.encode())).normal(size=5) for text in texts]
        return torch.nn.functional.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=1)


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_classifier_equals_its_slow_twin(batch_size):
    names, templates = ["cat", "{odd} dog", "owl"], ["a {}.", "{}", "the {} there"]
    encoder = TableEncoder()
    expected = []
    for name in names:
        rows = [encoder.encode_text([t.replace("{}", name)])[0].numpy() for t in templates]
        mean = sum(row / np.linalg.norm(row) for row in rows) / len(rows)
        expected.append(mean / np.linalg.norm(mean))
    assert classifier(encoder, names, templates, batch_size) == pytest.approx(np.array(expected), abs=1e-6)


def test_prompts_of_all_classes_go_through_the_tower_by_length_and_once_within_a_session(monkeypatch):
    names, templates = ["cat", "old barn owl", "dog"], ["{}", "a {}.", "the very big {} here"]
    batches: list[list[str]] = []

    class Seen(TableEncoder):
        def encode_text(self, texts, *, normalize=True):
            batches.append(list(texts))
            return super().encode_text(texts, normalize=normalize)

    encoder = Seen()
    whole = classifier(encoder, names, templates, batch_size=3)
    lengths = [[len(text.split()) for text in batch] for batch in batches]
    assert lengths == [[1, 1, 2], [2, 3, 4], [5, 5, 7]]
    monkeypatch.setattr("openslip.evaluation.zeroshot.PROMPTS", 4)  # prompts of one class at a time
    assert classifier(encoder, names, templates) == pytest.approx(whole, abs=1e-7)
    batches.clear()
    with session():
        for _ in range(2):
            assert np.array_equal(
                classifier(encoder, names, templates), classifier(encoder, names, templates)
            )
        assert len(batches) == 3
        classifier(encoder, names, templates[:2])
        assert len(batches) == 5


def test_the_classifier_of_a_real_tower_equals_one_text_at_a_time_padded_to_the_context():
    import torch

    torch.manual_seed(0)
    encoder = create("scenes-tiny")
    names, templates = ["cat", "old barn owl", "dog"], ["{}", "a photo of a {}, which is big.", "the {}"]
    tower, projection = encoder.model.text_tower, encoder.model.text_projection
    assert tower is not None
    context, rows = tower.context, []
    for name in names:
        tokens = torch.zeros(len(templates), context, dtype=torch.int64)
        made = encoder.tokenize([template.replace("{}", name) for template in templates])
        tokens[:, : made.shape[1]] = made
        with torch.no_grad():
            embeddings = torch.nn.functional.normalize(tower(tokens) @ projection, dim=1)
        mean = embeddings.mean(dim=0)
        rows.append((mean / mean.norm()).numpy())
    assert classifier(encoder, names, templates, batch_size=4) == pytest.approx(np.array(rows), abs=1e-6)


def test_several_names_of_a_class_are_averaged():
    names, templates, encoder = [("happy", "smiling"), ("sad",), "bored"], ["a {}.", "{}"], TableEncoder()
    found = classifier(encoder, names, templates)
    for row, some in zip(found, [("happy", "smiling"), ("sad",), ("bored",)]):
        texts = encoder.encode_text([t.replace("{}", name) for name in some for t in templates]).numpy()
        assert row == pytest.approx(texts.mean(axis=0) / np.linalg.norm(texts.mean(axis=0)), abs=1e-6)


def test_finds_the_colours(tmp_path):
    spec = str(
        color_folder(tmp_path / "colors", {"red": 3, "green": 4, "blue": 5, "gold": 6}, splits=("test",))
    )
    top1, per_class, *_ = ZeroShot(spec).evaluate(ColorEncoder())
    assert (top1.task, top1.metric, top1.value, top1.count) == ("zeroshot:colors", "top1", 1.0, 18)
    assert per_class.metric == "mean_per_class"
    blind, *_ = ZeroShot(spec, templates=("what is {}?",)).evaluate(ColorEncoder())
    assert blind.value < 1.0


def test_a_model_without_text_and_classes_without_names_are_errors(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 1, "green": 1}))
    with pytest.raises(EvaluationError, match="needs a text tower"):
        ZeroShot(spec).evaluate(ColorEncoder(("ssl_1", "ssl_2")))
    rng = np.random.default_rng(0)
    column = pa.array([png(picture("red", rng)), png(picture("blue", rng))], pa.binary())
    pq.write_table(pa.table({"image": column, "label": [0, 1]}), tmp_path / "test.parquet")
    with pytest.raises(EvaluationError, match=r"have no names.*classes\.json"):
        ZeroShot(str(tmp_path / "test.parquet")).evaluate(ColorEncoder())


def numbered(folder, *colors, each=4):
    """Folders 0, 1, … of pictures of these colours."""
    rng = np.random.default_rng(0)
    for number, color in enumerate(colors):
        (folder / f"test/{number}").mkdir(parents=True)
        for i in range(each):
            (folder / f"test/{number}/{i}.png").write_bytes(png(picture(color, rng)))
    return folder


def test_a_set_that_is_named_has_its_names_its_prompts_and_its_metric_first(tmp_path):
    spec = numbered(tmp_path / "anything", "red", "blue")
    task = ZeroShot(f"hateful_memes@{spec}")
    task.check()
    assert task.about()["prompts"] == "hateful_memes, hateful_memes's names"
    said = " ".join(task.lines())
    assert "anything is measured as Hateful Memes, by ROC AUC" in said
    assert "0 is 'meme'" in said
    found = task.evaluate(ColorEncoder())
    assert [one.metric for one in found][:2] == ["roc_auc", "top1"]
    assert found[0].task == "zeroshot:hateful_memes"
    assert found[0].data == str(spec.resolve())
    with pytest.raises(EvaluationError, match="have no names.*--classnames FILE"):
        ZeroShot(str(spec)).check()


def test_a_set_is_found_by_its_name_or_says_where_to_get_it(tmp_path, monkeypatch):
    numbered(tmp_path / "Hateful-Memes", "red", "blue")
    monkeypatch.setenv("OPENSLIP_DATASETS", str(tmp_path))
    assert ZeroShot("hateful_memes").evaluate(ColorEncoder())[0].metric == "roc_auc"
    with pytest.raises(DataError, match="Food-101 is not on this machine"):
        ZeroShot("food101").check()


def test_what_does_not_agree_with_the_card_is_said(tmp_path):
    spec = color_folder(tmp_path / "colors", {"red": 1, "green": 1, "blue": 2}, splits=("test",))
    task = ZeroShot(f"hateful_memes@{spec}")
    task.check()
    assert "colors has 3 classes, and Hateful Memes has 2." in task.lines()
    numbers = numbered(tmp_path / "digits", *["red", "green", "blue", "gold"] * 2, "red", "green", each=1)
    task = ZeroShot(f"mnist@{numbers}")
    task.check()
    assert "Published numbers of MNIST use 10,000 test images, and digits has 10." in task.lines()
    (rendered := ZeroShot("scenes:test:10")).check()
    assert len(rendered.lines()) == 1  # the task says how many


def test_given_names_and_templates_of_several_sets(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 2, "blue": 2}, splits=("test",)))
    names = tmp_path / "labels.json"
    names.write_text('{"food101": ["cake"], "colors": ["blue", ["red", "dark red"]]}')
    task = ZeroShot(spec, {"colors": ["all {}"]}, class_names=read_names(names))
    assert task.about()["prompts"].startswith("all {}")
    top1 = task.evaluate(ColorEncoder())[0]
    assert top1.value == 1.0  # by name, whatever the order of the list
    others = ZeroShot(spec, {"food101": ["all {}"]})
    assert others.about()["prompts"] == "default"
    assert "The given templates have none for colors, which is measured with default." in others.lines()
    other_names = ZeroShot(spec, class_names=read_names(names))
    assert other_names.about()["prompts"].startswith("default, names ")
    assert not any("keep their names" in line for line in other_names.lines())
    names.write_text('{"food101": ["cake"]}')
    none = ZeroShot(spec, class_names=read_names(names))
    assert none.about()["prompts"] == "default"
    assert "labels.json has no names for the classes of colors, which keep their names." in none.lines()
