"""A soak tells memory that grows from memory that is steady after a while."""

from collections.abc import Callable

import pytest

from tests.faults.elastic_soak import judged


@pytest.mark.parametrize(
    ("kb", "growth", "passed"),
    [
        (lambda number: 900_000 - 500_000 * (number < 20), 0.0, True),  # as it starts
        (lambda number: 900_000 + 100 * number, 0.008, True),
        (lambda number: 900_000 + 500 * number, 0.0396, False),
    ],
)
def test_growth_after_the_start_is_judged(kb: Callable[[int], int], growth: float, passed: bool) -> None:
    found = judged([{"kb": kb(number), "files": 67, "threads": 17} for number in range(100)])
    assert found["memory_growth"] == pytest.approx(growth, abs=1e-3)
    assert found["passed"] is passed
    over_time = found["memory_mb"]["over_time"]
    assert len(over_time) == 13  # of 8 samples each
    assert over_time[-1] == pytest.approx(found["memory_mb"]["most"], abs=1.5)


def test_a_thread_more_is_no_pass() -> None:
    found = judged([{"kb": 900_000, "files": 67, "threads": 17 + (number > 90)} for number in range(100)])
    assert not found["passed"]
