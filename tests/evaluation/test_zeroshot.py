from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import ColorEncoder, color_folder, picture, png

from openslip.errors import EvaluationError
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
