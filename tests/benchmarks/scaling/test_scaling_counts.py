"""Counts of GPUs are read as meant, or refused with what to write instead."""

import pytest

from benchmarks.lib.scaling.gpu_counts import check_limit, parse_counts
from data_pipelines.common.errors import InputError


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1", (1,)),
        ("1,4,8,16", (1, 4, 8, 16)),
        ("1,4,...,1024", (1, 4, 16, 64, 256, 1024)),
        ("1, 2, 4, …, 32", (1, 2, 4, 8, 16, 32)),
        ("1,4,8,...,64", (1, 4, 8, 16, 32, 64)),
        ("2,6,...,18", (2, 6, 18)),
    ],
)
def test_counts(text: str, counts: tuple[int, ...]) -> None:
    assert parse_counts(text) == counts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4,1", "ascending"),
        ("1,4,4", "ascending"),
        ("0,1", "at least 1"),
        ("-1", "at least 1"),
        ("1,,2", "at least 1"),
        ("1,2.5", "at least 1"),
        ("²,4", "at least 1"),
        ("1,...,8", "after two that show the ratio"),
        ("...,8", "after two that show the ratio"),
        ("1,2,...", "before the last count"),
        ("1,2,...,8,16", "before the last count"),
        ("2,3,...,8", "not a multiple"),
        ("1,1,...,8", "not a multiple"),
        ("1,4,...,1000", "gives 256 and 1024, but not 1000"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_counts(text)


def test_the_limit_is_named() -> None:
    check_limit((1, 3744), 3744, "the booster")
    with pytest.raises(InputError, match="the booster has 3744"):
        check_limit((1, 3745), 3744, "the booster")
