"""Convolutions with standardised filters, and their sharing between the passes of one optimiser step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.kernels.standardise import Standardised, standardise, standardise_backward

STANDARDISATION_EPS = 1e-10


class StdConv2d(nn.Conv2d):
    """Convolution whose filters are standardised to zero mean and unit variance over [C_in, kH, kW], in fp32.

    Source: arXiv:1903.10520; eps inside the square root as in BiT.
    """

    eps = STANDARDISATION_EPS

    def forward(self, x: Tensor, filters: Tensor | None = None) -> Tensor:
        """`filters`: the weight standardised, where the caller has it already."""
        if filters is None:
            (filters,) = FilterSharing().filters([self])
        return self._conv_forward(x, filters, self.bias)


class _Bank:
    """A layer's filters, and the gradients that earlier passes of the step gathered for them."""

    def __init__(self, weight: Tensor, standardised: Standardised) -> None:
        self.weight = weight
        self.standardised = standardised
        self.gathered: Tensor | None = None


class _Filters(torch.autograd.Function):
    """The filters of a bank; their gradient goes on to the weight if this is the last pass, and is gathered if not."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, bank: _Bank, last: bool) -> Tensor:
        ctx.bank, ctx.last = bank, last
        return bank.standardised.filters.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        bank = ctx.bank
        if ctx.last:
            result = standardise_backward(gradient, bank.gathered, bank.weight, bank.standardised)
            bank.gathered = None
            return result, None, None
        if bank.gathered is None:
            bank.gathered = torch.empty_like(bank.weight, requires_grad=False).copy_(gradient)
        else:
            bank.gathered += gradient
        return None, None, None


class FilterSharing:
    """Standardises a model's filters: anew in each pass, or once for the passes of a context.

    The gradients are those of standardisation in every pass: it is the same linear map of the sum.
    """

    def __init__(self) -> None:
        self._kept: list[_Bank] | None = None
        self._keeps, self._last = False, True

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Forward and backward pass of a micro-batch. The weights get the gradients of all micro-batches since the
        last `last` one in this one's backward pass if it is the `last`; until then they get none."""
        self._keeps, self._last = True, last
        try:
            yield
        finally:
            self._keeps, self._last = False, True
            if last:
                self._kept = None

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Passes between which the weights stay as they are."""
        self._keeps, self._kept = True, None
        try:
            yield
        finally:
            self._keeps, self._kept = False, None

    @property
    def gathered(self) -> list[Tensor]:
        """The gradients that wait for the step's last pass."""
        return [bank.gathered for bank in self._kept or () if bank.gathered is not None]

    def filters(self, convolutions: Sequence[StdConv2d]) -> list[Tensor]:
        """The standardised filters of each, of the type that convolutions compute in."""
        banks = self._kept
        if banks is None:
            banks = _standardised(convolutions)
            self._kept = banks if self._keeps else None
        if not torch.is_grad_enabled():
            return [bank.standardised.filters for bank in banks]
        # Before the last pass nothing may reach the weights, not even a hook: what has the gradient is thrown away.
        return [
            _Filters.apply(bank.weight if self._last else torch.zeros((), requires_grad=True), bank, self._last)
            for bank in banks
        ]


def _standardised(convolutions: Sequence[StdConv2d]) -> list[_Bank]:
    weights = [convolution.weight for convolution in convolutions]
    device, dtype = weights[0].device.type, weights[0].dtype
    autocasts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocasts and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(device)
    return [_Bank(*pair) for pair in zip(weights, standardise(weights, convolutions[0].eps, dtype), strict=True)]
