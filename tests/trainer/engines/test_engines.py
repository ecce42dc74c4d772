"""Every engine on any number of ranks gives the weights of one process that sees the whole batch."""

from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from engine_cases import CASES, relative
from engine_runs import SMALL, VARIANT_ROWS, VARIANTS, WORLD_SIZES, Launched, runs, to_start

from trainer.config import RuntimeConfig
from trainer.engines import ENGINES


def test_every_engine_can_be_chosen_and_is_tested() -> None:
    assert get_args(get_type_hints(RuntimeConfig)["engine"]) == tuple(ENGINES)
    assert {runtime.engine for runtime in VARIANTS.values()} == ENGINES.keys(), "add the engine to VARIANTS"


@pytest.fixture(scope="module")
def launched(phantoms: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Launched:
    return Launched(phantoms, tmp_path_factory.mktemp("engines"), to_start(request))


ROWS = [
    pytest.param(variant, size, marks=() if variant in SMALL and size < 3 else pytest.mark.slow)
    for size in WORLD_SIZES
    for variant in VARIANTS
    if size < 3 or variant in SMALL
]


@pytest.mark.parametrize("case_name", CASES)
@pytest.mark.parametrize(("variant", "world_size"), ROWS)
def test_weights_equal_one_plain_process(variant: str, world_size: int, case_name: str, launched: Launched) -> None:
    case, seen = launched.cases[case_name], launched.of(variant, world_size)
    if not runs(variant, case):
        assert all("fp32 weights only; take --engine ddp or horovod" in rank.refusal for rank in seen)
        return
    expected = launched.expected(case_name)
    for rank in seen:
        weights = rank.weights[case_name]
        assert relative(weights, expected["weights"]) <= (1e-6 if case.dtype == torch.float32 else 1e-10)
        # The update itself, which is a small part of the weights.
        update_error = np.linalg.norm(weights - expected["weights"])
        update = np.linalg.norm(expected["weights"] - expected["start"])
        assert update_error <= update * (1e-4 if case.dtype == torch.float32 else 1e-9)
        assert 0.3 <= rank.clipped[case_name] <= 0.7
        assert np.array_equal(weights, seen[0].weights[case_name])
        if case_name.startswith("resumed"):
            assert relative(rank.momentum[case_name], expected["momentum"]) <= 1e-6
    if case_name.startswith("masked") and world_size > 1:
        assert len({rank.labels[case_name] for rank in seen}) > 1, (
            "without unequal counts the masked loss is not tested"
        )


@pytest.mark.parametrize(("variant", "world_size"), ROWS)
def test_what_is_frozen_has_no_momentum(variant: str, world_size: int, launched: Launched) -> None:
    model, _ = launched.cases["frozen-2-fp32"].model_and_optimizer(10)
    frozen = {name for name, _ in model.named_parameters() if name.startswith(("stem.", "stages.0."))}
    for rank in launched.of(variant, world_size):
        assert rank.frozen == frozen
        assert rank.with_momentum == {name for name, _ in model.named_parameters()} - frozen


@pytest.mark.parametrize(("variant", "world_size"), ROWS)
def test_checkpoints_of_every_engine_and_size_are_read_exactly(
    variant: str, world_size: int, launched: Launched
) -> None:
    assert [rank.changed_by_reading for rank in launched.of(variant, world_size)] == [[]] * world_size


@pytest.mark.parametrize(("variant", "world_size"), ROWS)
def test_sum_over_ranks_and_no_stride_warnings(variant: str, world_size: int, launched: Launched) -> None:
    for rank in launched.of(variant, world_size):
        assert rank.sums == [world_size, sum(range(world_size))]
        assert rank.strides_warned == []


@pytest.mark.parametrize("variant", [row for row in VARIANT_ROWS if "zero" in row.values[0]])
def test_momentum_is_parted_over_ranks(variant: str, launched: Launched) -> None:
    whole, parts = launched.of("ddp", 2)[0], launched.of(variant, 2)
    assert whole.momentum_bytes == whole.parameter_bytes
    assert sum(part.momentum_bytes for part in parts) <= whole.momentum_bytes + 64  # to make parts of one size
    assert max(part.momentum_bytes for part in parts) <= 0.6 * whole.momentum_bytes


@pytest.mark.slow
def test_each_stage_of_zero_holds_less(launched: Launched) -> None:
    """Weights, momentum and the gradients between two micro-batches: 3 and 2.5 times the weights, and at stage 2 the
    gradients of the parameters that lie in a rank's part at all, of which this small model has few."""
    stages = [launched.of(name, 2) for name in ("deepspeed", "deepspeed-zero-1", "deepspeed-zero-2")]
    held = [max(rank.held_bytes for rank in stage) for stage in stages]
    weights = stages[0][0].parameter_bytes
    assert held[0] - held[1] >= 0.4 * weights, held
    assert held[1] - held[2] >= 0.2 * weights, held
