import copy
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import openslip
from finetunings import RECIPE, config_of, finetuned
from openslip.classifier import FinetunedClassifier, ZeroShotClassifier
from openslip.data.labelled import load_labelled
from openslip.errors import ConfigError, EvaluationError, SlipError
from openslip.evaluation.finetune import Finetune, run
from openslip.evaluation.finetune.data import test_loader as batches_to_test
from openslip.evaluation.kept_probe import Origin
from openslip.evaluation.linear import Linear
from toys import make_tiny_config, save_photos, save_toy_model, with_loss

NAMES = ["red square", "blue circle", "a cat"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return openslip.create(make_tiny_config())


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(count)]


def test_probabilities_are_those_of_the_definition(model) -> None:
    templates = ["a photo of a {}.", "{}"]
    found = ZeroShotClassifier(model, NAMES, templates)(pictures(4))
    rows = []
    for name in NAMES:
        mean = torch.stack([model.encode_text(t.format(name))[0] for t in templates]).mean(0)
        rows.append(mean / mean.norm())
    logits = model.logit_scale * model.encode_image(pictures(4)) @ torch.stack(rows).T
    torch.testing.assert_close(found, logits.softmax(1))
    torch.testing.assert_close(found.sum(1), torch.ones(4))


def test_options_of_encoding_are_passed_on(model) -> None:
    classify = ZeroShotClassifier(model, NAMES)
    right = torch.cat([classify(pictures(4)[:2]), classify(pictures(4)[2:])])
    assert torch.equal(classify(pictures(4), batch=2, workers=2), right)
    found = classify([*pictures(4), b""], batch=2, errors="skip")
    assert torch.equal(found.values, right)
    option: dict[str, Any]
    for option in ({"bach": 2}, {"numpy": True}, {"normalize": False}):
        with pytest.raises(ConfigError, match="no such option"):
            classify(pictures(1), **option)


def test_one_class_and_one_picture(model) -> None:
    classify = ZeroShotClassifier(model, ("cat",))
    assert classify(pictures(1)[0]).tolist() == [[1.0]]
    assert repr(classify) == f"ZeroShotClassifier(1 classes, {len(classify.templates)} templates)"


def test_templates_by_name_and_from_a_file(model, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("a drawing of a {}\n{} on a table\n")
    assert ZeroShotClassifier(model, NAMES, str(tmp_path / "mine.txt")).templates[1] == "{} on a table"
    assert len(ZeroShotClassifier(model, NAMES, "cifar").templates) == 18
    for wrong in (["a photo"], "nothing-of-that-name"):
        with pytest.raises(SlipError):
            ZeroShotClassifier(model, NAMES, wrong)


def test_what_cannot_be_used_is_left_out_when_asked(model) -> None:
    classify = ZeroShotClassifier(model, NAMES)
    found = classify([pictures(1)[0], b"no picture", pictures(1)[0]], errors="skip")
    assert found.kept == [0, 2]
    assert found.values.shape == (2, 3)
    assert found.skipped[0].index == 1
    with pytest.raises(SlipError, match="1 of 3 pictures cannot be used"):
        classify([pictures(1)[0], b"no picture", pictures(1)[0]])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("cat", "several names, not one text"),
        ([], "no classes"),
        (["cat", "Cat "], "the same name cannot be told apart.*cat"),
        (["cat", ""], "must be text, and not empty"),
        (["cat", 3], "must be text.*3"),
    ],
)
def test_names_that_are_none(model, names, told) -> None:
    with pytest.raises(ConfigError, match=told):
        ZeroShotClassifier(model, names)


def test_a_model_without_text_cannot(tmp_path) -> None:
    with pytest.raises(EvaluationError, match="needs a text tower"):
        ZeroShotClassifier(openslip.create(with_loss(make_tiny_config(), "simclr")), NAMES)


def test_threads_get_the_same(model) -> None:
    classify, found = openslip.ZeroShotClassifier(model, NAMES), {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: classify(pictures(3))})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], found[0]) for i in range(4))


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The state of a finetuning, its pictures beside the run."""
    return finetuned(tmp_path_factory.mktemp("finetuned"))


def test_a_finetuned_classifier_gives_the_protocols_logits(kept, monkeypatch) -> None:
    """Those of which the finetuning's accuracy was made."""
    predict, seen = run.Trainer.predict, []

    def recorded(trainer, loader):
        seen.append(predict(trainer, loader))
        return seen[-1]

    monkeypatch.setattr(run.Trainer, "predict", recorded)
    data = kept.parent.parent.parent / "colours"
    torch.manual_seed(0)
    encoder = openslip.create(config_of())
    Finetune(str(data), folder=kept, recipe=RECIPE, precision="fp32").evaluate(encoder)
    (logits, indices, _) = seen[0]
    classify = FinetunedClassifier(kept)
    paths = sorted((data / "test").glob("*/*.png"))
    found = classify.model.image_features(paths)
    torch.testing.assert_close(found[indices], torch.from_numpy(logits), rtol=0, atol=1e-6)
    torch.testing.assert_close(classify(paths), found.softmax(1), rtol=0, atol=0)
    assert classify.names == ("dark blue", "green", "red")
    assert repr(classify) == "FinetunedClassifier(3 classes, 32 pixels)"
    with pytest.raises(ConfigError, match="no such option. Got: 'numpy'"):
        classify([], numpy=True)  # pyrefly: ignore[no-matching-overload]


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_its_pictures_are_prepared_as_the_protocol_does(tmp_path, kept, fit) -> None:
    """A large JPEG as well, of which encoding would decode a part of the resolution."""
    rng, paths = np.random.default_rng(0), []
    for name, size in (("a", (700, 400)), ("b", (90, 64))):
        paths.append(tmp_path / "data" / "test" / name / "one.jpg")
        paths[-1].parent.mkdir(parents=True)
        noise = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        noise.resize(size).save(paths[-1])
    classify = FinetunedClassifier(kept)
    views = replace(classify.model.config.views, fit=fit)
    labelled = load_labelled(str(tmp_path / "data"), "test")
    (batch,) = batches_to_test(labelled, classify.recipe, views, batch=9, workers=0)
    if fit == "squash":
        config = replace(config_of(), views=views)
        (tmp_path / "other").mkdir()
        classify = FinetunedClassifier(finetuned(tmp_path / "other", config))
    assert torch.equal(torch.stack([classify.model.preprocess(path) for path in paths]), batch.images)


