"""The check finds what is there, no more and no less, on any number of processes and ranks."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from check_fakes import ODD, PLAIN, Odds, encoded, index_of, pixels
from convert_fakes import Listed
from distributed.ranks import run_on
from openslip.data.header import Kind
from openslip.data.record import Record
from openslip.data.tokenizer import Tokenizer
from openslip.errors import ConfigError, DataError
from openslip.processes import joined
from openslip.tools.check import Summary, as_text, check, judge
from openslip.tools.check.facts import CAPTION, RECORD, Facts, Trouble, look
from openslip.tools.check.verdict import FIX, KNOW, STOP, megabytes, percent


@pytest.fixture(scope="module")
def summary() -> Summary:
    found = check(Odds(), processes=1)
    assert found is not None
    return found


def test_records(summary: Summary) -> None:
    assert (summary.checked, summary.total) == (53, 53)
    assert (summary.damaged, summary.unreadable, summary.silent) == (2, 1, 1)
    assert summary.usable == 53 - 4
    assert [(t.index, t.key) for t in summary.troubles] == [(33, "key/33"), (34, "key/34"), (35, "#35")]
    assert "truncated" in summary.troubles[0].reason


def test_images(summary: Summary) -> None:
    assert summary.formats() == {"JPEG": 45, "PNG": 3, "WEBP": 1, "pixels": 1}
    assert summary.kinds() == {
        Kind.GREY: 2,
        Kind.DEEP: 1,
        Kind.CMYK: 1,
        Kind.PALETTE: 1,
        Kind.ALPHA: 1,
        Kind.ANIMATED: 1,
        Kind.TURNED: 1,
    }
    assert summary.flat.tolist() == [index_of("one colour"), index_of("another colour")]
    order = summary.by_size()
    assert (order[0], order[-1]) == (index_of("small"), index_of("large"))
    turned = summary.records[index_of("turned by EXIF")]
    assert (turned["width"], turned["height"]) == (60, 90)
    assert summary.records["bytes"][0] == len(PLAIN[0][0])


def test_copies(summary: Summary) -> None:
    assert (summary.copies, summary.near_copies, summary.all_compared) == (2, 1, True)
    assert np.flatnonzero(summary.redundant).tolist() == [30]
    assert np.flatnonzero(summary.recaptioned).tolist() == [31]
    assert [group.tolist() for group in summary.groups(summary.twins, 9)] == [[3, 30, 31]]
    assert [group.tolist() for group in summary.groups(summary.lookalikes, 9)] == [[4, 32]]


@pytest.mark.parametrize(
    ("captions", "redundant", "recaptioned"),
    [
        ([("a",), ("a",), ("A ",)], [1, 2], []),
        ([("a",), ("b",), ("b",)], [2], [1]),
        ([("a", "b"), ("b",), ("b", "c"), ("c",)], [1, 3], [2]),
        ([(), ("a",), ()], [2], [1]),
        ([(), (), ("",)], [1, 2], []),
    ],
)
def test_copies_with_other_captions(captions, redundant: list[int], recaptioned: list[int]) -> None:
    """No caption is lost when the redundant ones go."""

    class Copies(Odds):
        def __getitem__(self, index: int) -> Record:
            return Record(PLAIN[0][0], captions[index], str(index), "copies")

    found = check(Copies(len(captions)), processes=1)
    assert found is not None
    assert np.flatnonzero(found.redundant).tolist() == redundant
    assert np.flatnonzero(found.recaptioned).tolist() == recaptioned


def test_captions(summary: Summary) -> None:
    texts = [caption for _, captions in [*PLAIN, *ODD] for caption in captions if caption.strip()]
    assert len(summary.captions) == len(texts) == 52
    twin = [len(Tokenizer().encode(text)) + 2 for text in texts]
    assert summary.captions["tokens"].tolist() == twin
    assert summary.over_long == 1
    assert summary.repeated == 2
    assert sorted(summary.most_repeated(5)) == [(2, 3, 0), (2, 7, 0)]
    assert summary.useless.tolist() == [index_of("IMG_2034.JPG")]
    assert summary.scripts() == {"Latin": 51, "Cyrillic": 1}


def test_captions_that_are_none_or_odd() -> None:
    captions = [
        "&nbsp;",
        "\u200b",
        "NULL",
        "<br/>",
        "caf\x92",
        "x \ufffd",
        "[{'a': 'b'}]",
        "<p>a dog</p>",
        "a dog",
    ]

    class Told(Odds):
        def __getitem__(self, index: int) -> Record:
            return dataclasses.replace(super().__getitem__(0), captions=(captions[index],))

    found = check(Told(len(captions)), processes=1)
    assert found is not None
    assert (found.silent, found.useless.tolist()) == (2, [2, 3])
    assert (found.misread, found.code) == (2, 3)
    findings = {finding.what: finding for finding in judge(found).findings}
    assert findings["Captions with characters of a wrong encoding"].count == 2
    assert findings["Captions that hold lists, objects or HTML"].level == FIX


def test_very_long_captions_are_counted_to_an_end() -> None:
    class Long(Odds):
        def __getitem__(self, index: int):
            return dataclasses.replace(super().__getitem__(index), captions=("!" * 5000, "! ! !", "\ud800"))

    found = check(Long(1), processes=1)
    assert found is not None
    assert found.captions["tokens"][:2].tolist() == [256, 5]


def equal(a: Summary, b: Summary) -> bool:
    return (
        (a.records == b.records).all()
        and (a.captions == b.captions).all()
        and a.keys == b.keys
        and a.troubles == b.troubles
        and (a.indices == b.indices).all()
    )


def test_processes_do_not_matter(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openslip.data.fanout._SPAN", 20)
    found = check(Odds(), processes=2)
    assert found is not None
    assert equal(found, summary)


def checked_by_ranks() -> Summary | None:
    with mock.patch("openslip.data.fanout._SPAN", 20), joined() as ranks:
        return check(Odds(), processes=1, ranks=ranks)


def test_ranks_do_not_matter(summary: Summary) -> None:
    first, *others = run_on(3, checked_by_ranks)
    assert others == [None, None]
    assert equal(first, summary)


@pytest.mark.parametrize("limit", [1, 7, 52, 53, 500])
def test_a_limit_is_spread_over_the_source(limit: int) -> None:
    found = check(Odds(), limit=limit, processes=1)
    assert found is not None
    assert found.checked == min(limit, 53) == len(np.unique(found.indices))
    if limit == 7:
        assert found.indices.tolist() == [0, 7, 15, 22, 30, 37, 45]
        assert "7 records of 53, spread over all" in as_text(found, judge(found))


def test_facts_travel_as_bytes() -> None:
    facts = look(Odds(), range(28, 40), lambda count: None)
    again = Facts.from_bytes(facts.to_bytes())
    assert again == facts
    assert len(again.records) == 12 * RECORD.itemsize
    assert len(again.captions) == len(facts.captions) > 0
    assert again.troubles[0] == Trouble(33, "key/33", facts.troubles[0].reason)
    assert Facts.from_bytes(Facts().to_bytes()) == Facts()
    assert (RECORD.itemsize, CAPTION.itemsize) == (321, 12)  # as the docstring of `check` says


def test_few_troubles_are_kept_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openslip.tools.check.facts.MOST_LISTED", 2)
    monkeypatch.setattr("openslip.data.fanout._SPAN", 1)
    found = check(Odds(), processes=1)
    assert found is not None
    assert (len(found.troubles), found.damaged + found.unreadable) == (2, 3)


def test_the_verdict(summary: Summary) -> None:
    verdict = judge(summary, max_skipped=0.1)
    assert verdict.good
    assert verdict.sentence == "It can be trained on: 49 of 53 records are usable"
    counts = {finding.what: finding.count for finding in verdict.findings}
    assert counts == {
        "Records that cannot be read": 1,
        "Damaged images": 2,
        "Records without a caption": 1,
        "Exact copies of another image": 1,
        "Exact copies of another image, with other captions": 1,
        "Near copies of another image": 1,
        "Blank images": 2,
        "Images less than 64 pixels wide or high": int((summary.sizes.min(axis=1) < 64).sum()),
        "Animated images": 1,
        "CMYK images": 1,
        "Images of more than 8 bits a channel": 1,
        "Images with transparency": 1,
        "Images turned by their EXIF data": 1,
        "Grey images": 2,
        "Images with a palette": 1,
        "Records with a caption that says nothing": 1,
        "Captions that say the same as one before": 2,
        "Captions of more than 77 tokens": 1,
        "Captions not in Latin script (Cyrillic)": 1,
    }
    levels = [finding.level for finding in verdict.findings]
    assert levels == sorted(levels, key=(STOP, FIX, KNOW).index)
    assert all(finding.advice for finding in verdict.findings)
    text = as_text(summary, verdict, 80)
    assert max(map(len, text.splitlines())) <= 120
    assert "Damaged images: 2 (3.8 %)." in text
    assert text.endswith("49 of 53 records are usable.")


def test_too_much_that_is_unusable(summary: Summary) -> None:
    verdict = judge(summary)  # 4 of 53 are more than 5 %
    assert not verdict.good
    assert "only 49 of 53 records" in verdict.sentence
    assert [finding.level for finding in verdict.findings[:3]] == [STOP, STOP, STOP]
    bare = check(Odds(), needs_captions=False, processes=1)
    assert bare is not None
    assert bare.usable == 50
    assert "Records without a caption" in [f.what for f in judge(bare).findings if f.level == KNOW]


def test_sources_without_captions() -> None:
    class Bare(Odds):
        def __getitem__(self, index: int):
            return dataclasses.replace(super().__getitem__(index), captions=())

    found, optional = (check(Bare(10), needs_captions=needs, processes=1) for needs in (True, False))
    assert found is not None
    assert optional is not None
    assert not judge(found).good
    assert "simclr" in judge(found).sentence
    assert judge(optional).good
    assert len(optional.captions) == 0


def test_fewer_than_a_batch_cannot_be_trained_on() -> None:
    found = check(Odds(3), processes=1)
    assert found is not None
    assert judge(found).good
    assert judge(found, batch=3).good
    verdict = judge(found, batch=4)
    assert not verdict.good
    assert "3 of 3 records are usable, and a step takes 4" in verdict.sentence
    part = check(Odds(30), limit=3, processes=1)
    assert part is not None
    assert judge(part, batch=30).good  # the other 27 are taken to be like these


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        (
            ["The image file does not exist. Got: 'a'."] * 2,
            "Why: 2 × the image file does not exist. `--data.image-root` is wrong, or the files are gone.",
        ),
        (
            [
                "The sidecar is no JSON. Got: 1.",
                "The sidecar is no JSON. Got: 2.",
                "The image file does not exist",
            ],
            "Why: 2 × The sidecar is no JSON; 1 × the image file does not exist.",
        ),
    ],
)
def test_why_records_cannot_be_read_is_said(reasons: list[str], said: str) -> None:
    class Broken(Odds):
        def __getitem__(self, index: int) -> Record:
            if index < len(reasons):
                raise DataError(reasons[index])
            return super().__getitem__(index)

    found = check(Broken(30), processes=1)
    assert found is not None
    advice = next(f.advice for f in judge(found, 0.5).findings if f.what == "Records that cannot be read")
    assert said in advice
    assert ("--image-root" in advice) == ("--image-root" in said)


def test_nothing_usable() -> None:
    class Broken(Odds):
        def __getitem__(self, index: int):
            raise DataError("The disk is gone")

    found = check(Broken(5), processes=1)
    assert found is not None
    verdict = judge(found)
    assert (verdict.good, verdict.findings[0].count) == (False, 5)
    assert "not one of 5 records is usable" in verdict.sentence
    assert as_text(found, verdict)


def test_large_pictures_are_worth_a_word() -> None:
    class Large(Odds):
        def __getitem__(self, index: int) -> Record:
            return Record(encoded(pixels(index, 1536, 1024)), ("a",), str(index), "large")

    found = check(Large(2), processes=1)
    assert found is not None
    advice = {finding.what: finding.advice for finding in judge(found).findings}
    # 384 × 256 of 1536 × 1024 pixels are a sixteenth
    assert "6.2 % of the pixels" in advice["Images whose short side has more than 512 pixels"]


def test_bad_calls() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        check(Odds(), limit=-1)
    with pytest.raises(DataError, match="no records"):
        check(Odds(0))


def test_shares_and_sizes_in_words() -> None:
    assert [percent(share) for share in (0, 0.0001, 0.012, 0.05, 0.5, 0.9999, 1)] == [
        *("0 %", "under 0.1 %", "1.2 %", "5 %", "50 %", "over 99.9 %", "100 %"),
    ]
    assert [megabytes(size) for size in (0, 1_700_000, 250_000_000, 12 * 10**9, 12 * 10**11)] == [
        *("0.0 MB", "1.7 MB", "250 MB", "12.0 GB", "1,200 GB"),
    ]


def deep(levels, format="PNG") -> bytes:
    return encoded(Image.fromarray(levels), format)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_few_bits_in_a_file_of_16_are_nearly_black(bits: int) -> None:
    """They are not scaled, for nobody knows how; and they are not blank, but for one that is."""
    ramp = np.linspace(0, 1, 90)[None] * np.linspace(1, 0.2, 80)[:, None]
    levels = ((2**bits - 1) * ramp).astype(np.uint16)
    images = [
        deep(levels),
        deep(levels.T.copy(), "TIFF"),
        deep(levels.astype(np.int32), "TIFF"),
        deep(np.full_like(levels, 9)),
        deep((65535 * ramp).astype(np.uint16)),
        encoded(Image.fromarray((10 * ramp).astype(np.uint8)), "PNG"),
    ]
    records = [Record(image, ("a",), f"{k}", "deep") for k, image in enumerate(images)]
    summary = of(records)
    assert summary.dark.tolist() == [0, 1, 2, 3]
    assert summary.flat.tolist() == [3]
    (found,) = (finding for finding in judge(summary).findings if finding.what.startswith("Nearly black"))
    assert (found.level, found.count, found.of) == (FIX, 4, 6)
    assert f"{bits}-bit data in a 16-bit file" in found.advice
    assert f"multiply {2 ** (16 - bits)}" in found.advice
    assert all(not finding.what.startswith("Nearly") for finding in judge(of(records[4:])).findings)


def of(records: list[Record]) -> Summary:
    summary = check(Listed(records), processes=1)
    assert summary is not None
    return summary
