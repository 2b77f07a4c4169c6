"""The adapter with a library in the place of mteb that is made for the test."""

import sys

import numpy as np
import pytest
import torch

from evaluation_fakes import COLORS, ColorEncoder, picture
from mieb_fakes import Library, Task, put_in_place
from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.evaluation import Result, benchmark, measure, suite
from openslip.evaluation.compare import compare, sentences
from openslip.evaluation.compare import table as differences
from openslip.evaluation.features import features_of, session
from openslip.evaluation.mieb import Mieb, MtebModel, tasks_of
from openslip.evaluation.results import keep, read, table
from openslip.evaluation.scores import ahead, score

NAMES = list(COLORS)


@pytest.fixture
def library(monkeypatch):
    made = Library(
        Task("One"),
        Task("Two", "Any2AnyRetrieval"),
        Task("Pictures", "ImageClassification", ("image",)),
        Task("Gone"),
        Task("Code", trust_remote_code=True),
        Task("Sound", modalities=("image", "audio")),
    )
    return put_in_place(made, monkeypatch)


def test_the_main_score_becomes_the_result_of_the_task(library):
    (result,) = Mieb("One").evaluate(ColorEncoder())
    assert (result.task, result.metric, result.value, result.count) == ("mieb:One", "accuracy", 0.75, 4)
    assert 0 < result.low < 0.75 < result.high < 1
    assert (result.data, result.content, result.split, result.settings) == (
        "hf:owner/name",
        "1",
        "test",
        "mteb=2.5",
    )
    assert library.calls[0]["cache"] is None
    assert not library.tasks["One"].data_loaded


def test_a_number_that_is_no_share_of_samples_has_no_interval(library):
    library.score = 0.7
    for name in ("One", "Two", "Pictures"):  # 0.7 of 4 is no count
        (result,) = Mieb(name).evaluate(ColorEncoder())
        assert result.count == 4
        assert np.isnan([result.low, result.high]).all()


def test_several_tasks_stand_by_themselves(library):
    assert tasks_of(" Two,One,Two") == ["Two", "One"]
    assert suite.each("mieb:lite") == [f"mieb:{name}" for name in library.tasks]
    assert suite.each("zeroshot:a,b") == ["zeroshot:a,b"]
    assert [task.name for task in suite.Suite(["mieb:One,Two every 3"]).tasks] == ["mieb:One", "mieb:Two"]
    assert suite.Suite(["mieb:One,Two every 3", "knn:x"]).every == [3, 3, None]


def test_files_of_tasks_name_several_at_once(library, tmp_path):
    file = tmp_path / "tasks.toml"
    file.write_text('tasks = ["mieb:One,Two", "knn:photos"]\n')
    asked = benchmark.from_file(file, ())
    assert [one.task for one in asked.tasks] == ["mieb:One", "mieb:Two", "knn:photos"]


def test_what_fails_is_said_and_the_others_go_on(library):
    through = []
    results = suite.run(ColorEncoder(), ["mieb:Gone,One"], on_task=through.append)
    assert [result.task for result in results] == ["mieb:One"]
    assert isinstance(through[0].error, DataError)
    assert "The data of MIEB's task Gone cannot be loaded" in str(through[0].error)
    assert "OSError: no such place" in str(through[0].error)
    assert "what else" not in str(through[0].error)


def test_mteb_failing_is_an_error_in_words_and_ours_stay_what_they_are(library):
    library.failure = ZeroDivisionError("nothing left")
    with pytest.raises(
        EvaluationError, match=r"mteb cannot measure mieb:One.*ZeroDivisionError: nothing left"
    ):
        Mieb("One").evaluate(ColorEncoder())
    assert not library.tasks["One"].data_loaded
    library.failure = EvaluationError("ours")
    with pytest.raises(EvaluationError, match=r"^ours"):
        Mieb("One").evaluate(ColorEncoder())
    library.failure, library.score = None, float("nan")
    with pytest.raises(EvaluationError, match="no number"):
        Mieb("One").evaluate(ColorEncoder())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Code", "code of their own"),
        ("Sound", "image and audio"),
        ("Twwo", "Did you mean 'Two'"),
        ("zzzzzz", "a task such as"),
        ("lite", "stands for several"),
        ("One,Two", "stands for several"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(library, name, said):
    with pytest.raises(ConfigError, match=said):
        Mieb(name).check()


def test_a_task_of_pictures_needs_no_text_tower(library):
    image_only = ColorEncoder(("image",))
    assert [r.task for r in suite.run(image_only, ["mieb:One,Pictures"])] == ["mieb:Pictures"]


def test_without_mteb_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ConfigError, match=r"openslip\[mteb\]"):
        suite.each("mieb:lite")


