"""Gradients of frozen stages are neither made nor exchanged."""

from collections.abc import Iterator

import pytest
import torch
from gradient_order import IMAGES

from trainer.config import RuntimeConfig
from trainer.engines.fake import FakeEngine
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC, param_groups

RANKS = 8


@pytest.fixture(params=[0, 1])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """One of eight ranks, with either way to keep momentum."""
    for name, value in {"RANK": 3, "LOCAL_RANK": 3, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS}.items():
        monkeypatch.setenv(name, str(value))
    made = FakeEngine(RuntimeConfig(device="cpu", threads=1, zero_stage=request.param), "fp32")
    yield made
    made.close()


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_buckets_hold_what_is_trained_alone(stages: int, engine: FakeEngine) -> None:
    torch.manual_seed(0)
    model = BiTResNet((1, 1), 0.5, 10, "fan_in")
    model.freeze(stages)
    engine.prepare(model, SGDAGC(param_groups(model, 10, 0.01), lr=0.1, weight_decay=0.1), IMAGES)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for last in (False, True):
        with engine.accumulate(last):
            engine.backward(engine.model(IMAGES).square().sum(), 2)
    # Each gradient is a part of the bucket that is sent.
    buckets = {
        p.grad.untyped_storage().data_ptr(): p.grad.untyped_storage().nbytes()
        for p in model.parameters()
        if p.grad is not None
    }
    assert sum(buckets.values()) == sum(p.nbytes for p in model.parameters() if p.requires_grad)
    engine.set_lr(0.1)
    engine.step()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if not p.requires_grad)
