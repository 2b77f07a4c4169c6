from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation_fakes import color_folder, picture, png
from openslip.encoder import Encoder
from openslip.errors import EvaluationError
from openslip.evaluation import features, suite
from openslip.evaluation.feature_cache import Batch, FeatureCache, ModelCache
from searched import tiny_model


@pytest.fixture
def images() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [png(picture(color, rng)) for color in ("red", "green", "blue", "gold") * 3] + [b"damaged"]


def extracted(
    encoder: Encoder, images: list[bytes], folder: Path, precision: torch.dtype = torch.float32
) -> tuple[features.Features, int]:
    """Return features in batches of 4, and how many pictures the image tower has seen for it."""
    seen = 0

    def count(module: object, inputs: tuple[torch.Tensor]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    handle = encoder.model.image_tower.register_forward_pre_hook(count)
    with features.session(cache=FeatureCache(folder), precision=precision):
        found = features.extract(encoder, images, batch_size=4)
    handle.remove()
    return found, seen


def same(one: features.Features, other: features.Features) -> bool:
    return (
        np.array_equal(one.values, other.values)
        and one.kept.tolist() == other.kept.tolist()
        and one.digests == other.digests
        and one.skipped == other.skipped
    )


def test_what_was_computed_is_found_bit_for_bit(images, tmp_path) -> None:
    model = tiny_model()
    plain = features.extract(model, images, batch_size=4)
    first, seen = extracted(model, images, tmp_path / "cache")
    assert (same(first, plain), seen) == (True, 12)
    second, seen = extracted(model, images, tmp_path / "cache")
    assert (same(second, plain), seen) == (True, 0)
    assert [one.index for one in second.skipped] == [12]


def test_a_picture_that_changes_has_its_batch_computed_anew(images, tmp_path) -> None:
    model = tiny_model()
    extracted(model, images, tmp_path / "cache")
    images[5] = png(picture("red", np.random.default_rng(7)))
    found, seen = extracted(model, images, tmp_path / "cache")
    assert seen == 4
    assert same(found, features.extract(model, images, batch_size=4))


def test_batches_are_found_wherever_they_stand(images, tmp_path) -> None:
    model = tiny_model()
    extracted(model, images, tmp_path / "cache")
    turned = images[4:8] + images[:4]
    found, seen = extracted(model, turned, tmp_path / "cache")
    assert seen == 0
    assert same(found, features.extract(model, turned, batch_size=4))


def test_other_weights_preprocessing_and_precision_are_others(images, tmp_path) -> None:
    model, other = tiny_model.__wrapped__(), tiny_model.__wrapped__()  # nothing is said of a shared one twice
    extracted(model, images, tmp_path / "cache")
    with torch.no_grad():
        next(other.model.image_tower.parameters()).add_(1e-3)
    assert extracted(other, images, tmp_path / "cache")[1] == 12
    assert extracted(model, images, tmp_path / "cache", torch.bfloat16)[1] == 12 + 4  # and once in float32
    assert extracted(model, images, tmp_path / "cache")[1] == 0


def test_a_damaged_file_is_computed_anew(images, tmp_path) -> None:
    model = tiny_model()
    plain, _ = extracted(model, images, tmp_path / "cache")
    for number, file in enumerate(sorted((tmp_path / "cache").glob("*/*.npz"))):
        file.write_bytes([b"", b"PK\3\4 no archive", file.read_bytes()[:-30], b"\x80\x04N."][number])
    found, seen = extracted(model, images, tmp_path / "cache")
    assert seen == 12
    assert same(found, plain)
    assert extracted(model, images, tmp_path / "cache")[1] == 0


def test_a_folder_that_cannot_be_written_is_said(images, tmp_path, caplog, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be created.*--cache"):
        FeatureCache(tmp_path / "file" / "cache")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openslip.evaluation.feature_cache.whole_or_not", full)
    with caplog.at_level(logging.WARNING):
        _, seen = extracted(tiny_model(), images, tmp_path / "cache")
    assert seen == 12
    assert "No space left" in caplog.text


def test_features_of_the_suite_are_taken_from_the_cache(tmp_path, caplog) -> None:
    data = str(color_folder(tmp_path / "colors", {"red": 4, "green": 3}))
    tasks = [f"knn:{data}", f"linear:{data}"]
    cache, model = FeatureCache(tmp_path / "cache"), tiny_model()
    plain = suite.run(model, tasks, precision="fp32")
    first = suite.run(model, tasks, precision="fp32", cache=cache)
    handle = model.model.image_tower.register_forward_pre_hook(lambda *_: pytest.fail("it was computed"))
    again = suite.run(model, tasks, precision="fp32", cache=cache)
    handle.remove()
    assert plain == first == again


def test_batches_as_bytes_are_the_same() -> None:
    batch = Batch(
        np.ones((2, 3), np.float32), np.array([4, 9]), (b"\0" * 16, b"\xff" * 16), (), ("a", '["ä\ud800"]')
    )
    again = Batch.from_bytes(batch.to_bytes())
    assert np.array_equal(again.values, batch.values)
    assert (again.digests, again.beside, again.kept.tolist()) == (batch.digests, batch.beside, [4, 9])
    none = Batch(np.empty((0, 0), np.float32), np.empty(0, np.int64), ())
    assert Batch.joined([none, Batch.from_bytes(none.to_bytes()), batch]).kept.tolist() == [4, 9]


def _packed(compression: int, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def _array(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """An array of float32 that says this shape, whatever it has."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content


def _told(text: bytes) -> dict[str, np.ndarray]:
    return {"told": np.frombuffer(text, np.uint8)}


@pytest.mark.parametrize(
    "changed",
    [
        {"kept": np.array([1, 0])},
        {"kept": np.array([0, 7])},
        {"kept": np.array([0.0, 1.0])},
        {"digests": np.array([(b"a" * 16).hex(), (b"c" * 16).hex()], dtype="S32")},
        {"values": np.full((2, 3), np.nan, np.float32)},
        {"values": np.array([{}, {}], dtype=object)},
        _told(b"[" * 200_000),
        _told(b"[[], [1, {}]]"),
        _told(b'[[["x", "y", 1, 2]], []]'),
    ],
)
def test_features_of_something_else_are_not_used(changed, tmp_path) -> None:
    pictures = [b"a" * 16, b"b" * 16]
    kept = ModelCache(tmp_path / "model")
    kept.write(pictures, Batch(np.ones((2, 3), np.float32), np.arange(2), tuple(pictures)))
    assert kept.read(pictures) is not None
    (path,) = kept.folder.iterdir()
    with np.load(path) as file:
        arrays = dict(file) | changed
    np.savez(path, **arrays)
    assert kept.read(pictures) is None


@pytest.mark.parametrize(
    "data",
    [
        _packed(zipfile.ZIP_STORED, values=_array((1 << 50,)), kept=b"", digests=b"", told=b""),
        _packed(zipfile.ZIP_STORED, values=b"\x93NUMPY\x01\x00\x40\x00" + b"(" * 63 + b"\n"),
        _packed(zipfile.ZIP_DEFLATED, values=_array((1 << 20,), bytes(4 << 20))),
    ],
    ids=["terabytes", "no header", "compressed"],
)
def test_files_that_say_more_than_they_have_are_not_used(data, tmp_path) -> None:
    pictures = [b"a" * 16]
    kept = ModelCache(tmp_path / "model")
    kept.write(pictures, Batch(np.ones((1, 3), np.float32), np.arange(1), tuple(pictures)))
    (path,) = kept.folder.iterdir()
    path.write_bytes(data)
    assert kept.read(pictures) is None
