import pytest

from openslip.data.limits import Budget
from openslip.errors import DataError


def test_a_budget_is_drawn_down_to_its_last_byte_and_no_further() -> None:
    budget = Budget("The member", "a.zip", memory=10_000_000, samples=5)
    budget.draw(memory=10_000_000, samples=5)
    with pytest.raises(
        DataError, match=r"The member takes too much.*'a.zip'.*12 MB.*more than the 10 allowed"
    ):
        budget.draw(memory=2_000_000)


def test_work_is_counted_beside_memory() -> None:
    budget = Budget("The picture", samples=3_000_000)
    with pytest.raises(DataError, match="4 million values to visit, more than the 3 allowed"):
        budget.draw(samples=4_000_000)
