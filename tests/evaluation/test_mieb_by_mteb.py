"""Tasks of our own in mteb's classes, on made pictures, through mteb's own evaluators."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation_fakes import COLORS, ColorEncoder, ColorPreprocess, picture

pytest.importorskip("mteb")

import datasets
import mteb  # pyrefly: ignore[missing-import]
from mteb.abstasks import (  # pyrefly: ignore[missing-import]
    AbsTaskClassification,
    AbsTaskRetrieval,
    AbsTaskZeroShotClassification,
)

from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.evaluation import suite
from openslip.evaluation.metrics import wilson
from openslip.evaluation.mieb import BENCHMARKS, Mieb, tasks_of

NAMES = list(COLORS)


class PillowPreprocess(ColorPreprocess):
    def pixels(self, image: object) -> torch.Tensor:
        return super().pixels(np.array(image))


class PillowEncoder(ColorEncoder):
    """Sees Pillow images, as mteb has them."""

    @property
    def preprocess(self) -> ColorPreprocess:
        return PillowPreprocess()


def metadata(name: str, kind: str, category: str, main_score: str, modalities: list[str]):
    return mteb.TaskMetadata(
        name=name,
        dataset={"path": "nobody/nothing", "revision": "abc"},
        description="Pictures of one colour",
        reference=None,
        type=kind,
        category=category,
        modalities=modalities,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )


def colored(labels: list[int], seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(picture(NAMES[label], rng)) for label in labels]


def split(labels: list[int], seed: int = 0):
    return datasets.Dataset.from_dict(
        {"image": colored(labels, seed), "label": labels},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )


class Colors(AbsTaskZeroShotClassification):
    """12 pictures, of which 3 have the label of another colour."""

    metadata = metadata("OwnColors", "ZeroShotClassification", "i2t", "accuracy", ["image", "text"])
    seen = [0, 1, 2, 3] * 3
    labels = [1, 2, 3] + [3] + [0, 1, 2, 3] * 2

    def load_data(self, *args, **kwargs):
        pictures: Any = split(self.seen).remove_columns("label")
        table = pictures.add_column("label", self.labels)
        self.dataset, self.data_loaded = datasets.DatasetDict({"test": table}), True

    def get_candidate_labels(self):
        return [f"a photo of something {name}" for name in NAMES]


class FromColors(AbsTaskClassification):
    metadata = metadata("OwnProbe", "ImageClassification", "i2c", "accuracy", ["image"])
    input_column_name = "image"
    samples_per_label = 2
    n_experiments = 2

    def load_data(self, *args, **kwargs):
        self.dataset = datasets.DatasetDict(
            {"train": split([0, 1, 2, 3] * 4, 1), "test": split([0, 1, 2, 3] * 2)}
        )
        self.data_loaded = True


class Find(AbsTaskRetrieval):
    """A picture of each colour, to be found by a text; the text of the last one names no colour."""

    metadata = metadata("OwnFind", "Any2AnyRetrieval", "t2i", "ndcg_at_10", ["text", "image"])

    def load_data(self, *args, **kwargs):
        texts = [f"all {name}" for name in NAMES]
        corpus = datasets.Dataset.from_dict(
            {"id": [f"d{i}" for i in range(4)], "image": colored([0, 1, 2, 3])},
            features=datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()}),
        )
        queries = datasets.Dataset.from_dict({"id": [f"q{i}" for i in range(4)], "text": texts})
        relevant = {f"q{i}": {f"d{i}": 1} for i in range(4)}
        one = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        self.dataset, self.data_loaded = {"default": {"test": one}}, True


class Gone(Colors):
    def load_data(self, *args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nand more")


def test_zero_shot_is_the_share_of_right_classes_with_its_interval():
    (result,) = Mieb("OwnColors", Colors()).evaluate(PillowEncoder())
    assert (result.task, result.metric, result.value, result.count) == (
        "mieb:OwnColors",
        "accuracy",
        9 / 12,
        12,
    )
    assert (result.low, result.high) == wilson(9, 12)
    assert (result.data, result.split, result.content) == ("hf:nobody/nothing", "test", "abc")
    assert result.settings == f"mteb={mteb.__version__}"


def test_a_probe_of_few_samples_has_no_interval():
    (result,) = Mieb("OwnProbe", FromColors()).evaluate(PillowEncoder(("image",)))
    assert (result.value, result.count) == (1.0, 8)
    assert np.isnan([result.low, result.high]).all()


def test_retrieval_ranks_pictures_by_text_and_counts_the_queries():
    (result,) = Mieb("OwnFind", Find()).evaluate(PillowEncoder())
    assert (result.metric, result.value, result.count) == ("ndcg_at_10", 1.0, 4)


def test_mteb_keeps_no_results_and_leaves_the_generators_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "cache"))
    own = Mieb("OwnColors", Colors())
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    own.evaluate(PillowEncoder())
    tasks_of("CIFAR10ZeroShot")
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    assert not any(tmp_path.rglob("*.json"))


def test_the_numbers_do_not_depend_on_what_was_drawn_before():
    np.random.seed(1)
    once = Mieb("OwnProbe", FromColors()).evaluate(PillowEncoder())
    np.random.seed(2)
    assert Mieb("OwnProbe", FromColors()).evaluate(PillowEncoder())[0].value == once[0].value


def test_a_task_without_data_is_said_and_the_others_go_on():
    through = []
    tasks = [Mieb("OwnGone", Gone()), Mieb("OwnColors", Colors())]
    results = suite.run(PillowEncoder(), tasks, on_task=through.append)
    assert [result.task for result in results] == ["mieb:OwnColors"]
    (gone, colors) = through
    assert isinstance(gone.error, DataError)
    assert "OwnColors cannot be loaded" in str(gone.error)
    assert "Couldn't reach the hub" in str(gone.error)
    assert "and more" not in str(gone.error)
    assert colors.error is None


def test_a_model_without_text_is_measured_on_pictures_alone():
    with pytest.raises(EvaluationError, match="text tower"):
        Mieb("OwnColors", Colors()).evaluate(PillowEncoder(("image",)))
    assert not Mieb("OwnProbe", FromColors()).needs_text


def test_names_of_benchmarks_stand_for_their_tasks():
    lite, eng = tasks_of("lite"), tasks_of("eng")
    assert len(lite) == len({*lite}) > 40
    assert len(eng) > len(lite)
    assert "CIFAR100ZeroShot" in lite
    assert tasks_of("CIFAR100ZeroShot, lite")[0] == "CIFAR100ZeroShot"
    assert len(tasks_of("CIFAR100ZeroShot, lite")) == len(lite)
    assert suite.each("mieb:CIFAR10ZeroShot,Winoground") == ["mieb:CIFAR10ZeroShot", "mieb:Winoground"]


def test_every_task_of_mieb_can_be_measured_without_foreign_code():
    for name in tasks_of(",".join(BENCHMARKS)):
        Mieb(name).check()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CIFAR10Zeroshot", "Did you mean 'CIFAR10ZeroShot'"),
        ("lite", "stands for several"),
    ],
)
def test_what_cannot_be_measured_is_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        Mieb(name).check()
