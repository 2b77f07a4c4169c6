from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.schedule import Schedule
from openslip.errors import ConfigError


def supervised(schedule: Schedule, position: int) -> bool:
    return schedule.before(position + 1) > schedule.before(position)


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0.05, 1), st.integers(0, 9), st.integers(0, 12))
def test_counts_as_many_rows_as_the_steps_before_had(batch, every, share, start, step) -> None:
    if share < 1 and round(share * batch) < 2:
        return
    schedule = Schedule(batch, every, share, start)
    having = [s for s in range(step) if s in range(start, step, every)]
    assert [s for s in range(step) if schedule.on(s)] == having
    assert schedule.before(0) == 0
    rows = [sum(supervised(schedule, s * batch + row) for row in range(batch)) for s in range(step)]
    assert rows == [round(share * batch) if s in having else 0 for s in range(step)]
    assert schedule.before(step * batch) == sum(rows)


@given(st.integers(1, 40), st.integers(0, 200))
def test_without_settings_every_sample_is_counted(batch: int, position: int) -> None:
    schedule = Schedule(batch)
    assert schedule.always
    assert schedule.every_step
    assert not Schedule(batch, start=1).always
    assert schedule.before(position) == position


@pytest.mark.parametrize("world", [2, 4, 8])
def test_processes_get_equal_numbers(world: int) -> None:
    schedule, part = Schedule(64, 2, 0.25), 64 // world
    for start in (0, 128):
        counts = {
            schedule.before(start + (r + 1) * part) - schedule.before(start + r * part) for r in range(world)
        }
        assert counts == {16 // world}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"every": 0}, "objective.ssl_every"),
        ({"share": 0.0}, "objective.ssl_share"),
        ({"share": 1.5}, "objective.ssl_share"),
        ({"share": 0.1}, "two rows.*0.1 of training.batch 8"),
    ],
)
def test_impossible_settings(settings: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Schedule(8, **settings)