def test_pictures_of_every_kind_and_those_that_cannot_be_used(kept) -> None:
    classify = FinetunedClassifier(kept)
    images = pictures(3)
    expected = classify(images)
    assert expected.shape == (3, 3)
    torch.testing.assert_close(expected.sum(1), torch.ones(3))
    torch.testing.assert_close(classify([Image.fromarray(one) for one in images]), expected)
    ready = torch.stack([classify.model.preprocess(one) for one in images])
    torch.testing.assert_close(classify(ready), expected)
    found = classify([images[0], b"", images[2]], errors="skip")
    assert found.kept == [0, 2]
    torch.testing.assert_close(found.values, expected[[0, 2]])
    with pytest.raises(SlipError, match="index 1"):
        classify([images[0], b""])
    assert classify([]).shape == (0, 3)
    for copied in (copy.deepcopy(classify), pickle.loads(pickle.dumps(classify))):
        assert torch.equal(copied(images), expected)


def test_threads_share_a_finetuned_classifier(kept) -> None:
    classify = FinetunedClassifier(kept)
    expected, found = classify(pictures(3)), []
    threads = [threading.Thread(target=lambda: found.append(classify(pictures(3)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(one, expected) for one in found)


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> Path:
    """A linear probe in the folder of its model."""
    folder = tmp_path_factory.mktemp("probed")
    run = Path(save_toy_model(folder / "run"))
    photos, place = save_photos(folder / "photos", test=3), run / "linear" / "photos"
    Linear(str(photos), folder=place, origin=Origin(str(run), run)).evaluate(openslip.load(run))
    return place


def test_a_linear_classifier_gives_the_probes_scores(probed) -> None:
    classify = openslip.LinearClassifier(probed)
    assert classify.names == ("blue", "red")
    assert repr(classify) == "LinearClassifier(2 classes, 24 pixels)"
    images = pictures(5)
    features = openslip.load(probed.parent.parent).image_features(images).double().numpy()
    probe = classify.probe
    scores = torch.from_numpy((features - probe.mean) / probe.scale @ probe.weight.T + probe.bias)
    torch.testing.assert_close(classify.logits(images), scores.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(classify(images), scores.softmax(1).float(), rtol=1e-4, atol=1e-5)
    found = classify([images[0], b"", images[2]], errors="skip")
    assert found.kept == [0, 2]
    torch.testing.assert_close(found.values, classify(images)[[0, 2]])
    with pytest.raises(SlipError, match="index 1"):
        classify([images[0], b""])
    with pytest.raises(ConfigError, match="no such option. Got: 'numpy'"):
        classify([], numpy=True)  # pyrefly: ignore[no-matching-overload]
    for copied in (copy.deepcopy(classify), pickle.loads(pickle.dumps(classify))):
        assert torch.equal(copied(images), classify(images))


def test_a_linear_classifier_takes_its_model_where_it_is(probed, tmp_path) -> None:
    alone = shutil.copytree(probed, tmp_path / "alone")
    run = shutil.copytree(probed.parent.parent, tmp_path / "moved")
    expected = openslip.LinearClassifier(probed)(pictures(2))
    for model in (run, openslip.load(run)):
        assert torch.equal(openslip.LinearClassifier(alone, model)(pictures(2)), expected)
    assert torch.equal(openslip.LinearClassifier(run / "linear" / "photos")(pictures(2)), expected)
    with pytest.raises(SlipError, match="other weights than this model's"):
        openslip.LinearClassifier(alone, openslip.create(make_tiny_config()))


def test_names_are_told_apart_from_the_words_for_them(model) -> None:
    named = ZeroShotClassifier(model, {"Tops": "red square", "TOPS": "blue circle"})
    plain = ZeroShotClassifier(model, ["red square", "blue circle"])
    assert named.names == ("Tops", "TOPS")
    assert named.words == plain.names == plain.words
    assert torch.equal(named(pictures(2)), plain(pictures(2)))
    with pytest.raises(ConfigError, match="cannot be told apart"):
        ZeroShotClassifier(model, {"a": "cat", "b": "Cat"})


def test_probabilities_are_a_softmax_of_logits(model, kept) -> None:
    for classify in (ZeroShotClassifier(model, NAMES), FinetunedClassifier(kept)):
        assert torch.equal(classify.logits(pictures(3)).softmax(1), classify(pictures(3)))
        assert classify.logits([b"", *pictures(1)], errors="skip").kept == [1]
