"""Targets of one name are one column only where they are one set."""

from pathlib import Path
from typing import Any

import pytest
from made_results import seeds, write_results

from trainer.reporting.collect import collect, write_runs
from trainer.reporting.rows import row_of

ONE, OTHER = "1111111111111111", "2222222222222222"


def results_on(digest: str | None, target: str = "images", **changes: Any) -> list[dict[str, Any]]:
    digests = {} if digest is None else {"set_digests": {target: digest}}
    return seeds("mine", (0.5, 0.6), target=target, target_set=target, **digests, **changes)


def test_two_sets_of_one_name_are_two_targets(tmp_path: Path) -> None:
    found = collect((write_results(tmp_path / "runs", results_on(ONE) + results_on(OTHER)),))
    assert set(found.runs["target"]) == {"images (11111111)", "images (22222222)"}
    assert found.remarks == ("Several sets are called images: they are told apart by their contents",)
    write_runs(found.runs, tmp_path / "results.csv")
    assert set(collect((tmp_path / "results.csv",)).runs["target"]) == set(found.runs["target"])


@pytest.mark.parametrize(
    ("digests", "target"),
    [((ONE, ONE), "images"), ((ONE, None), "images"), ((ONE, OTHER), "cifar10"), ((None, None), "images")],
)
def test_one_set_is_one_target(digests: tuple[str | None, ...], target: str, tmp_path: Path) -> None:
    """Also where an earlier version did not say what it held, or a published set was prepared in two ways."""
    first, second = (results_on(digest, target) for digest in digests)
    for seed, result in enumerate(second, len(first)):
        result["seed"] = result["settings"]["seed"] = seed
    assert set(collect((write_results(tmp_path, first + second),)).runs["target"]) == {target}


def test_overlap_goes_by_content() -> None:
    sources = {"source_sets": ["images"], "source_set_digests": {"images": ONE}}
    of_another, of_its_own, of_earlier, renamed = (
        row_of(results_on(digest, target, **sources)[0])["overlap"]
        for digest, target in ((OTHER, "images"), (ONE, "images"), (None, "images"), (ONE, "clinic"))
    )
    assert of_another == ""
    assert "the target itself" in of_its_own
    assert "the target itself" in of_earlier
    assert "called images there" in renamed
