import threading

import numpy as np
import pytest
import torch

import openslip
from openslip.classifier import ZeroShotClassifier
from openslip.errors import ConfigError, EvaluationError, SlipError
from toys import make_tiny_config, with_loss

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
    with pytest.raises(ConfigError, match="no such option"):
        classify(pictures(1), bach=2)


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
        (["cat", "Cat "], "one name cannot be told apart.*cat"),
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