def test_versions_that_cannot_do_it_are_refused(library, monkeypatch):
    monkeypatch.setattr(sys.modules["datasets"], "__version__", "3.6.0")
    with pytest.raises(ConfigError, match=r"code that comes with data sets.*3\.6\.0"):
        tasks_of("One")
    monkeypatch.setattr(sys.modules["datasets"], "__version__", "4.1.0")
    monkeypatch.delattr(Library, "evaluate")
    with pytest.raises(ConfigError, match=r"mteb 2\.0 or later"):
        tasks_of("One")


def batches(rows, size=2):
    """Return rows as mteb's loader gives them: a dictionary of lists a batch."""
    return [
        {name: [row[name] for row in rows[i : i + size]] for name in rows[0]}
        for i in range(0, len(rows), size)
    ]


def arrays(*colors):
    rng = np.random.default_rng(0)
    return [picture(color, rng) for color in colors]


def test_the_model_embeds_pictures_texts_and_their_sums_in_order():
    encoder = ColorEncoder()
    model = MtebModel(encoder, "task")
    pictures = arrays("red", "green", "blue")
    texts = ["gold", "a long text of red", "green"]
    images = model.encode(batches([{"image": one} for one in pictures]))
    pixels = torch.stack([encoder.preprocess.pixels(one) for one in pictures])
    torch.testing.assert_close(
        images, encoder.project(torch.from_numpy(features_of(encoder, pixels, "pictures")), normalize=False)
    )
    words = model.encode(batches([{"text": text} for text in texts]))
    torch.testing.assert_close(words, encoder.encode_text(texts, normalize=False))
    both = model.encode(batches([{"image": one, "text": text} for one, text in zip(pictures, texts)]))
    torch.testing.assert_close(both, images + words)


def test_a_row_without_a_picture_has_its_text_alone():
    model = MtebModel(ColorEncoder(), "task")
    (red,) = arrays("red")
    both = model.encode(batches([{"image": None, "text": "blue"}, {"image": red, "text": "gold"}]))
    texts = model.encode([{"text": ["blue", "gold"]}])
    torch.testing.assert_close(both[0], texts[0])
    torch.testing.assert_close(both[1], texts[1] + model.encode([{"image": [red]}])[0])


def test_nothing_to_embed_is_said():
    with pytest.raises(EvaluationError, match="neither pictures nor texts"):
        MtebModel(ColorEncoder(), "task").encode([{"label": [1]}])


def test_similarities_are_cosines():
    model, rng = MtebModel(ColorEncoder(), "task"), np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    expected = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    np.testing.assert_allclose(model.similarity(a, torch.from_numpy(b)), expected, rtol=1e-5)
    np.testing.assert_allclose(model.similarity_pairwise(a, b), np.diag(expected), rtol=1e-5)


def test_pictures_go_through_the_precision_of_the_session():
    seen = []

    class Watched(ColorEncoder):
        def image_features(self, images, *, numpy=True, autocast=None):
            seen.append(autocast)
            return super().image_features(images)

    with session(precision=torch.bfloat16):
        MtebModel(Watched(), "task").encode([{"image": arrays("red")}])
    assert seen[0] == "bf16"


NAN = float("nan")


def test_results_without_an_interval_are_kept_and_shown_as_what_they_are(tmp_path):
    one = Result("mieb:Two", "ndcg_at_10", 0.5, 0, NAN, NAN)
    keep([one], tmp_path / "results.json")
    (again,) = read(tmp_path / "results.json")
    assert "NaN" not in (tmp_path / "results.json").read_text()  # which is no JSON
    assert np.isnan([again.low, again.high]).all()
    assert table([again]).splitlines()[-1].split() == ["mieb:Two", "ndcg_at_10", "50.0%", "–", "–"]


def test_without_intervals_nobody_is_ahead_and_no_number_is_made_up():
    before, after = (Result("mieb:Two", "ndcg_at_10", value, 9, NAN, NAN) for value in (0.5, 0.9))
    (difference,) = found = compare([before], [after])
    assert difference.verdict == "undecided"
    text = differences(found) + " ".join(sentences(found, "A", "B"))
    assert "nan" not in text
    assert "+40.0" in text
    assert "no interval" in text
    assert ahead({"A": score([before]), "B": score([after])}, lower=False) is None
    mean = score([before, after])
    assert mean.value == 0.7
    assert np.isnan([mean.low, mean.high]).all()


@pytest.mark.parametrize(
    ("metric", "title", "unit"),
    [
        ("accuracy", "accuracy", "share"),
        ("ndcg_at_10", "nDCG@10", "share"),
        ("hit_rate_at_1", "hit rate@1", "share"),
        ("map_at_5", "MAP@5", "share"),
        ("cosine_spearman", "rank correlation", "number"),
    ],
)
def test_mtebs_metrics_have_names_and_units(metric, title, unit):
    assert (measure(metric).title, measure(metric).unit) == (title, unit)
