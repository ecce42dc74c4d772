"""SGDAGC is torch.optim.SGD behind the clipping, and its state is SGD's."""

import copy
import math
from itertools import chain

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.kernels import sgd_agc as kernel
from trainer.kernels.agc import clip_adaptively
from trainer.kernels.native import library
from trainer.optim.sgd_agc import SGDAGC

pytestmark = pytest.mark.usefixtures("way")
SHAPES = [(6, 4, 3, 3), (5, 6), (7,)]
STEPS = 4


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator)) for shape in SHAPES]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def assert_same(found: list[nn.Parameter], expected: list[nn.Parameter]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("clipping", [0.0, 0.05, 1.0])  # none, all and some of the units
def test_update_is_sgds_on_clipped_gradients(clipping: float, weight_decay: float, nesterov: bool) -> None:
    mine, theirs = parameters(), parameters()
    settings = {"lr": 0.3, "momentum": 0.9, "weight_decay": weight_decay, "nesterov": nesterov}
    optimizer = SGDAGC(mine, agc_clipping=clipping, **settings)
    reference = torch.optim.SGD(theirs, foreach=False, fused=False, **settings)
    for step in range(STEPS):
        for group in chain(optimizer.param_groups, reference.param_groups):
            group["lr"] = 0.3 / (step + 1)
        set_gradients(mine, step)
        set_gradients(theirs, step)
        if clipping:
            clip_adaptively([p.detach() for p in theirs], [p.grad for p in theirs], clipping)
        optimizer.step()
        reference.step()
        assert_same(mine, theirs)


def test_clipping_and_momentum_default_to_the_papers() -> None:
    (group,) = SGDAGC(parameters(), lr=0.1).param_groups
    assert (group["agc_clipping"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 0.0)
    assert not group["nesterov"]


def test_groups_keep_their_clipping_and_statistics_cover_both() -> None:
    params = parameters()
    groups = [{"params": params[:2], "agc_clipping": 1e-3}, {"params": params[2:], "agc_clipping": 0.0}]
    optimizer = SGDAGC(groups, lr=0.0)
    set_gradients(params, 0)
    params[1].grad[:3] = 0  # 3 of the 6 + 5 units that may be clipped
    norm = torch.cat([p.grad.flatten() for p in params]).norm()
    free = params[2].grad.clone()
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm, norm)
    assert optimizer.clipped_share.item() == pytest.approx(8 / 11)
    step, free_step = (optimizer.state[params[i]]["momentum_buffer"] for i in (0, 2))
    assert torch.equal(free_step, free)
    assert (step.flatten(1).norm(dim=1) <= 1.001e-3 * params[0].detach().flatten(1).norm(dim=1)).all()


def test_statistics_without_clipping() -> None:
    params = parameters()
    optimizer = SGDAGC(params, lr=0.0, agc_clipping=0.0)
    set_gradients(params, 0)
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm, torch.cat([p.grad.flatten() for p in params]).norm())
    assert optimizer.clipped_share.item() == 0


def test_parameters_without_gradient_are_left_alone() -> None:
    params, alone = parameters(), parameters()[:2]
    before = params[2].detach().clone()
    optimizer, reference = SGDAGC(params, lr=0.1, weight_decay=0.1), SGDAGC(alone, lr=0.1, weight_decay=0.1)
    for step in range(2):
        set_gradients(params[:2], step)
        set_gradients(alone, step)
        optimizer.step()
        reference.step()
    assert torch.equal(params[2].detach(), before)
    assert not optimizer.state.get(params[2])
    assert_same(params[:2], alone)
    torch.testing.assert_close(optimizer.clipped_share, reference.clipped_share)


def test_no_gradient_at_all_changes_nothing() -> None:
    params = parameters()
    optimizer = SGDAGC(params, lr=0.1)
    optimizer.step()
    assert_same(params, parameters())
    assert (optimizer.grad_norm.item(), optimizer.clipped_share.item()) == (0, 0)


