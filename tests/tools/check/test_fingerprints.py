"""Fingerprints of pictures: the same for the same picture, others for others."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from check_fakes import encoded, pixels
from openslip.data.decode import decode
from openslip.tools.check.fingerprints import blank, digest, perceptual, same, thumbnail


def picture(seed: int) -> Image.Image:
    return pixels(seed, 240, 180)


def hashed(image: Image.Image) -> int:
    return int(perceptual(thumbnail(np.asarray(image))["grey"][None])[0])


@pytest.mark.parametrize("seed", range(10))
def test_a_picture_has_nearly_the_same_hash_again(seed: int) -> None:
    image = picture(seed)
    original = hashed(image)
    for changed in (
        Image.fromarray(decode(encoded(image, quality=30), 64)),
        image.resize((120, 90)),
        image.resize((480, 360)),
        image.point(lambda level: level * 0.8),
        image.convert("L").convert("RGB"),
    ):
        assert (hashed(changed) ^ original).bit_count() <= 4
    assert min((hashed(picture(other)) ^ original).bit_count() for other in range(100, 150)) > 8


def test_a_thumbnail_holds_brightness_and_colours() -> None:
    halves = np.zeros((60, 80, 3), np.uint8)
    halves[:, :40] = 255, 0, 0
    halves[:, 40:] = 90
    look = thumbnail(halves)
    assert look["grey"][:, :7].tolist() == [[76] * 7] * 16  # 0.299 of red's 255
    assert look["grey"][:, 9:].tolist() == [[90] * 7] * 16
    assert look["tint"][0, 0].tolist() == [-44, 127]  # Cb, Cr of JPEG's YCbCr, less 128
    assert look["tint"][3, 3].tolist() == [0, 0]
    assert thumbnail(np.full((1, 1, 3), 9, np.uint8))["grey"].max() == 9


def test_hashes_of_many_are_those_of_each() -> None:
    looks = np.array([thumbnail(np.asarray(picture(seed))) for seed in range(5)])
    assert perceptual(looks["grey"]).tolist() == [hashed(picture(seed)) for seed in range(5)]


def test_blank_pictures() -> None:
    assert blank(np.full((40, 50, 3), 200, np.uint8))
    assert blank(np.full((1, 1, 3), 0, np.uint8))
    assert not blank(np.asarray(picture(0)))


def test_digest() -> None:
    assert digest(b"a") == digest(b"a") != digest(b"b")
    assert 0 <= digest(b"") < 2**64


def test_same() -> None:
    assert same(np.array([5, 3, 5, 5, 3], np.uint64)).tolist() == [0, 1, 0, 0, 1]
