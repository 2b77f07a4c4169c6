"""The contact sheet: the views that training sees, text that fits, and damaged records that say so."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from openslip.config import ViewConfig, ViewsConfig
from openslip.data.augment import augment
from openslip.data.builder import SampleReader
from openslip.data.data import Data
from openslip.data.loader import Loader
from openslip.data.record import Record, Source
from openslip.errors import ConfigError, DataError
from openslip.needs import IMAGE, SSL_VIEWS, View
from openslip.tools.sheet import printable
from openslip.tools.show import MOST, contact_sheet, look, titles

CONFIG = ViewsConfig(size=24)
VIEWS = (IMAGE, *SSL_VIEWS)


@dataclass(eq=False)
class Pictures(Source):
    """Photo-like JPEGs, large enough for the loader to decode them smaller; record 2 is damaged, 3 cannot be read."""

    count: int = 6
    name: str = "pictures"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if index == 3:
            raise DataError("The file is gone")
        colours = np.random.default_rng(index).integers(0, 256, (5, 7, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colours).resize((700, 500), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        data = buffer.getvalue()
        return Record(
            data[:3000] if index == 2 else data, (f"picture {index}", "солнце"), f"key/{index}", self.name
        )


def reader(source: Pictures, seed: int) -> SampleReader:
    return SampleReader(source, VIEWS, CONFIG, seed, captions=0)


def test_views_are_those_of_the_first_epoch() -> None:
    loader = Loader(Data(Pictures(2)), views=VIEWS, config=CONFIG, tokenizer=None, batch=2, seed=5, workers=0)
    batch = next(iter(loader))
    for row, key in enumerate(batch.keys):
        shown = look(reader(Pictures(2), 5), row, augment)
        assert shown.key == key
        for name in ("image", "ssl_1", "ssl_2"):
            pixels = augment(batch.views[name], batch.parameters[name], (0, 0, 0), (1, 1, 1))[row]
            assert np.abs(shown.views[name] - 255 * pixels.permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-3


def test_damaged_records_say_why() -> None:
    by_index = {
        index: look(reader(Pictures(), 0), position, augment)
        for position in range(4)
        for index in [reader(Pictures(), 0).order.locate(position)[1]]
    }
    damaged, gone = by_index[2], by_index[3]
    assert (damaged.key, damaged.captions[0], damaged.picture, damaged.views) == (
        "key/2",
        "picture 2",
        None,
        {},
    )
    assert "truncated" in damaged.trouble
    assert (gone.key, gone.trouble) == ("#3", "The file is gone.")


def test_the_sheet() -> None:
    sheet = contact_sheet(Pictures(), CONFIG, augment=augment, count=4, seed=1, recipe="mine")
    again = contact_sheet(Pictures(), CONFIG, augment=augment, count=4, seed=1, recipe="mine")
    assert sheet.tobytes() == again.tobytes()
    other = contact_sheet(Pictures(), CONFIG, augment=augment, count=4, seed=2, recipe="mine")
    assert sheet.size == other.size
    assert sheet.tobytes() != other.tobytes()
    whole = contact_sheet(Pictures(), CONFIG, augment=augment, count=100)
    assert whole.height - sheet.height == 2 * 248  # all six, each once
    colours = np.asarray(whole.reduce(8)).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 500


def test_a_view_is_shown_without_smoothing() -> None:
    grey = ViewConfig(grayscale=1.0)
    sheet = contact_sheet(Pictures(1), ViewsConfig(size=2, image=grey, ssl=grey), augment=augment)
    views = np.asarray(sheet)[-100 - 24 : -24, -224 - 24 : -24]
    assert len(np.unique(views.reshape(-1, 3), axis=0)) == 2  # the lower two of its four pixels
    assert (views[..., 0] == views[..., 1]).all()


def test_any_caption_can_be_drawn() -> None:
    captions = ("a\0b\x1b[31m", "\ud800", "🏖️ كلب 沙滩", "x" * 100_000, "", " ")
    assert printable(captions[0] + captions[1]) == "a?b?[31m?"

    class Odd(Pictures):
        def __getitem__(self, index: int) -> Record:
            return Record(
                np.full((3, 300, 3), 9, np.uint8), captions[index : index + 1], "\u202e\0" * 400, "odd"
            )

    sheet = contact_sheet(Odd(len(captions)), CONFIG, augment=augment)
    assert sheet.width < 1500


def test_bad_calls() -> None:
    for count in (0, MOST + 1):
        with pytest.raises(ConfigError, match=f"1 to {MOST} records.*{count}"):
            contact_sheet(Pictures(), CONFIG, augment=augment, count=count)
    with pytest.raises(ConfigError, match=r"views\.ssl\.flip"):
        contact_sheet(Pictures(), ViewsConfig(ssl=ViewConfig(flip=2)), augment=augment)
    with pytest.raises(DataError, match="no records"):
        contact_sheet(Pictures(0), CONFIG, augment=augment)


def test_the_sheet_shows_the_views_of_a_loss() -> None:
    crops = tuple(View(f"crop_{number}", "local") for number in range(4))
    usual = contact_sheet(Pictures(1), CONFIG, augment=augment)
    assert contact_sheet(Pictures(1), CONFIG, augment=augment, views=VIEWS).size == usual.size
    assert contact_sheet(Pictures(1), CONFIG, augment=augment, views=VIEWS + crops).width > usual.width
    shown = look(SampleReader(Pictures(1), VIEWS + crops, CONFIG, 0, captions=0), 0, augment)
    sides = {name: view.shape[0] for name, view in shown.views.items()}
    assert sides == {"image": 24, "ssl_1": 24, "ssl_2": 24} | {crop.name: 16 for crop in crops}


def test_views_are_called_by_their_kind() -> None:
    crops = View("a", "local"), View("b", "local")
    assert titles((*VIEWS, *crops)) == [
        "view with the caption",
        "self-supervised 1",
        "self-supervised 2",
        "local crop 1",
        "local crop 2",
    ]
    assert titles((IMAGE, View("second", "image"))) == ["view with the caption 1", "view with the caption 2"]
