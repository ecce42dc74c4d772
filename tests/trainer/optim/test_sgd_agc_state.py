"""The state of SGDAGC is SGD's: it is loaded by torch's, and torch's by it; copies go on like the original."""

import copy
import pickle

import pytest
import torch
from test_sgd_agc import STEPS, assert_same, parameters, set_gradients

from trainer.kernels.agc import clip_adaptively
from trainer.optim.sgd_agc import SGDAGC

pytestmark = pytest.mark.usefixtures("way")


def test_state_loads_into_torchs_sgd() -> None:
    mine = parameters()
    optimizer = SGDAGC(mine, lr=0.1, weight_decay=0.01, agc_clipping=0.02)
    set_gradients(mine, 0)
    optimizer.step()
    theirs = copy.deepcopy(mine)
    reference = torch.optim.SGD(theirs, lr=7.0)
    reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # which would else share the momentum buffers
    assert reference.param_groups[0]["lr"] == 0.1
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(optimizer.state[one]["momentum_buffer"], reference.state[other]["momentum_buffer"])
    set_gradients(mine, 1)
    set_gradients(theirs, 1)
    clip_adaptively([p.detach() for p in theirs], [p.grad for p in theirs], 0.02)
    optimizer.step()
    reference.step()
    assert_same(mine, theirs)


def test_torchs_state_loads_and_leaves_the_clipping_as_it_is() -> None:
    theirs = parameters()
    reference = torch.optim.SGD([{"params": theirs[:2]}, {"params": theirs[2:]}], lr=0.1, momentum=0.8)
    set_gradients(theirs, 0)
    reference.step()
    mine = copy.deepcopy(theirs)
    groups = [{"params": mine[:2], "agc_clipping": 0.02}, {"params": mine[2:], "agc_clipping": 0.0}]
    optimizer = SGDAGC(groups, lr=7.0)
    optimizer.load_state_dict(reference.state_dict())
    assert [group["agc_clipping"] for group in optimizer.param_groups] == [0.02, 0.0]
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.1, 0.8)] * 2
    assert all(group["fused"] for group in optimizer.param_groups)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(optimizer.state[one]["momentum_buffer"], reference.state[other]["momentum_buffer"])


def test_own_state_brings_its_clipping() -> None:
    loaded = SGDAGC(parameters(), lr=7.0, agc_clipping=0.5)
    loaded.load_state_dict(SGDAGC(parameters(), lr=0.1, agc_clipping=0.02).state_dict())
    assert loaded.param_groups[0]["agc_clipping"] == 0.02


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"])
def test_a_copy_goes_on_like_the_original(duplicate) -> None:
    params = parameters()
    optimizer = SGDAGC(params, lr=0.1, weight_decay=0.01, agc_clipping=0.02)
    set_gradients(params, 0)
    optimizer.step()
    other = duplicate(optimizer)
    copies = other.param_groups[0]["params"]
    assert copies[0] is not params[0]
    set_gradients(params, 1)
    set_gradients(copies, 1)
    optimizer.step()
    other.step()
    assert_same(copies, params)
    assert torch.equal(other.grad_norm, optimizer.grad_norm)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"])
def test_a_copy_has_statistics_before_its_first_step(duplicate) -> None:
    params = parameters()
    optimizer = SGDAGC(params, lr=0.1)
    for _ in range(2):
        other = duplicate(optimizer)
        assert other.grad_norm.isfinite()
        assert other.clipped_share.isfinite()
        assert other.param_groups[0]["fused"]
        set_gradients(params, 0)
        optimizer.step()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_first_gradient_may_come_late(weight_decay: float, nesterov: bool) -> None:
    mine, theirs = parameters(), parameters()
    settings = {"lr": 0.3, "momentum": 0.9, "weight_decay": weight_decay, "nesterov": nesterov}
    optimizer = SGDAGC(mine, agc_clipping=0.0, **settings)
    reference = torch.optim.SGD(theirs, foreach=False, fused=False, **settings)
    for step in range(STEPS):
        for params in (mine, theirs):
            set_gradients(params[: 1 + step], step)
        optimizer.step()
        reference.step()
        assert_same(mine, theirs)
        assert all(("momentum_buffer" in optimizer.state.get(p, {})) == (i <= step) for i, p in enumerate(mine))
