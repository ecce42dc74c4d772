"""Gradients travel while the backward pass goes on: those of a unit are complete when the pass leaves the unit."""

from functools import partial
from typing import Any

import pytest
import torch
from engine_runs import INSTALLED, VARIANT_ROWS, VARIANTS, to_start
from gradient_order import IMAGES, assert_ready_part_by_part, first_filters, gradient_order
from run_ranks import run_ranks

from benchmarks.lib.network.overlap import peak_filter_gradient_bytes
from benchmarks.lib.network.overlap_rank import ALL_AT_ONCE, filters_at_once
from trainer.engines import ENGINES
from trainer.models.bit import BiTResNet, build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r26x1", "r50x1"])
@pytest.mark.parametrize("checkpoint_stages", [0, 2])
def test_units_are_complete_when_the_pass_leaves_them(name: str, checkpoint_stages: int) -> None:
    model = build_model(name, 10, "fan_in")
    model.checkpoint_stages = checkpoint_stages
    with torch.autocast("cpu", torch.bfloat16):
        order = gradient_order(model, model(IMAGES).sum(), torch.Tensor.backward)
    assert_ready_part_by_part(model, order)
    assert first_filters(order) <= 0.2


def small_model() -> BiTResNet:
    torch.manual_seed(0)
    return BiTResNet((1, 2, 1), 0.5, 10, "fan_in")


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_so_they_are_when_compiled_and_with_shared_filters(micro_batches: int) -> None:
    torch._dynamo.reset()
    model = small_model()
    for unit in model.units:
        unit.compile(backend="aot_eager")
    for _ in range(micro_batches - 1):
        with model.filter_sharing.micro_batch(last=False):
            model(IMAGES).sum().backward()
    with model.filter_sharing.micro_batch(last=True):
        order = gradient_order(model, model(IMAGES).sum(), torch.Tensor.backward)
    assert_ready_part_by_part(model, order)


def orders(names: list[str]) -> dict[str, dict[str, float]]:
    """By engine, on this rank: the order of gradients in the second of two micro-batches."""
    engine: Any = None
    seen = {}
    for name in names:
        runtime = VARIANTS[name]
        if engine is not None and engine._runtime.engine != runtime.engine:
            engine.close()
            engine = None
        engine = engine or ENGINES[runtime.engine](runtime, "fp32")
        engine._runtime = runtime
        model = small_model()
        engine.prepare(model, SGDAGC(param_groups(model, 10, 0.01), lr=0.0), IMAGES)
        with engine.accumulate(last=False):
            engine.backward(engine.model(IMAGES).sum(), 1)
        with engine.accumulate(last=True):
            seen[name] = gradient_order(model, engine.model(IMAGES).sum(), partial(engine.backward, num_labels=1))
        engine.step()
    engine.close()
    return seen


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest) -> dict[str, dict[str, float]]:
    return run_ranks(2, orders, to_start(request))[0]


@pytest.mark.parametrize("variant", VARIANT_ROWS)
def test_so_they_are_in_every_engine(variant: str, seen: dict[str, dict[str, float]]) -> None:
    if variant not in INSTALLED:
        pytest.skip(f"{VARIANTS[variant].engine} is not installed")
    assert_ready_part_by_part(small_model(), seen[variant])


def test_filters_gradients_are_used_up_unit_by_unit() -> None:
    with torch.device("meta"):
        model, images = build_model("r26x1", 10), torch.empty(1, 3, 64, 64)
    largest = max(sum(convolution.weight.nbytes for convolution in unit.convolutions) for unit in model.units)
    assert peak_filter_gradient_bytes(model, images) == largest
    with filters_at_once(model, ALL_AT_ONCE):
        assert peak_filter_gradient_bytes(model, images) > 2 * largest
