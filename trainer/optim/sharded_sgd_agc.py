"""SGD with adaptive gradient clipping on one rank's shard of the flattened parameters, as ZeRO lays them out.

Units lie across the seams between ranks; their norms are put together by one small all-reduce, so that clipping is that
of the unsharded optimiser.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.kernels.agc import GRADIENT_NORM_FLOOR, WEIGHT_NORM_FLOOR, unit_norms

Reduce = Callable[[Tensor], Tensor]
"""The sum of a tensor over ranks."""


class Piece(NamedTuple):
    """Elements [start, start + rows * length) of a rank's part: `rows` units of one `length`, or a fragment of one.
    `seam` is the number of the unit's seam if it lies across one; `owned` where this rank counts the units."""

    start: int
    rows: int
    length: int
    clipping: float
    seam: int | None
    owned: bool


def pieces_of_part(shapes: Sequence[torch.Size], clippings: Sequence[float], part_size: int, part: int) -> list[Piece]:
    """The segment table of one part, when parameters of these shapes are flattened and cut into parts of one size."""
    lengths = [_unit_length(shape) for shape in shapes]
    ends = list(accumulate(shape.numel() for shape in shapes))
    seams: dict[int, int] = {}
    for cut in range(part_size, ends[-1], part_size):
        i = bisect_right(ends, cut)
        begin = ends[i] - shapes[i].numel()
        if (cut - begin) % lengths[i]:
            seams.setdefault(cut - (cut - begin) % lengths[i], len(seams))
    pieces, first, last = [], part * part_size, min((part + 1) * part_size, ends[-1])
    for shape, length, clipping, end in zip(shapes, lengths, clippings, ends, strict=True):
        begin = end - shape.numel()
        at, stop = max(first, begin), min(last, end)
        while at < stop:
            unit = at - (at - begin) % length
            rows = (stop - at) // length if at == unit else 0
            until = at + rows * length if rows else min(stop, unit + length)
            size = length if rows else until - at
            seam = None if rows else seams[unit]
            pieces.append(Piece(at - first, rows or 1, size, clipping, seam, at == unit))
            at = until
    return pieces


def count_units(shapes: Sequence[torch.Size], clippings: Sequence[float]) -> int:
    """How many units are subject to clipping."""
    return sum(shape.numel() // _unit_length(shape) for shape, c in zip(shapes, clippings, strict=True) if c)


def _unit_length(shape: torch.Size) -> int:
    return shape[1:].numel() if len(shape) > 1 else shape.numel()


class ShardedSGDAGC(torch.optim.SGD):
    """SGDAGC for ZeRO: takes the whole parameters, then steps on the one flat tensor that ZeRO puts in their place.

    `grad_norm` and `clipped_share` are those of the whole gradient, equal on all ranks. `inverse_scale` multiplies the
    gradients first, and with `skip_overflow` a gradient that is not finite changes nothing; nor does any where `skip`,
    which may be None, holds true. Collective.
    """

    grad_norm: Tensor = torch.zeros(())
    clipped_share: Tensor = torch.zeros(())
    inverse_scale: Tensor | None = None
    skip_overflow = False
    skip: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, groups: Sequence[dict[str, Any]], rank: int, reduce: Reduce) -> None:
        params = [p for group in groups for p in group["params"]]
        shared = {k: v for k, v in groups[0].items() if k in ("lr", "momentum", "weight_decay", "nesterov")}
        assert all(group[name] == value for group in groups for name, value in shared.items())
        super().__init__(params, **shared, fused=True)
        self._shapes = [p.shape for p in params]
        self._clippings = [group["agc_clipping"] for group in groups for _ in group["params"]]
        self._num_units = count_units(self._shapes, self._clippings)
        self._rank, self._reduce = rank, reduce
        self._pieces: list[Piece] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Unscale, clip and update this rank's part."""
        (flat,) = self.param_groups[0]["params"]
        if not self._pieces:
            self._lay_out(flat)
        if self.inverse_scale is not None:
            flat.grad.mul_(self.inverse_scale)
        self._clip(flat, flat.grad)
        self.found_inf = None
        if self.skip_overflow or self.skip is not None:
            is_nonfinite = ~self.grad_norm.isfinite()
            self.found_inf = (is_nonfinite if self.skip is None else is_nonfinite | self.skip).float()
        if self.state[flat].get("momentum_buffer") is None and self.param_groups[0]["momentum"]:
            # torch leaves new buffers uninitialised when the update that should fill them is skipped.
            self.state[flat]["momentum_buffer"] = torch.zeros_like(flat)
        return super().step(closure)

    def _lay_out(self, flat: Tensor) -> None:
        pieces = self._pieces = pieces_of_part(self._shapes, self._clippings, len(flat), self._rank)
        rows = [piece.rows for piece in pieces]
        per_unit = [(piece.clipping or inf, piece.owned and piece.clipping > 0) for piece in pieces]
        repeats = torch.tensor(rows, dtype=torch.long, device=flat.device)
        columns = list(zip(*per_unit, strict=True)) or [(), ()]
        self._limits = torch.tensor(columns[0], dtype=flat.dtype, device=flat.device).repeat_interleave(repeats)
        self._counted = torch.tensor(columns[1], dtype=torch.bool, device=flat.device).repeat_interleave(repeats)
        starts = [end - count for end, count in zip(accumulate(rows), rows, strict=True)]
        fragments = [(start, piece.seam) for start, piece in zip(starts, pieces, strict=True) if piece.seam is not None]
        self._fragments, self._seams = torch.tensor(fragments, dtype=torch.long, device=flat.device).view(-1, 2).T
        total = sum(shape.numel() for shape in self._shapes)
        self._num_seams = -(-total // len(flat))  # at most one for each cut

    def _clip(self, weight: Tensor, gradient: Tensor) -> None:
        gradients, weights = self._units(gradient), self._units(weight)
        norms = torch.cat([torch.zeros_like(gradient[:0]), *unit_norms(gradients)])
        weight_norms = torch.cat([torch.zeros_like(gradient[:0]), *unit_norms(weights)])
        # What crosses seams, and the square of the whole gradient, in one all-reduce.
        shared = gradient.new_zeros(2, self._num_seams + 1)
        shared[0, self._seams] = norms[self._fragments].square()
        shared[1, self._seams] = weight_norms[self._fragments].square()
        shared[0, -1] = norms.square().sum()
        shared = self._reduce(shared)
        norms[self._fragments] = shared[0, self._seams].sqrt()
        weight_norms[self._fragments] = shared[1, self._seams].sqrt()
        limits = weight_norms.clamp_min_(WEIGHT_NORM_FLOOR).mul_(self._limits)
        exceeds = norms > limits
        scales = torch.where(exceeds, limits / norms.clamp_min(GRADIENT_NORM_FLOOR), 1.0)
        if gradients:
            per_piece = scales.split([len(piece) for piece in gradients])
            torch._foreach_mul_(gradients, [scale[:, None] for scale in per_piece])
        self.grad_norm = shared[0, -1].sqrt()
        self.clipped_share = self._reduce((exceeds & self._counted).sum().to(gradient.dtype)) / max(1, self._num_units)

    def _units(self, flat: Tensor) -> list[Tensor]:
        return [flat.narrow(0, p.start, p.rows * p.length).view(p.rows, p.length) for p in self._pieces]
