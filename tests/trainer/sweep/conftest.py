"""A sweep over small sets."""

from pathlib import Path
from typing import Any

import pytest
from options_with import options_with
from planned_sweeps import CLASSES, LABELS, Planned
from tiny_sets import tiny_set

from trainer.sweep.plan import Plan, make_plan


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """A function that plans a sweep over prepared sets of the given names, in a folder where they lie in data/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITSCALE_DATA", raising=False)

    def plan(
        sources: tuple[str, ...] = ("scratch",),
        targets: tuple[str, ...] = ("cats",),
        shots: tuple[str, ...] = ("1",),
        seeds: int = 1,
        skip_impossible: bool = False,
        **options: Any,
    ) -> Plan:
        for target in targets:
            if not (tmp_path / "data" / target).exists() and target != "unknown":
                tiny_set(tmp_path / "data" / target, LABELS, CLASSES, name=target, splits=("train", "val", "test"))
        given = options_with(**{"model": "r14x0.5", "out": Path("out"), "image_size": 32, **options})
        return make_plan(sources, targets, shots, seeds, given, skip_impossible)

    return plan
