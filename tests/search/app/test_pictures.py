"""Pictures that are sent and shown: their bytes tell their kind, their size is limited, and no path leads to them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openslip.data.record import Record, Source
from openslip.encoder import Encoder
from openslip.search.app import pictures
from openslip.search.app.pictures import Pictures
from openslip.search.app.refusals import Refusal
from openslip.search.embed import embed
from openslip.search.index import Index
from search.app.served import COUNT, Client, jpeg, make_collection, pixels
from toys import toy_model


def file_of(array: np.ndarray, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format, **options)
    return buffer.getvalue()


class Given(Source):
    """Pictures that a test gives."""

    name = "given"

    def __init__(self, images: list[bytes | np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        return Record(self.images[index], ("a caption",), str(index), self.name)


def shown(images: list[Any], folder: Path, **options: Any) -> Pictures:
    """Return the pictures of an index of `images`."""
    source = Given(images)
    embed(Encoder(*toy_model()), source, folder, precision="fp32")
    index = Index.open(folder)
    index.source = source
    return Pictures(index, **options)


def test_pictures_come_as_they_are_with_the_kind_that_their_bytes_tell(client: Client, index: Index) -> None:
    for row, kind in ((0, "image/png"), (1, "image/jpeg")):
        reply = client.get(f"/picture/{row}")
        assert (reply.status, reply.headers["content-type"]) == (200, kind)
        assert reply.body == index.picture(row)


def test_formats_that_browsers_do_not_show_are_encoded_anew(tmp_path: Path) -> None:
    files = [file_of(pixels(0), "TIFF"), file_of(pixels(0), "BMP"), file_of(pixels(0), "WEBP", lossless=True)]
    found = shown([*files, pixels(0)], tmp_path / "vectors")
    assert [found.whole(row).kind for row in range(4)] == [
        "image/jpeg",
        "image/jpeg",
        "image/webp",
        "image/png",
    ]
    assert found.whole(2).content == files[2]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found.whole(3).content))), pixels(0))


def test_thumbnails_are_small_and_upright_and_keep_their_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = rng.integers(0, 255, (1200, 1600, 3), dtype=np.uint8)
    long = rng.integers(0, 255, (30, 4000, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = file_of(large, "JPEG", exif=exif.tobytes())
    found = shown([file_of(large, "JPEG"), long, turned, pixels(0)], tmp_path / "vectors")
    sizes = [Image.open(io.BytesIO(found.thumbnail(row).content)).size for row in range(4)]
    assert sizes == [(341, 256), (768, 30), (256, 341), (56, 40)]
    assert all(found.thumbnail(row).kind == "image/jpeg" for row in range(4))


def test_thumbnails_are_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown([pixels(n) for n in range(6)], tmp_path / "vectors", kept=4000)
    read: list[int] = []
    real = Index.picture
    monkeypatch.setattr(Index, "picture", lambda index, row: (read.append(row), real(index, row))[1])
    size = len(found.thumbnail(0).content)
    for row in (0, 0, 1, 0, 2, 3, 4, 5):
        found.thumbnail(row)
    assert read == [0, 1, 2, 3, 4, 5]
    assert found._bytes <= 4000 < 6 * size
    assert found.thumbnail(5) is found.thumbnail(5)
    found.thumbnail(1)
    assert read[-1] == 1


def test_a_picture_that_is_there_already_is_not_sent_again(client: Client) -> None:
    first = client.get("/thumbnail/3")
    assert first.headers["cache-control"] == "private, no-cache"
    again = client.get("/thumbnail/3", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    version = client.get("/about").json["version"]
    assert "immutable" in client.get(f"/thumbnail/3?v={version}").headers["cache-control"]
    assert "immutable" not in client.get("/thumbnail/3?v=other").headers["cache-control"]
    assert client.ask("HEAD", "/thumbnail/3").headers["content-length"] == str(len(first.body))


def test_pictures_that_have_gone_or_changed_are_said_to_have(tmp_path: Path) -> None:
    index = Index.open(make_collection(tmp_path, 2))
    paths = [Path(record["path"]) for record in index.records([0, 1]).to_pylist()]
    paths[0].unlink()
    paths[1].write_bytes(b"<html><script>alert(1)</script>")
    for row, words in ((0, "does not exist"), (1, "not the one that was embedded")):
        for call in (Pictures(index).whole, Pictures(index).thumbnail):
            with pytest.raises(Refusal, match=words) as caught:
                call(row)
            assert caught.value.http == 404


@pytest.mark.parametrize("row", [str(COUNT), "9" * 30, "9" * 5000, "-1", "1.0", "%C2%B2", "..%2f0"])
def test_rows_that_are_not_there(client: Client, row: str) -> None:
    for path in ("picture", "thumbnail", "record"):
        reply = client.get(f"/{path}/{row}")
        assert reply.status == 404
        assert "%2f" in row or "no such row" in reply.json["error"]


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (SVG, "SVG"),
        (b"<!doctype html><script>alert(1)</script>", "web page"),
        (jpeg(0)[:-200], "damaged or truncated"),
        (b"MZ" + bytes(200), "a program"),
    ],
)
def test_what_is_no_picture_is_refused_whatever_it_is_called(
    client: Client, content: bytes, words: str
) -> None:
    for path in ("/search", "/embed", "/classify?name=a"):
        reply = client.post(path, content, Content_Type="image/jpeg")
        assert reply.status == 415
        assert words in reply.json["error"]


def test_an_empty_picture_is_refused(client: Client) -> None:
    for path in ("/embed", "/classify?name=a"):
        assert client.post(path, b"", Content_Type="image/jpeg").status == 400


def test_pictures_of_too_many_pixels_are_refused_before_they_are_decoded(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = file_of(np.zeros((400, 400), np.uint8), "PNG")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 400 * 400 - 1)
    reply = client.post("/embed", bomb, Content_Type="image/png")
    assert reply.status == 415
    assert "more than 0 million pixels. Got: '400 × 400 pixels'" in reply.json["error"]
