"""What is missing or wrong in a JPEG is noticed, whatever decodes it; what is only odd passes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from openslip.data import jpeg, limits
from openslip.data.decode import decode
from openslip.data.header import header
from openslip.errors import DataError

DECODERS = ("auto", "pillow")
TEXTURE = np.random.default_rng(0).normal(0, 20, (240, 320, 3))
PICTURE = Image.fromarray(
    np.clip(np.linspace(60, 180, 320)[:, None] + TEXTURE, 0, 255).astype(np.uint8)
)  # as many bits a block as photos have, and no two alike


def encoded(mode="RGB", format="JPEG", **options):
    buffer = io.BytesIO()
    PICTURE.convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


PLAIN = encoded(quality=85)
KINDS = {
    "plain": PLAIN,
    "high quality": encoded(quality=98, subsampling=0),
    "optimised": encoded(optimize=True),
    "progressive": encoded(progressive=True),
    "restart intervals": encoded(restart_marker_rows=1),
    "grey": encoded("L"),
    "cmyk": encoded("CMYK"),
    "progressive cmyk": encoded("CMYK", progressive=True),
    "two pictures": encoded(format="MPO", save_all=True, append_images=[PICTURE.rotate(180)]),
}
DAMAGES = ("zero tail", "cut off", "zeros inside", "noise inside", "plain noise inside")


def damaged(data, damage):
    """As disks, downloads and file systems damage files; an end is put on all of them."""
    end = data.index(b"\xff\xd9", data.index(b"\xff\xda"))
    start = data.index(b"\xff\xda")
    middle, size = (start + end) // 2, min(4096, (end - start) // 4)
    noise = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    put = {
        "zeros inside": bytes(size),
        "noise inside": noise,
        "plain noise inside": noise.replace(b"\xff", b"~"),
    }
    if damage in put:
        return data[:middle] + put[damage] + data[middle + size :]
    return data[:middle] + (bytes(end - middle) if damage == "zero tail" else b"") + data[end:]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("min_side", [0, 30])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed(kind, damage, min_side, decoder):
    with pytest.raises(DataError):
        decode(damaged(KINDS[kind], damage), min_side, decoder)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"two pictures"}))
def test_zeros_are_noticed_wherever_they_are(kind):
    """Also where the decoder takes them for blocks, as many as were there: that happens."""
    data = KINDS[kind]
    start = data.index(b"\xff\xda") + 14
    for place in np.random.default_rng(2).integers(start, len(data) - 600, 40):
        with pytest.raises(DataError):
            decode(data[:place] + bytes(520) + data[place + 520 :])


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"quality": 100}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("colour", ["white", "black", "red"])
def test_even_pictures_are_no_holes(colour, mode, options):
    """Their code is zeros, if their tables are made for them."""
    picture = Image.new("RGB", (1500, 1000), colour)
    picture.paste(PICTURE, (700, 300))
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, "JPEG", **options)
    assert decode(buffer.getvalue()).shape == (1000, 1500, 3)


def test_holes_before_and_after_the_scan_do_not_matter():
    empty = segment(0xED, bytes(4096))
    data = PLAIN[:2] + empty + PLAIN[2:-2] + empty + PLAIN[-2:] + bytes(4096)
    np.testing.assert_array_equal(decode(data), decode(PLAIN))


def test_what_is_wrong_is_said():
    with pytest.raises(DataError, match=r"damaged or truncated.*libjpeg-turbo says.*premature end"):
        decode(damaged(PLAIN, "cut off"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_missing_end_is_missing_data(decoder):
    """The picture may be whole, but the file is not."""
    with pytest.raises(DataError, match="truncated"):
        decode(PLAIN[:-2], decoder=decoder)


GOOD = KINDS | {
    "half colours": encoded(subsampling=2),
    "half colours across": encoded(subsampling=1),
    "turned": encoded(exif=turned()),
    "thumbnail": PLAIN[:2] + segment(0xE1, b"Exif\0\0" + encoded(quality=10)) + PLAIN[2:],
    "damaged thumbnail": PLAIN[:2] + segment(0xED, damaged(encoded(quality=10), "cut off")) + PLAIN[2:],
    "encoded anew": encoded("L", quality=95, optimize=True, progressive=True),
    "zeros after the end": PLAIN + bytes(1000),
    "text after the end": PLAIN + b"<!-- appended -->\r\n",
    "noise after the end": PLAIN + TEXTURE.tobytes()[:5000],
    "padded before the end": PLAIN[:-2] + bytes(jpeg.SURPLUS) + PLAIN[-2:],
    "filled before the end": PLAIN[:-2] + b"\xff" * 30 + PLAIN[-2:],
    "unknown version": PLAIN.replace(b"JFIF\0\1", b"JFIF\0\7"),
    "odd parameters of the scan": PLAIN.replace(b"\x03\x11\x00\x3f\x00", b"\x03\x11\x00\x05\x00"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("min_side", [0, 30])
@pytest.mark.parametrize("kind", GOOD)
def test_oddities_pass_and_cost_nothing(kind, min_side, decoder):
    """The pixels are those that Pillow gives, turned as they should be."""
    opened = Image.open(io.BytesIO(GOOD[kind]))
    if min_side:
        opened.draft(None, (min_side, min_side))
    expected = np.asarray(opened.convert("RGB"))
    if kind == "turned":
        expected = np.rot90(expected, -1)
    np.testing.assert_array_equal(decode(GOOD[kind], min_side, decoder), expected)


def test_the_odd_ones_are_really_odd():
    plain = {
        kind for kind, data in GOOD.items() if kind.startswith(("unknown", "odd", "padded")) and data == PLAIN
    }
    assert not plain
    for kind in ("unknown version", "odd parameters of the scan"):
        assert jpeg.read(GOOD[kind]) is None  # left to Pillow


def test_a_few_bytes_too_many_are_no_damage_but_more_are():
    ahead = 16  # that the decoder may have read already
    with pytest.raises(DataError, match="extraneous bytes before marker 0xd9"):
        decode(PLAIN[:-2] + bytes(jpeg.SURPLUS + ahead) + PLAIN[-2:])


@pytest.mark.parametrize(
    ("kind", "samples"),
    [
        ("plain", 0),
        ("restart intervals", 0),
        ("cmyk", 0),
        ("progressive", 320 * 240 * 3 // 2),
        ("progressive cmyk", 320 * 240 * 4),
    ],
)
def test_coefficients_that_are_held(kind, samples):
    assert jpeg.held(KINDS[kind]) == 2 * samples


def test_scans_of_one_component_are_held():
    """Sequential, but the components come one after the other."""
    frame = segment(0xC0, bytes([8, 1, 0, 2, 0, 3]) + b"\1\x22\0" + b"\2\x11\0" + b"\3\x11\0")  # 512 × 256
    one, three = segment(0xDA, b"\1\1\0\0\x3f\0"), segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0")
    assert jpeg.held(b"\xff\xd8" + frame + one) == 2 * 512 * 256 * 3 // 2
    assert jpeg.held(b"\xff\xd8\xff\xff" + frame + three) == 0  # after fill bytes
    for nothing in (b"\xff\xd8", b"\xff\xd8" + frame, b"\xff\xd8" + one):
        assert jpeg.held(nothing) == 0


def with_scans(times):
    """A progressive picture whose last scan comes so many times more."""
    data = encoded(progressive=True)
    scan, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[scan:end] * times + data[end:]


def test_scans_are_counted_before_they_are_decoded(monkeypatch):
    samples = 320 * 240 * 3 // 2
    few, many = with_scans(0), with_scans(60)
    assert 0 < jpeg.visited(few) <= 10 * samples
    monkeypatch.setattr(limits, "SAMPLES", 20 * samples)
    assert decode(few).shape == (240, 320, 3)
    for min_side in (0, 30):
        with pytest.raises(DataError, match=r"takes too much to be read.*320 × 240.*values to visit"):
            decode(many, min_side)


def test_a_scan_counts_for_its_components(monkeypatch):
    """A usual picture passes where each of its scans counted for all components would not."""
    data = encoded(progressive=True, subsampling=0)
    samples = 320 * 240
    # All, and again their last bits; of brightness four more, of each colour two.
    monkeypatch.setattr(limits, "SAMPLES", 1_000 * samples)
    assert jpeg.visited(data) == 10 * 3 * samples
    monkeypatch.setattr(limits, "SAMPLES", 14 * samples)
    assert jpeg.visited(data) == 14 * samples


@pytest.mark.parametrize(
    "segments",
    [
        segment(0xE1, b"Exif\0\0II*\0" + bytes(60_000)) * 300,
        segment(0xEC, b"") * 3000,
        segment(0xFE, b"") * 3000,
        b"\xff" * 50_000,
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * 10,
    ],
)
def test_segments_that_take_long_to_read_are_counted(segments, monkeypatch):
    monkeypatch.setattr(limits, "SAMPLES", 14_000_000)
    data = PLAIN[:2] + segments + PLAIN[2:]
    for read in (decode, header):
        with pytest.raises(DataError, match="takes too much to be read"):
            read(data)
    assert decode(PLAIN[:2] + segment(0xE2, bytes(60_000)) * 100 + PLAIN[2:]).shape == (240, 320, 3)
