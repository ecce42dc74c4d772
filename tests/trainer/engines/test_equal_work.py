"""Ranks whose shares of a step make unequal numbers of micro-batches still meet in every exchange."""

from pathlib import Path

import numpy as np
import pytest
from engine_cases import make_cases, reference, relative
from engine_runs import INSTALLED, run_variants
from run_ranks import run_ranks

CASE = "unequal-10-fp32"


@pytest.mark.slow
@pytest.mark.skipif("deepspeed-zero-2" not in INSTALLED, reason="deepspeed is not installed")
def test_stage_2_on_three_ranks_with_shares_of_3_3_and_4(phantoms: Path, tmp_path: Path) -> None:
    """It sends gradients in every micro-batch's backward pass: with 1, 1 and 2 of them the third rank would wait for
    the others in its second, and they for it in the update."""
    case = make_cases(phantoms)[CASE]
    expected = reference(case, tmp_path / "alone")
    seen = run_ranks(3, run_variants, ["deepspeed-zero-2"], {CASE: case}, tmp_path, [])
    for rank in seen:
        weights = rank["deepspeed-zero-2"].weights[CASE]
        assert relative(weights, expected["weights"]) <= 1e-6
        assert np.array_equal(weights, seen[0]["deepspeed-zero-2"].weights[CASE])
