from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import ColorEncoder, color_folder, picture, png

from openslip import create
from openslip.errors import EvaluationError
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
