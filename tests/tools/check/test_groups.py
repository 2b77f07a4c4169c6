from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from check_fakes import pixels
from openslip.tools.check import groups
from openslip.tools.check.facts import CAPTION, DAMAGED, FINE, RECORD, USELESS
from openslip.tools.check.fingerprints import perceptual, thumbnail
from openslip.tools.check.groups import COMMON, NONE, components, group, most_in_common
from openslip.tools.check.near import DISTANCE, TINT, alike

# Of each picture two sizes, which are near copies of each other.
LOOKS = [thumbnail(np.asarray(pixels(seed, *size))) for seed in range(6) for size in ((90, 60), (180, 120))]

# A record: its picture, whether that is damaged, what its captions say.
RECORDS = st.tuples(st.integers(0, len(LOOKS) - 1), st.booleans(), st.lists(st.integers(1, 6), max_size=2))
SETS = st.lists(RECORDS, max_size=10)


def facts(rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays of records that each have a picture, damage, captions; 1 is a caption that says nothing."""
    records = np.zeros(len(rows), RECORD)
    texts: list[int] = []
    for row, (look, damaged, said) in zip(records, rows):
        row["state"], row["content"], row["captions"] = DAMAGED if damaged else FINE, 7 * look + 5, len(said)
        row["look"] = LOOKS[look % len(LOOKS)]
        texts += said
    captions = np.zeros(len(texts), CAPTION)
    captions["text"] = texts
    captions["flags"] = np.where(captions["text"] == 1, USELESS, 0)
    return records, captions


def tied(one, other) -> bool:
    """Whether two records belong together, by looking at all that they have."""
    if set(one[2]) & set(other[2]) - {1} or one[0] == other[0]:
        return True
    looks = np.array([LOOKS[one[0]], LOOKS[other[0]]])
    a, b = perceptual(looks["grey"]).tolist()
    tints = looks["tint"].astype(int)
    near = (a ^ b).bit_count() <= DISTANCE and np.abs(tints[0] - tints[1]).max() <= TINT
    return near and bool(alike(looks, np.array([0]), np.array([1]))[0])


def slow(rows) -> list[set[int]]:
    """Return the groups, each record added to all groups that it is tied to."""
    found: list[set[int]] = []
    for number, row in enumerate(rows):
        if not row[1]:
            mine = [g for g in found if any(tied(row, rows[other]) for other in g)]
            found = [g for g in found if g not in mine] + [{number}.union(*mine)]
    return found


def as_sets(keys: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(keys == key).tolist()) for key in np.unique(keys[keys != NONE])]


def test_the_two_sizes_are_near_copies() -> None:
    assert all(tied((k, False, []), (k + 1, False, [])) for k in range(0, len(LOOKS), 2))
    assert not tied((0, False, []), (2, False, []))


@given(rows=SETS)
@settings(max_examples=150)
def test_the_groups_of_the_slow_way(rows) -> None:
    found = group(*facts(rows))
    assert sorted(map(sorted, as_sets(found.keys))) == sorted(map(sorted, slow(rows)))
    assert (found.common_captions, found.common_pictures, found.complete) == (0, 0, True)


@given(rows=SETS, order=st.randoms(use_true_random=False))
def test_no_order_matters(rows, order) -> None:
    numbers = list(range(len(rows)))
    order.shuffle(numbers)
    shuffled = group(*facts([rows[number] for number in numbers]))
    assert shuffled.keys.tolist() == group(*facts(rows)).keys[numbers].tolist()


@given(rows=SETS, more=SETS)
def test_groups_that_no_new_record_joins_keep_their_keys(rows, more) -> None:
    before, after = group(*facts(rows)).keys, group(*facts(rows + more)).keys
    for members in slow(rows + more):
        if max(members) < len(rows):
            assert (before[list(members)] == after[list(members)]).all()


def test_a_label_ties_nothing_together() -> None:
    """A caption that a tenth of the records have, and more than ten, or more than a hundred."""
    assert [most_in_common(n) for n in (3, 100, 200, 1000, 10**9)] == [10, 10, 20, 100, 100]
    rows = [(1000 + k, False, [2 if k < 11 else 3 if k < 21 else 1000 + k]) for k in range(99)]
    records, captions = facts(rows)
    records["flat"] = True  # of which there are no near copies
    found = group(records, captions)
    assert len(set(found.keys[:11].tolist())) == 11
    assert len(set(found.keys[11:21].tolist())) == 1
    assert (found.common_captions, found.common_pictures) == (1, 0)


def test_a_placeholder_ties_nothing_together() -> None:
    """Records with a picture that too many have are told apart by their captions."""
    many = COMMON + 1
    rows = [(0, False, [100 + k // 2]) for k in range(many)] + [(2, False, [100])]
    found = group(*facts(rows))
    assert found.common_pictures == 1
    expected = [set(range(k, min(k + 2, many))) for k in range(0, many, 2)]
    expected[0].add(many)
    assert sorted(map(sorted, as_sets(found.keys))) == sorted(map(sorted, expected))


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))
    )
)
def test_components(case) -> None:
    count, edges = case
    labels = list(range(count))
    for _ in range(count):
        for a, b in edges:
            labels[a] = labels[b] = min(labels[a], labels[b])
    a, b = np.array(edges, np.int64).reshape(-1, 2).T
    assert components(count, a, b).tolist() == labels


def test_keys_are_spread_evenly() -> None:
    """Also those of large groups, whose smallest digest is small."""
    values = np.sort(groups.mixed(np.arange(1000, dtype=np.uint64))).astype(float) / 2**64
    assert np.abs(values - np.arange(1000) / 1000).max() < 0.05
