"""The split of data that came without."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slip.evaluation.datasets import splits


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_held_out_is_a_stratified_fifth(labels):
    labels = np.array(labels)
    keys = [f"{i}" for i in range(len(labels))]
    test = splits.held_out(keys, labels)
    for label in set(labels.tolist()):
        total, held_out = (labels == label).sum(), (labels[test] == label).sum()
        assert held_out == (0 if total == 1 else max(1, round(0.2 * total)))
