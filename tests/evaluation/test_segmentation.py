"""Linear and zero-shot segmentation: areas and numbers against scikit-learn, the linear layer, and small sets."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score
from torch.nn import functional as F

from openslip.data.masks import IGNORED, open_masks
from openslip.encoder import Encoder
from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.evaluation import compare, dense, segmentation
from openslip.evaluation.dense import Seen, areas, prepare, results, upsampled
from openslip.evaluation.metrics import mean_iou, pixel_accuracy
from openslip.evaluation.segmentation import Segmentation, fit
from openslip.evaluation.suite import parse_task
from openslip.evaluation.zeroshot_segmentation import ZeroShotSegmentation
from toys import make_tiny_config

CLASSES = ("background", "red", "blue")
COLOURS = np.array([(90, 90, 90), (220, 20, 20), (20, 20, 220)], dtype=np.uint8)


def labels_of(rng: np.random.Generator, ignored: bool = True, size=(4, 3, 5), classes: int = 4) -> np.ndarray:
    labels = rng.integers(0, classes, size).astype(np.uint8)
    if ignored:
        labels[rng.random(size) < 0.2] = IGNORED
    return labels


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.booleans())
def test_numbers_equal_scikit_learns(seed, ignored):
    rng = np.random.default_rng(seed)
    masks, predicted = labels_of(rng, ignored), labels_of(rng, False)
    if (masks == IGNORED).all():
        return
    found = areas(predicted, masks, 4)
    counted = masks != IGNORED
    right, said = masks[counted], predicted[counted]
    matrix = confusion_matrix(right, said, labels=range(4))
    assert np.array_equal(found[:, 0].sum(0), matrix.diagonal())
    assert np.array_equal(found[:, 1].sum(0), matrix.sum(0) + matrix.sum(1) - matrix.diagonal())
    present = np.union1d(right, said)
    assert mean_iou(found) == pytest.approx(jaccard_score(right, said, labels=present, average="macro"))
    assert pixel_accuracy(found) == pytest.approx(accuracy_score(right, said))
    one = areas(predicted[1:2], masks[1:2], 4)
    assert np.array_equal(one[0], found[1])


def test_results_are_of_all_pictures_with_intervals_that_pair():
    rng = np.random.default_rng(0)
    masks, predicted = labels_of(rng, size=(30, 8, 8)), labels_of(rng, False, size=(30, 8, 8))
    seen = Seen(tuple(bytes([i]) for i in range(30)), 0)
    better = np.where(rng.random(masks.shape) < 0.3, np.where(masks == IGNORED, 0, masks), predicted)
    one, other = (
        results("segmentation:x", areas(p.astype(np.uint8), masks, 4), seen, content="c")
        for p in (predicted, better)
    )
    assert [result.metric for result in one] == ["mean_iou", "pixel_accuracy"]
    for result in (*one, *other):
        assert result.count == 30
        assert result.low < result.value < result.high
        assert result.outcomes is not None
        assert result.outcomes.value() == result.value
    differences = compare.compare(one, other)
    assert [d.verdict for d in differences] == ["better", "better"]
    assert not any(d.unpaired for d in differences)
    with pytest.raises(EvaluationError, match="no pixel to measure on"):
        results("segmentation:x", np.zeros((3, 2, 4), dtype=np.int64), Seen((b"", b"", b""), 0))


@pytest.mark.parametrize(("grid", "size"), [((3, 4), 13), ((1, 1), 5), ((4, 4), 4), ((7, 7), 32)])
def test_upsampling_is_interpolation(grid, size):
    logits = torch.randn(2, *grid, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled(logits, size), expected)


def test_the_linear_layer_finds_what_is_linear_and_the_same_each_time():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (12, 4, 4), generator=generator)
    features = F.one_hot(truth, 3).float() @ torch.randn(3, 6, generator=generator)
    features += 0.05 * torch.randn(features.shape, generator=generator)
    masks = truth.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    masks[:, :2] = IGNORED
    layer = fit(features, masks, 3, steps=150, learning_rate=0.05)
    assert (layer(features).argmax(-1) == truth).float().mean() > 0.95
    again = fit(features, masks, 3, steps=150, learning_rate=0.05)
    assert torch.equal(layer.weight, again.weight)
    assert not torch.equal(
        layer.weight, fit(features, masks, 3, steps=150, learning_rate=0.05, seed=1).weight
    )
    # features are standardised, so that their scale is of no matter
    scaled = fit(1000 * features + 5, masks, 3, steps=150, learning_rate=0.05)
    torch.testing.assert_close(scaled.weight, layer.weight, rtol=1e-2, atol=1e-3)


def test_the_loss_is_the_cross_entropy_of_the_upsampled_logits():
    """One step from the shares of the classes with plain numbers: Adam's first step is the sign of the gradient."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 2, 3, generator=generator)
    masks = torch.randint(0, 2, (2, 6, 6), generator=generator).to(torch.uint8)
    masks[0, :3] = IGNORED
    layer = fit(features, masks, 2, steps=1, learning_rate=0.1)
    weight = torch.zeros(3, 2, requires_grad=True)
    pixels = torch.tensor([1 + (masks == label).sum() for label in (0, 1)])
    bias = (pixels / pixels.sum()).log().requires_grad_()
    flat = features.flatten(0, 2)
    x = (features - flat.mean(0)) / flat.std(0, correction=0)
    logits = F.interpolate((x @ weight + bias).permute(0, 3, 1, 2), (6, 6), mode="bilinear")
    F.cross_entropy(logits, masks.long(), ignore_index=IGNORED).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    torch.testing.assert_close(layer.weight, -0.1 * weight.grad.sign(), rtol=1e-3, atol=1e-4)
    stepped = bias * (1 - 0.1 * segmentation.WEIGHT_DECAY) - 0.1 * bias.grad.sign()
    torch.testing.assert_close(layer.bias, stepped.detach(), rtol=1e-3, atol=1e-4)


