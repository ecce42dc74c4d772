"""The comparison of engines drives the shipped loop on two ranks."""

import pytest

from benchmarks.lib.engines.comparison import EnginesBenchmark, run_variant, table
from benchmarks.lib.results import header


@pytest.mark.slow
def test_two_ranks_of_ddp_are_measured() -> None:
    row = run_variant("ddp", EnginesBenchmark(model="r14x0.5", image_size=32, batch_size=2, steps=2))
    assert row["step_ms"] > row["update_ms"] > 0
    assert row["peak_mb"] > 0
    assert row["sent_mb"] >= row["weights_mb"]  # each of two ranks sends as many bytes as the gradients have
    settings = {"model": "r14x0.5", "batch_size": 2, "image_size": 32, "precision": "fp32"}
    assert "| ddp |" in table(header("engines") | {"settings": settings, "rows": [row]})
