"""Convolutions with standardised filters, which are computed once per optimiser step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
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
            ((filters,),) = FilterSharing().filters([[self]])
        y: Tensor = self._conv_forward(x, filters, self.bias)
        return y


class _Bank:
    """A layer's filters, and the gradients that earlier passes of the step gathered for them."""

    def __init__(self, weight: Tensor, standardised: Standardised) -> None:
        self.weight = weight
        self.standardised = standardised
        self.gathered: Tensor | None = None


class _Filters(torch.autograd.Function):
    """The filters of a unit's banks; their gradients go on to the weights if this is the last pass, and are gathered if
    not."""

    @staticmethod
    def forward(ctx: Any, banks: Sequence[_Bank], last: bool, *sources: Tensor) -> tuple[Tensor, ...]:
        ctx.banks, ctx.last = banks, last
        return tuple(bank.standardised.filters.detach() for bank in banks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        banks = ctx.banks
        if ctx.last:
            results = standardise_backward(
                gradients,
                [bank.gathered for bank in banks],
                [bank.weight for bank in banks],
                [bank.standardised for bank in banks],
            )
            for bank in banks:
                bank.gathered = None
            return None, None, *results
        for bank, gradient in zip(banks, gradients, strict=True):
            if bank.gathered is None:
                bank.gathered = torch.empty_like(bank.weight, requires_grad=False).copy_(gradient)
            else:
                bank.gathered += gradient
        return None, None, None


class FilterSharing:
    """Standardises a model's filters: in every pass, or once for all passes in a context.

    The gradients are the same in both cases, as standardisation's backward is linear.
    """

    def __init__(self) -> None:
        self._kept: list[_Bank] | None = None
        self._keeps, self._last = False, True

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Forward and backward pass of a micro-batch. The weights get the gradients of all micro-batches since the
        last `last` one in this one's backward pass if it is the `last`; until then they get none."""
        self._keeps, self._last = True, last
        whole = False
        try:
            yield
            whole = True
        finally:
            self._keeps, self._last = False, True
            if last or not whole:  # what a failed pass leaves must not go into the next step
                self._kept = None

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Context of passes between which the weights do not change."""
        self._keeps, self._kept = True, None
        try:
            yield
        finally:
            self._keeps, self._kept = False, None

    @property
    def gathered(self) -> list[Tensor]:
        """The gradients that wait for the step's last pass."""
        return [bank.gathered for bank in self._kept or () if bank.gathered is not None]

    def filters(self, units: Sequence[Sequence[StdConv2d]]) -> Iterator[tuple[Tensor, ...]]:
        """The standardised filters of each unit's convolutions, of the type that convolutions compute in.

        Take a unit's right before its forward pass. Autograd runs what was made last first: the weights of a unit then
        have their gradients when the backward pass leaves the unit, and these travel while it goes on.
        """
        banks = self._kept
        if banks is None:
            banks = _standardised([convolution for unit in units for convolution in unit])
            self._kept = banks if self._keeps else None
        # Before the last pass nothing may reach the weights, not even a hook: what has the gradient is thrown away.
        discarded = None if self._last else torch.zeros((), requires_grad=True)
        rest = iter(banks)
        for unit in units:
            of_unit = list(islice(rest, len(unit)))
            if torch.is_grad_enabled():
                sources = [bank.weight for bank in of_unit] if discarded is None else [discarded]
                yield _Filters.apply(of_unit, self._last, *sources)
            else:
                yield tuple(bank.standardised.filters for bank in of_unit)


class FoldedFilters(FilterSharing):
    """Of a model whose weights are standardised already, as in an exported graph."""

    def filters(self, units: Sequence[Sequence[StdConv2d]]) -> Iterator[tuple[Tensor, ...]]:
        """The weights as they are."""
        for unit in units:
            yield tuple(convolution.weight for convolution in unit)


def _standardised(convolutions: Sequence[StdConv2d]) -> list[_Bank]:
    weights = [convolution.weight for convolution in convolutions]
    device, dtype = weights[0].device.type, weights[0].dtype
    autocasts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocasts and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(device)
    return [_Bank(*pair) for pair in zip(weights, standardise(weights, convolutions[0].eps, dtype), strict=True)]