@pytest.fixture
def colours(tmp_path):
    """Pictures of grey, red and blue squares of the patches' size, of several sizes, and their masks."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 7)):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            scale = (4, 8, 12)[i % 3]
            labels = np.kron(rng.integers(0, 3, (4, 4)), np.ones((scale, scale))).astype(np.uint8)
            image = np.clip(COLOURS[labels] + rng.normal(0, 8, (*labels.shape, 3)), 0, 255).astype(np.uint8)
            if i == 0:
                labels[:3] = IGNORED
            Image.fromarray(image).save(tmp_path / "images" / split / f"{i:02d}.png")
            Image.fromarray(labels).save(tmp_path / "masks" / split / f"{i:02d}.png")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    config = make_tiny_config()
    image = replace(config.model.image, patch=4)
    return Encoder.from_config(replace(config, model=replace(config.model, image=image)))


def test_linear_segmentation_of_a_folder(colours, encoder):
    task = parse_task(f"segmentation:{colours}", steps=200, learning_rate=0.05)
    assert isinstance(task, Segmentation)
    task.check()
    assert "masks of 3 classes (background, red, blue), 10 train, 7 test" in task.lines()[0]
    found = task.evaluate(encoder)
    assert found[0].metric == "mean_iou"
    assert found[0].value > 0.6  # an untrained tower still tells colours apart
    assert found[0].outcomes is not None
    assert found[0].outcomes.values.shape == (7, 2, 3)
    assert (found[0].split, found[0].count, found[0].settings) == ("test", 7, "steps=200, learning_rate=0.05")


def test_batches_and_names_of_files_change_nothing(colours, encoder):
    def measured(batch_size: int):
        return Segmentation(str(colours), steps=20, batch_size=batch_size).evaluate(encoder)

    found = measured(32)
    again = measured(3)
    assert found[0].outcomes is not None
    assert again[0].outcomes is not None
    assert np.array_equal(found[0].outcomes.values, again[0].outcomes.values)
    assert found == again
    zeroshot = ZeroShotSegmentation(str(colours)).evaluate(encoder)
    for path in sorted(colours.glob("*/*/*.png")):  # the pictures in another order
        path.rename(path.with_name(f"{99 - int(path.stem)}.png"))
    assert measured(2) == found
    assert ZeroShotSegmentation(str(colours), batch_size=2).evaluate(encoder) == zeroshot


def test_what_cannot_be_read_is_skipped_and_counted(colours, encoder, caplog):
    (colours / "images" / "test" / "00.png").write_bytes(b"no picture")
    shutil.copy(
        colours / "masks" / "test" / "01.png", colours / "masks" / "test" / "02.png"
    )  # of another size
    found = ZeroShotSegmentation(str(colours)).evaluate(encoder)
    assert (found[0].count, found[0].skipped) == (5, 2)
    assert "2 of 7" in caplog.text
    Image.new("RGB", (8, 8)).save(colours / "masks" / "test" / "01.png")
    assert ZeroShotSegmentation(str(colours)).evaluate(encoder)[0].skipped == 3
    for path in (colours / "masks" / "test").iterdir():
        path.write_bytes(b"")
    with pytest.raises(EvaluationError, match="None of the 7"):
        ZeroShotSegmentation(str(colours)).evaluate(encoder)


def test_zero_shot_is_the_nearest_class_and_background_does_not_count(colours, encoder, monkeypatch):
    """With patches that are embedded as the class of their colour, every thing is found."""
    task = parse_task(f"zeroshot-segmentation:{colours}", templates=("a {} thing.",))
    assert isinstance(task, ZeroShotSegmentation)
    task.check()
    assert any("pixels of background do not count" in line for line in task.lines())
    asked = []

    def classes(encoder, names, templates, batch_size=0):
        asked.extend([tuple(names), tuple(templates)])
        return np.eye(2, 5, dtype=np.float32)

    def patches(model, pixels):
        """Red is the first dimension, blue the second, a patch a quarter of the side."""
        small = F.avg_pool2d(pixels, pixels.shape[-1] // 4).permute(0, 2, 3, 1)
        return F.pad(small[..., [0, 2]], (0, 3)) + 0.01

    monkeypatch.setattr("openslip.evaluation.zeroshot_segmentation.classifier", classes)
    monkeypatch.setattr("openslip.evaluation.zeroshot_segmentation.patch_embeddings", patches)
    found = task.evaluate(encoder)
    assert asked == [(("red",), ("blue",)), ("a {} thing.",)]
    assert found[0].prompts == "a {} thing."
    assert found[0].outcomes is not None
    values = found[0].outcomes.values
    assert values.shape == (7, 2, 2)
    # the boundary between red and blue runs through the middle of upsampled patches
    assert found[1].value > 0.9
    data = open_masks(str(colours))
    pixels = 0
    for i in range(7):
        _, mask = prepare(encoder.preprocess, *data.splits["test"].read(i))
        pixels += int(((mask > 0) & (mask != IGNORED)).sum())
    assert int(values.sum()) // 2 == pixels


def test_templates_by_data_set(colours):
    """Those of this set are taken, by its name; where there are none of it, a line says so."""
    others = {"other": ("a {}.",)}
    for templates, prompts in ((others | {colours.name: ("one {}.",)}, "one {}."), (others, "default")):
        task = ZeroShotSegmentation(str(colours), templates)
        task.check()
        assert task.about()["prompts"] == prompts
        said = f"The given templates have none for {colours.name}, which is measured with default."
        assert (said in task.lines()) == (prompts == "default")


def test_what_cannot_be_measured(colours, encoder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="learning rate above 0"):
        Segmentation(str(colours), learning_rate=0).check()
    with pytest.raises(ConfigError, match="template"):
        ZeroShotSegmentation(str(colours), ("nothing",)).check()
    with pytest.raises(DataError, match="no such folder"):
        Segmentation(str(tmp_path / "nowhere")).check()
    (colours / "classes.txt").write_text("background\nred\n")
    with pytest.raises(EvaluationError, match="needs two classes or more"):
        ZeroShotSegmentation(str(colours)).check()
    features = torch.full((2, 2, 2, 3), torch.nan)
    with pytest.raises(EvaluationError, match="not finite"):
        fit(features, torch.zeros(2, 4, 4, dtype=torch.uint8), 2)
    with pytest.raises(EvaluationError, match="no pixel to train on"):
        fit(features.zero_(), torch.full((2, 4, 4), IGNORED, dtype=torch.uint8), 2)


def test_constants_are_what_the_docs_say():
    assert (segmentation.STEPS, segmentation.EPOCHS, segmentation.TRAIN_BATCH) == (1000, 20, 16)
    assert dense.METRICS == ("mean_iou", "pixel_accuracy")
