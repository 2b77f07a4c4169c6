from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_fakes import color_folder
from openslip.data.labelled import load_labelled
from openslip.evaluation import fingerprint

NAMES = ("cat", "dog", "owl")


def test_pictures_differ_by_bytes_and_by_shape():
    pixels = np.arange(24, dtype=np.uint8)
    shapes = [pixels.reshape(2, 4, 3), pixels.reshape(4, 2, 3), pixels.reshape(2, 4, 3) + 1]
    digests = [fingerprint.of_picture(image) for image in [*shapes, pixels.tobytes(), b"", b"a"]]
    assert len(set(digests)) == len(digests)
    assert {len(digest) for digest in digests} == {16}


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.integers(0, 2)), max_size=8), st.data())
def test_the_order_of_pictures_and_of_classes_does_not_matter(pictures, data):
    digests, labels = (
        [fingerprint.of_picture(image) for image, _ in pictures],
        [label for _, label in pictures],
    )
    expected = fingerprint.of_labelled(digests, labels, NAMES)
    order = data.draw(st.permutations(range(len(pictures))))
    classes = data.draw(st.permutations(range(3)))
    moved = [classes.index(labels[i]) for i in order]
    assert (
        fingerprint.of_labelled([digests[i] for i in order], moved, [NAMES[c] for c in classes]) == expected
    )


def test_a_label_a_name_a_picture_more_or_another_picture_matter():
    digests = [fingerprint.of_picture(bytes([i])) for i in range(3)]
    told = [
        fingerprint.of_labelled(digests, [0, 1, 2], NAMES),
        fingerprint.of_labelled(digests, [0, 1, 1], NAMES),
        fingerprint.of_labelled(digests, [0, 1, 2], ("cat", "dog", "eagle")),
        fingerprint.of_labelled(digests, [0, 1, 2], (*NAMES, "eagle")),
        fingerprint.of_labelled(digests[:2], [0, 1], NAMES),
        fingerprint.of_labelled([*digests, digests[0]], [0, 1, 2, 0], NAMES),
        fingerprint.of_labelled([digests[0], digests[1], digests[1]], [0, 1, 2], NAMES),
    ]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_split_is_read_whole_in_any_number_of_threads(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(fingerprint, "CHUNK", 4)
    root, done = color_folder(tmp_path / "colors", {"red": 5, "green": 4}), []
    split = load_labelled(str(root), "train")
    found = fingerprint.of_pictures(split, threads, done.append)
    assert found == [fingerprint.of_picture(image) for image in split.images]
    assert sum(done) == 9
    (root / "train/red/000.png").unlink()
    red = split.labels.tolist().index(split.class_names.index("red"))
    assert fingerprint.of_pictures(split, threads) == [*found[:red], b"unreadable", *found[red + 1 :]]


def test_samples_are_told_by_what_they_are_made_of():
    parts = [(b"1", "cat"), (b"1", "dog"), (b"2", "cat"), (b"1",), (b"1c", "at")]
    found = fingerprint.of_samples(parts)
    assert len({*found.tolist()}) == len(parts)
    assert fingerprint.of_samples(parts[::-1]).tolist() == found.tolist()[::-1]
    assert fingerprint.of_samples([]).shape == (0,)
