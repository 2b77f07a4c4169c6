from __future__ import annotations

import numpy as np
import pytest
import torch

from openslip.encoder import Encoder
from openslip.models.dense import patch_embeddings
from openslip.report.gallery import Picture, gather
from openslip.report.similarity import MOST, SIDE, patches, place, similarity_maps
from report_fakes import FakeEncoder, Pictures
from toys import make_tiny_config


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder.from_config(make_tiny_config())


def photos(count: int) -> tuple[list[Picture], list[str]]:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(count)]
    captions = [f"number {k}" for k in range(count)]
    return [Picture(one, (caption,), None) for one, caption in zip(pixels, captions)], captions


def test_each_patch_has_the_cosine_similarity_of_its_embedding_to_the_caption(encoder: Encoder) -> None:
    pictures, captions = photos(3)
    seen, grids = patches(encoder, pictures)
    texts = encoder.encode_text(captions).numpy()
    assert [one.shape for one in seen] == [(encoder.size, encoder.size, 3)] * 3
    for picture, grid, text in zip(pictures, grids, texts):
        with torch.no_grad():
            raw = patch_embeddings(encoder.model, encoder.preprocess(picture.pixels)[None])[0]
        for i in range(grid.shape[0]):
            for j in range(grid.shape[1]):
                patch = raw[i, j].numpy()
                twin = patch @ text / (np.linalg.norm(patch) * np.linalg.norm(text))
                assert grid[i, j] @ text == pytest.approx(twin, abs=1e-5)


def test_every_picture_has_a_map_of_its_own_caption_and_of_another(encoder: Encoder) -> None:
    pictures, captions = photos(MOST + 2)
    found = similarity_maps(encoder, pictures, captions)
    assert len(found) == MOST
    for i, heats in enumerate(found):
        assert [(one.caption, one.own) for one in heats.maps] == [
            (captions[i], True), (captions[(i + 1) % MOST], False),
        ]  # fmt: skip
        for one in heats.maps:
            assert one.picture.pixels.shape == (SIDE, SIDE, 3)
            assert one.strongest in one.picture.alt
            assert one.caption in one.picture.alt
        # Red lies over grey where a caption is alike; both maps have one scale, so one of them reaches its end.
        red = [
            (one.picture.pixels[..., 0].astype(int) - one.picture.pixels[..., 2]).max() for one in heats.maps
        ]
        assert max(red) > 150


def test_places_are_said_in_words() -> None:
    where = {}
    for i, j in np.ndindex(3, 6):
        shares = np.zeros((3, 6))
        shares[i, j] = 1
        where[i, j] = place(shares)
    assert (where[0, 0], where[0, 3], where[1, 2], where[1, 5], where[2, 4]) == (
        "top left", "top middle", "middle", "right", "bottom right",
    )  # fmt: skip


def test_there_is_none_where_a_model_has_no_patches_or_captions_are_alike(encoder: Encoder) -> None:
    pictures, captions = photos(3)
    assert similarity_maps(FakeEncoder(), pictures, captions) == ()  # type: ignore[arg-type]
    assert similarity_maps(encoder, pictures[:1], captions[:1]) == ()
    assert similarity_maps(encoder, pictures, ["same"] * 3) == ()
    assert gather(FakeEncoder(), Pictures()).heats == ()  # type: ignore[arg-type]
    found = gather(encoder, Pictures(), pool=30).heats
    assert 2 <= len(found) <= MOST
