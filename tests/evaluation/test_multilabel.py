"""Several labels a picture: zero-shot and linear measure them, the others refuse them, and models are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation_fakes import COLORS, ColorEncoder, picture, png
from openslip.errors import DataError, EvaluationError
from openslip.evaluation import kept_outcomes
from openslip.evaluation.classification import Samples
from openslip.evaluation.compare import difference, difference_of_seeds
from openslip.evaluation.finetune import Finetune
from openslip.evaluation.knn import Knn
from openslip.evaluation.linear import Linear
from openslip.evaluation.metrics import resampled
from openslip.evaluation.multilabel import fit, multilabel, probe_scores
from openslip.evaluation.outcomes import Outcomes
from openslip.evaluation.zeroshot import ZeroShot


@pytest.fixture
def spec(tmp_path):
    """A table of pictures of one colour, each with the colour and one or two other labels."""
    rng, rows = np.random.default_rng(0), ["image,labels,split"]
    for i in range(48):
        color = list(COLORS)[i % 4]
        (tmp_path / f"{i}.png").write_bytes(png(picture(color, rng)))
        warm = "|warm" if color in ("red", "gold") else ""
        rows.append(f"{i}.png,{color}{warm},{'test' if i % 3 == 0 else 'train'}")
    (tmp_path / "tags.csv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "tags.csv")


def test_zeroshot(spec):
    evaluator = ZeroShot(spec)
    evaluator.check()
    found = {result.metric: result for result in evaluator.evaluate(ColorEncoder())}
    assert list(found) == ["mean_average_precision", "roc_auc"]
    first = found["mean_average_precision"]
    assert first.outcomes is not None
    scores, labels = first.outcomes.values, first.outcomes.classes
    assert labels is not None
    assert first.count == 16
    assert first.value == pytest.approx(average_precision_score(labels, scores, average="macro"))
    assert found["roc_auc"].value == pytest.approx(roc_auc_score(labels, scores, average="macro"))
    assert first.low <= first.value <= first.high
    assert first.prompts
    assert first.content
    colors = [i for i, name in enumerate(evaluator.opened().class_names) if name in COLORS]
    assert average_precision_score(labels[:, colors], scores[:, colors], average="macro") > 0.5


def test_linear(spec):
    results = Linear(spec, penalties=(1e-2, 1e-3)).evaluate(ColorEncoder())
    assert [result.metric for result in results] == ["mean_average_precision", "roc_auc"]
    assert results[0].value == pytest.approx(1.0)
    assert results[0].settings == "penalties=(0.01, 0.001)"


@pytest.mark.parametrize("evaluator", [Knn, Finetune])
def test_others_say_what_measures_them(spec, evaluator):
    with pytest.raises(DataError, match=r"several labels each \(multi-label\).*zeroshot: or linear:"):
        evaluator(spec).check()


def test_each_class_is_scikit_learns_logistic_regression():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 5))
    y = (x @ rng.normal(size=(5, 3)) + rng.normal(size=(120, 3)) > 0).astype(np.int8)
    weight = fit(torch.from_numpy(x), torch.from_numpy(y).double(), 1e-2)
    for c in range(3):
        theirs = LogisticRegression(C=1 / (1e-2 * 120), tol=1e-8, max_iter=1000).fit(x, y[:, c])
        assert np.allclose(weight[c, :-1], theirs.coef_[0], atol=1e-3)
        assert float(weight[c, -1]) == pytest.approx(float(theirs.intercept_[0]), abs=1e-3)


def test_what_is_not_known_is_not_learned():
    rng = np.random.default_rng(1)
    x, y = torch.from_numpy(rng.normal(size=(60, 4))), torch.from_numpy(rng.integers(0, 2, (60, 2))).double()
    y[40:, 1] = -1
    weight = fit(x, y, 1e-2)
    alone = fit(x[:40], y[:40, 1:], 1e-2 * 60 / 40)  # the mean is over all samples
    assert torch.allclose(weight[1], alone[0], atol=1e-4)


def test_the_penalty_is_chosen_and_scores_repeat():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(80, 30)).astype(np.float32)
    y = (x[:, :2] + 0.5 * rng.normal(size=(80, 2)) > 0).astype(np.int8)
    new = rng.normal(size=(500, 30)).astype(np.float32)
    truth = (new[:, :2] > 0).astype(np.int8)
    options = {"penalties": (1.0, 1e-1, 1e-2, 1e-6)}
    scores = probe_scores(x, y, new, **options)
    assert np.array_equal(scores, probe_scores(x, y, new, **options))
    weak = probe_scores(x, y, new, penalties=(1e-6,))
    chosen, unchosen = (average_precision_score(truth, one) for one in (scores, weak))
    assert chosen > unchosen


def samples(count, names):
    return Samples(np.arange(count), tuple(bytes([i + 1]) * 16 for i in range(count)), tuple(names))


def test_classes_without_a_positive_are_counted(caplog):
    rng = np.random.default_rng(0)
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]], np.int8)
    found = multilabel("zeroshot:x", rng.random((4, 3)), labels, 2, samples(4, "abc"))
    assert [result.skipped for result in found] == [2, 2]
    assert (
        "1 of 3 classes without a positive picture are left out of mean_average_precision: b." in caplog.text
    )
    assert (
        "2 of 3 classes without a positive or without a negative one are left out of roc_auc: b, c."
        in caplog.text
    )
    only = multilabel("zeroshot:x", rng.random((4, 1)), labels[:, 2:], 0, samples(4, "c"))
    assert [result.metric for result in only] == ["mean_average_precision"]
    with pytest.raises(EvaluationError, match="no picture has any of the classes"):
        multilabel("zeroshot:x", rng.random((4, 1)), labels[:, 1:2], 0, samples(4, "b"))


def test_training_pictures_that_all_have_a_label_are_refused(tmp_path):
    rows = ["image,labels,split", "0.png,a|b,train", "1.png,a|b,train", "2.png,a|b|c,test"]
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(picture("red", np.random.default_rng(i))))
    (tmp_path / "tags.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(EvaluationError, match="needs a class that some training images have"):
        Linear(str(tmp_path / "tags.csv")).check()


def test_models_are_compared_by_picture(spec):
    class Worse(ColorEncoder):
        def project(self, features, *, normalize=True):
            found = super().project(features, normalize=normalize)
            return found + torch.linspace(-0.7, 0.7, len(found))[:, None]

    before, after = (ZeroShot(spec).evaluate(encoder())[0] for encoder in (Worse, ColorEncoder))
    found = difference(before, after)
    assert not found.unpaired
    assert found.value == pytest.approx(after.value - before.value)
    assert found.low <= found.value <= found.high
    of_seeds = difference_of_seeds([before, before], [after, after])
    assert not of_seeds.unpaired
    assert of_seeds.value == pytest.approx(found.value)


def test_models_are_compared_in_whatever_order_pictures_and_classes_stand():
    rng = np.random.default_rng(0)
    labels, names = (rng.random((30, 3)) < 0.4).astype(np.int8), samples(30, "abc")
    about = {"data": "x", "content": "same"}
    before = multilabel("zeroshot:x", rng.random((30, 3)), labels, 0, names, **about)[0]
    scores, rows, columns = labels + rng.random((30, 3)), rng.permutation(30), [2, 0, 1]
    after = multilabel("zeroshot:x", scores, labels, 0, names, **about)[0]
    other = Samples(np.arange(30), tuple(names.digests[i] for i in rows), tuple("cab"))
    again = multilabel("zeroshot:x", scores[rows][:, columns], labels[rows][:, columns], 0, other, **about)[0]
    assert again.value == pytest.approx(after.value)
    one, two = difference(before, after), difference(before, again)
    assert not one.unpaired
    assert not two.unpaired
    assert two.value == pytest.approx(one.value)
    assert two.low == pytest.approx(one.low, abs=0.03)  # of other resamples


def test_outcomes_are_kept_with_the_results(tmp_path, spec):
    found = ZeroShot(spec).evaluate(ColorEncoder())
    kept_outcomes.keep(found, tmp_path / "results.json")
    read, troubles = kept_outcomes.recall(
        [replace(one, outcomes=None) for one in found], tmp_path / "results.json"
    )
    assert not troubles
    for one, other in zip(found, read):
        made, kept = one.outcomes, other.outcomes
        assert made is not None
        assert kept is not None
        assert kept.value() == pytest.approx(one.value)
        assert made.classes is not None
        assert kept.classes is not None
        assert np.array_equal(kept.classes, made.classes)


def test_the_interval_of_average_precision_is_around_what_other_samples_give(monkeypatch):
    monkeypatch.setattr("openslip.evaluation.metrics.RESAMPLES", 100)
    rng = np.random.default_rng(0)

    def drawn():
        labels = (rng.random((60, 6)) < 0.15).astype(np.int8)
        outcomes = Outcomes(rng.normal(size=(60, 6)), "mean_average_precision", labels)
        return outcomes.value(), *(resampled(outcomes.value, 60, centred=one) for one in (True, False))

    values, centred, plain = zip(*(drawn() for _ in range(40)))
    apart, too_high = (np.mean(some) - np.mean(values) for some in (centred, plain))
    assert abs(apart) < too_high / 2
    assert all(low <= value <= high for value, (low, high) in zip(values, centred))
