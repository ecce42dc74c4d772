"""An update that is left out, on every engine: weights and momentum stay, and the next is as if nothing had been."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_runs import INSTALLED, VARIANT_ROWS, to_start
from engine_runs import VARIANTS as ALL_VARIANTS
from run_ranks import run_ranks

from trainer.engines import ENGINES
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC, param_groups

VARIANTS = {name: runtime for name, runtime in ALL_VARIANTS.items() if name != "deepspeed-zero-1"}


def states(engine: Any, faults: list[str]) -> list[dict[str, np.ndarray]]:
    """The state after each step; "loss" makes one rank's loss NaN, "gradient" one rank's gradient."""
    torch.manual_seed(0)
    model = BiTResNet((1,), 0.5, 4, "fan_in")
    optimizer = SGDAGC(param_groups(model, 4, 0.005), lr=0.0, momentum=0.9, weight_decay=1e-4)
    draws = torch.Generator().manual_seed(engine.rank)
    batches = [torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=draws) for _ in range(3)]
    engine.prepare(model, optimizer, batches[0])
    seen, good = [], iter(batches)
    for fault in faults:
        engine.set_lr(0.1)
        mine = engine.rank == engine.world_size - 1
        with engine.accumulate(last=True):
            loss = engine.model(batches[0] if fault else next(good)).float().square().mean()
            if fault == "loss" and mine:
                loss = loss * math.nan
            if fault == "gradient" and mine:  # which overflows though the loss does not
                loss = loss + (model.head.weight * 0.0).sum() * 1e38 + _Overflow.apply(model.head.bias.sum())
            engine.backward(loss, engine.world_size)
        report = torch.zeros(engine.world_size)
        report[engine.rank] = loss.detach()
        update = engine.step(~engine.sum(report).isfinite().all())
        assert bool(update.skipped) == bool(fault)
        state = engine.state_dict()
        seen.append(
            {
                f"{part}.{name}": tensor.detach().cpu().clone().numpy()
                for part in ("model", "momentum")
                for name, tensor in state[part].items()
            }
        )
    return seen


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


def on_rank(names: list[str]) -> dict[str, Any]:
    seen, engine = {}, None
    for name in names:
        if engine is not None and engine._runtime.engine == VARIANTS[name].engine:
            engine._runtime = VARIANTS[name]
        else:
            if engine is not None:
                engine.close()
            engine = ENGINES[VARIANTS[name].engine](VARIANTS[name], "fp32")
        seen[name] = (states(engine, ["", "loss", "", "gradient", ""]), states(engine, ["", "", ""]))
    if engine is not None:
        engine.close()
    return seen


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(2, on_rank, [name for name in to_start(request) if name in VARIANTS])


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", [row for row in VARIANT_ROWS if row.values[0] in VARIANTS])
def test_skipped_update_leaves_no_trace_on_any_engine(name: str, seen: list[dict[str, Any]]) -> None:
    if name not in INSTALLED:
        pytest.skip(f"{VARIANTS[name].engine} is not installed")
    for rank in seen:
        faulty, undisturbed = rank[name]
        assert equal(faulty[1], faulty[0])
        assert equal(faulty[3], faulty[2])
        assert [equal(faulty[i], undisturbed[j]) for i, j in ((0, 0), (2, 1), (4, 2))] == [True] * 3
        assert not equal(faulty[2], faulty[1])


def test_skip_goes_through_found_inf_without_waiting_for_a_gpu(tmp_path: Path) -> None:
    """What the update on CUDA is told, tried with torch's own fused update, which heeds it on a CPU as well."""

    class OnDevice(torch.Tensor):
        is_cuda = True

    weight = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = SGDAGC([weight], lr=0.1, agc_clipping=0.0)
    for skip in (True, False):
        before = weight.detach().clone()
        weight.grad = torch.full((4, 3), math.nan) if skip else torch.ones(4, 3)
        optimizer.skip = torch.tensor(skip).as_subclass(OnDevice)
        optimizer.step()
        assert torch.equal(weight, before) is skip
        assert not hasattr(optimizer, "found_inf")
    assert optimizer.state[weight]["momentum_buffer"].eq(1).all()
