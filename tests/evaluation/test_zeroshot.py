from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import ColorEncoder, color_folder, picture, png

from slip.errors import ConfigError, EvaluationError
from slip.evaluation import prompts
from slip.evaluation.zeroshot import ZeroShot, classifier


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
    top1, per_class = ZeroShot(spec).evaluate(ColorEncoder())
    assert (top1.task, top1.metric, top1.value, top1.count) == ("zeroshot:colors", "top1", 1.0, 18)
    assert per_class.metric == "mean_per_class"
    blind, _ = ZeroShot(spec, templates=("what is {}?",)).evaluate(ColorEncoder())
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


class TestPrompts:
    def test_each_set_is_known_by_its_name(self):
        assert len(prompts.templates_for("cifar10")) == 18
        assert len(prompts.templates_for("Caltech-101")) == 34
        assert len(prompts.templates_for("imagenet-1k")) == 80
        assert len(prompts.templates_for("tiny_imagenet")) == 80
        assert prompts.templates_for("my birds") == prompts.DEFAULT_TEMPLATES

    @pytest.mark.parametrize("name", ["cifar10", "caltech101", "imagenet", "birds"])
    def test_every_template_takes_a_name(self, name):
        templates = prompts.templates_for(name)
        assert len(set(templates)) == len(templates)
        assert all("gnu" in prompts.fill(t, "gnu") for t in templates)
        assert not any(mark in prompts.fill(t, "gnu") for t in templates for mark in "{}")

    def test_imagenet_names(self):
        numbered = [str(i) for i in range(1000)]
        assert prompts.names_for("imagenet_1k", numbered)[:2] == ("tench", "goldfish")
        assert prompts.names_for("imagenet_100", numbered[:100])[1] == "1"
        assert prompts.names_for("cifar10", numbered)[1] == "1"

    @pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}"])
    def test_a_template_without_a_place_is_an_error(self, template):
        with pytest.raises(ConfigError, match=r"holds \{\} once"):
            prompts.fill(template, "cat")