def test_an_overflow_leaves_neither_update_nor_momentum() -> None:
    params = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = SGDAGC(params, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(sum(p.sum() for p in params) * factor).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    # Memory that was used before, so that a buffer that nobody fills would show it.
    used = [torch.full(shape, torch.nan) for shape in SHAPES]
    del used
    for factor in (math.inf, 0.0):
        step(factor)
        for p in params:
            assert torch.equal(p.detach(), torch.ones_like(p))
            assert not optimizer.state[p]["momentum_buffer"].any()
    assert scaler.get_scale() == 4
    step(1.0)
    assert all((p < 1).all() for p in params)


def test_an_overflow_leaves_the_update_of_torchs_state_out_too() -> None:
    params = parameters()
    reference = torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=False)
    set_gradients(params, 0)
    reference.step()
    optimizer = SGDAGC(params, lr=0.1)
    optimizer.load_state_dict(reference.state_dict())
    before = [p.detach().clone() for p in params]
    momentum = [optimizer.state[p]["momentum_buffer"].clone() for p in params]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))  # which makes the scale
    set_gradients(params, 1)
    params[0].grad[0] = torch.inf
    scaler.step(optimizer)
    for p, weight, buffer in zip(params, before, momentum, strict=True):
        assert torch.equal(p.detach(), weight)
        assert torch.equal(optimizer.state[p]["momentum_buffer"], buffer)


@pytest.mark.skipif(library() is None, reason="needs a C++ compiler")
def test_the_kernel_takes_what_training_gives_it(way: str) -> None:
    params = [nn.Parameter(torch.ones(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)), *parameters()[1:]]
    optimizer = SGDAGC(params[:1], lr=0.1)
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert optimizer._can_use_kernel(None) is (way == "kernel")
    if way == "torch":
        return
    assert not optimizer._can_use_kernel(lambda: 0.0)
    optimizer.param_groups[0]["dampening"] = 0.5
    params[0].grad = torch.ones_like(params[0])
    assert not optimizer._can_use_kernel(None)


def test_gradients_in_another_order_than_the_weights(way: str) -> None:
    params = [nn.Parameter(torch.randn(6, 4, 3, 3).double()) for _ in range(2)]
    with torch.no_grad():
        params[1].copy_(params[0])
    params[1].data = params[1].data.contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(6, 4, 3, 3).double()
    for p in params:
        p.grad = gradient.clone()
        SGDAGC([p], lr=0.1).step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-12, atol=0)


@pytest.mark.skipif(library() is None, reason="needs a C++ compiler")
def test_autograd_notices_the_kernels_update(way: str) -> None:
    if way == "torch":
        pytest.skip("torch's fused update goes unnoticed")
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.ones_like(weight)
    product = weight * weight
    SGDAGC([weight], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_tensors_are_looked_at_again_only_where_they_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    params, looks = parameters(), []
    takes = kernel.takes
    monkeypatch.setattr(kernel, "takes", lambda tensors: (looks.append(1), takes(tensors))[1])
    optimizer = SGDAGC(params, lr=0.1)
    set_gradients(params, 0)
    for _ in range(3):
        optimizer.step()
    assert len(looks) == 1
    params[0].grad = params[0].grad.clone()
    optimizer.step()
    assert len(looks) == 2
    # The same memory, read in another order: the update must still be SGD's.
    reference = copy.deepcopy(params)
    other = SGDAGC(reference, lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    params[1].grad = params[1].grad.flatten().view(6, 5).T
    reference[1].grad = params[1].grad.contiguous()
    reference[0].grad, reference[2].grad = params[0].grad.clone(), params[2].grad.clone()
    optimizer.step()
    other.step()
    assert len(looks) == 4
    assert_same(params, reference)


def test_tensors_without_numbers_go_to_torch() -> None:
    with FakeTensorMode():
        weight = nn.Parameter(torch.ones(3, 2))
        weight.grad = torch.ones_like(weight)
        SGDAGC([weight], lr=0.1, agc_clipping=0.0).step()
        assert weight.shape == (3, 2)
