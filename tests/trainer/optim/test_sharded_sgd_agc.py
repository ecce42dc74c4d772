"""The parted optimiser clips and updates as the whole one does, wherever the seams lie."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.optim.sgd_agc import SGDAGC
from trainer.optim.sharded_sgd_agc import ShardedSGDAGC, count_units, pieces_of_part

CLIPPED = [(4, 3, 3, 3), (6, 4, 1, 1), (7,), (1, 40), (5, 2)]
FREE = [(3, 9), (3,)]


class AllReduce:
    """Sums over threads that stand for ranks."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=5)
        self.given: list[Tensor] = [torch.zeros(())] * world_size

    def of(self, rank: int, tensor: Tensor) -> Tensor:
        self.given[rank] = tensor
        self.barrier.wait()
        total = sum(self.given[1:], self.given[0].clone())
        self.barrier.wait()
        return total


def groups_of(clipped: list[tuple[int, ...]], free: list[tuple[int, ...]], clipping: float) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)

    def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
        return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]

    return [
        {"params": parameters(clipped), "agc_clipping": clipping},
        {"params": parameters(free), "agc_clipping": 0.0},
    ]


OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}


def compare(clipped: list[tuple[int, ...]], free: list[tuple[int, ...]], world_size: int, clipping: float) -> float:
    """Two updates on `world_size` ranks against two on one; returns the share that was clipped."""
    groups = groups_of(clipped, free, clipping)
    params = [p for group in groups for p in group["params"]]
    flat = torch.cat([p.detach().flatten() for p in params])
    size = -(-len(flat) // (2 * world_size)) * 2  # padded, as ZeRO does it
    padded = torch.cat([flat, flat.new_zeros(size * world_size - len(flat))])
    generator = torch.Generator().manual_seed(1)
    gradients = [
        [torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3 for p in params] for _ in range(2)
    ]
    whole = SGDAGC(groups, **OPTIONS)
    all_reduce = AllReduce(world_size)

    def on_rank(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        mine = groups_of(clipped, free, clipping)
        optimizer = ShardedSGDAGC([group | OPTIONS for group in mine], rank, lambda t: all_reduce.of(rank, t))
        part = nn.Parameter(padded[rank * size : (rank + 1) * size].clone())
        optimizer.param_groups[0]["params"] = [part]
        for gradient in gradients:
            values = torch.cat([g.flatten() for g in gradient])
            values = torch.cat([values, values.new_zeros(len(padded) - len(values))])
            part.grad = values[rank * size : (rank + 1) * size].clone()
            optimizer.step()
        return part.detach(), optimizer.grad_norm, optimizer.clipped_share

    with ThreadPoolExecutor(world_size) as pool:
        results = list(pool.map(on_rank, range(world_size)))
    for gradient in gradients:
        for p, g in zip(params, gradient, strict=True):
            p.grad = g.clone()
        whole.step()
    expected = torch.cat([p.detach().flatten() for p in params])
    found = torch.cat([part for part, _, _ in results])
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-12, atol=1e-14)
    assert not found[len(expected) :].any()
    for _, grad_norm, clipped_share in results:
        torch.testing.assert_close(grad_norm, whole.grad_norm, rtol=1e-12, atol=0)
        assert float(clipped_share) == pytest.approx(float(whole.clipped_share), rel=1e-6)
    return float(whole.clipped_share)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 16])
def test_parts_clip_like_the_whole(world_size: int) -> None:
    """On 16 ranks a unit of 40 elements lies on three of them."""
    assert 0.2 < compare(CLIPPED, FREE, world_size, 0.3) < 0.9


@pytest.mark.slow
@given(
    clipped=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5),
    world_size=st.integers(1, 7),
)
@settings(max_examples=40, deadline=None)
def test_parts_of_any_shapes(clipped: list[tuple[int, ...]], world_size: int) -> None:
    compare(clipped, FREE, world_size, 0.3)


def test_pieces_cover_every_element_once() -> None:
    shapes = [torch.Size(shape) for shape in CLIPPED]
    total = sum(shape.numel() for shape in shapes)
    for part_size in (10, 33, 36, 500):
        covered, owned = [], 0
        for part in range(-(-total // part_size)):
            pieces = pieces_of_part(shapes, [0.1] * len(shapes), part_size, part)
            covered += [part * part_size + p.start + i for p in pieces for i in range(p.rows * p.length)]
            owned += sum(p.rows for p in pieces if p.owned)
        assert covered == list(range(total))
        assert owned == count_units(shapes, [0.1] * len(shapes)) == 17


def test_an_overflow_on_one_rank_leaves_every_part_alone() -> None:
    all_reduce = AllReduce(2)

    def on_rank(rank: int) -> tuple[bool, bool, float]:
        groups = [group | OPTIONS for group in groups_of(CLIPPED, FREE, 0.3)]
        optimizer = ShardedSGDAGC(groups, rank, lambda t: all_reduce.of(rank, t))
        optimizer.skip_overflow, optimizer.inverse_scale = True, torch.tensor(0.5, dtype=torch.float64)
        part = nn.Parameter(torch.ones(120, dtype=torch.float64))
        optimizer.param_groups[0]["params"] = [part]
        part.grad = torch.full_like(part, torch.inf if rank == 1 else 1.0)
        optimizer.step()
        untouched = torch.equal(part.detach(), torch.ones_like(part))
        return untouched, not optimizer.state[part]["momentum_buffer"].any(), float(optimizer.found_inf)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(on_rank, range(2))) == [(True, True, 1.0)] * 2
