"""SGD with momentum and adaptive gradient clipping."""

import inspect
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from trainer.kernels import sgd_agc as kernel
from trainer.kernels.agc import ClipStats, Rates, clip_adaptively
from trainer.kernels.layout import laid_out_alike

NO_CLIPPING = 0.0


class SGDAGC(torch.optim.SGD):
    """torch.optim.SGD behind adaptive gradient clipping; state and state dict are SGD's.

    Each parameter group carries `agc_clipping` beside SGD's hyperparameters; 0 leaves its gradients alone. After
    `step`, `grad_norm` is the L2 norm of the whole gradient before clipping and `clipped_share` the share of units
    that were clipped, both scalar tensors on the parameters' device; `stats` is what they come from. Where `skip`, a
    scalar on their device or None, holds true, a step leaves weights and momentum as they are.
    Source: arXiv:2102.06171 (clipping 0.01); the paper trains everything with it.
    """

    grad_norm: Tensor = torch.zeros(())
    clipped_share: Tensor = torch.zeros(())
    stats = ClipStats(torch.zeros(()), torch.zeros(()), 0)
    skip: Tensor | None = None
    _lies_at: object = None  # where weights, gradients and momenta lay at the step before
    _kernel_fits = False  # whether there is a kernel for tensors that lie so
    _kernel_skips_on_overflow = False  # and whether it updates nothing where a loss scaler found an overflow

    # Torch's own, without the wrappers that keep the compiler off them and import all of it to do so.
    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        agc_clipping: float = 0.01,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)
        for group in self.param_groups:
            group.setdefault("agc_clipping", agc_clipping)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict ends here. Groups written by torch.optim.SGD know no clipping and keep the one they had; and
        # only the fused update heeds an overflow that a gradient scaler found.
        clippings = [group["agc_clipping"] for group in self.__dict__.get("param_groups", [])]
        super().__setstate__(state)
        for group, clipping in zip(self.param_groups, clippings, strict=False):
            group.setdefault("agc_clipping", clipping)
            group["fused"] = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Clip and update. Parameters without a gradient are left alone. What gradients hold afterwards is not said."""
        self._look_at_memory()
        if self.skip is None:
            return self._update(closure)
        if not self.skip.is_cuda:  # where kernels have no such switch, and reading costs nothing
            if not self.skip:
                return self._update(closure)
            self._note([_clip(group) for group in self.param_groups])
            return None
        overflow = getattr(self, "found_inf", None)
        self.found_inf = self.skip.float() if overflow is None else torch.maximum(overflow, self.skip.float())
        try:
            return self._update(closure)
        finally:
            del self.found_inf
            if overflow is not None:
                self.found_inf = overflow

    def _update(self, closure: Any) -> Any:
        fused = [self._update_by_kernel(group) for group in self.param_groups] if self._kernel_takes(closure) else None
        self._note(fused if fused is not None else [_clip(group) for group in self.param_groups])
        return super().step(closure) if fused is None else None

    def _kernel_takes(self, closure: Any) -> bool:
        if not self._kernel_fits or closure is not None or getattr(self, "grad_scale", None) is not None:
            return False
        if any(
            group["dampening"] or group["maximize"] or isinstance(group["lr"], Tensor) for group in self.param_groups
        ):
            return False
        return self._kernel_skips_on_overflow or getattr(self, "found_inf", None) is None

    def _look_at_memory(self) -> None:
        """Make tensors ready and see whether the kernel takes them, where they do not all lie as at the step before:
        looking at hundreds of tensors takes the host longer than launching the update."""
        found = self._memory()
        if found is None or found != self._lies_at:
            self._make_ready()
            tensors = [tensor for tensors in self._tensors() for tensor in tensors]
            self._kernel_fits = bool(tensors) and kernel.takes(tensors)
            self._kernel_skips_on_overflow = self._kernel_fits and tensors[0].is_cuda
            self._lies_at = self._memory()

    def _memory(self) -> object:
        """Address and strides of each tensor of an update; None where one is not ready, or has none."""
        lies_at = []
        for tensors in self._tensors():
            if any(tensor is None or tensor.is_sparse or isinstance(tensor, FakeTensor) for tensor in tensors):
                return None
            lies_at += [(tensor.data_ptr(), tensor.stride()) for tensor in tensors]
        return lies_at

    def _tensors(self) -> Iterator[tuple[Any, ...]]:
        """Weight, gradient and momentum of every parameter that has a gradient; without momentum the first two."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield (p, p.grad, self.state[p].get("momentum_buffer")) if group["momentum"] else (p, p.grad)

    def _update_by_kernel(self, group: dict[str, Any]) -> ClipStats | None:
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return None
        momenta = [self.state[p]["momentum_buffer"] for p in weights] if group["momentum"] else None
        rates = Rates(group["agc_clipping"], group["lr"], group["momentum"], group["weight_decay"], group["nesterov"])
        return kernel.update(weights, [p.grad for p in weights], momenta, rates, getattr(self, "found_inf", None))

    def _note(self, stats: list[ClipStats | None]) -> None:
        seen = [one for one in stats if one is not None]
        if seen:
            squared_norm = torch.stack([one.squared_norm for one in seen]).sum()
            clipped = torch.stack([one.clipped.to(squared_norm) for one in seen]).sum()
            units = sum(one.units for one in seen)
            self.stats = ClipStats(squared_norm, clipped, units)
            self.grad_norm, self.clipped_share = squared_norm.sqrt(), clipped / max(1, units)

    def _make_ready(self) -> None:
        """Gradients and momentum for every parameter that has a gradient, laid out as the parameter is: torch's fused
        update takes that for granted, and leaves new momentum uninitialised where it skips for an fp16 overflow."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not laid_out_alike(p, p.grad):
                    p.grad = torch.empty_like(p).copy_(p.grad)
                buffer = self.state[p].get("momentum_buffer")
                if group["momentum"] and (buffer is None or not laid_out_alike(p, buffer)):
                    zeros = torch.zeros_like(p)
                    self.state[p]["momentum_buffer"] = zeros if buffer is None else zeros.copy_(buffer)


def _clip(group: dict[str, Any]) -> ClipStats | None:
    """Clip the gradients of a group in place."""
    weights = [p for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in weights]
    if not weights:
        return None
    if group["agc_clipping"]:
        return clip_adaptively(weights, gradients, group["agc_clipping"])
    squared_norm = torch.stack(torch._foreach_norm(gradients)).square().sum()
    return ClipStats(squared_norm, torch.zeros_like(squared_norm), 0)


def param_groups(
    model: nn.Module, num_classes: int, agc_clipping: float, agc_head: Literal["name", "shape"] = "name"
) -> list[dict[str, Any]]:
    """The model's parameters that are trained in two groups: clipped, and not clipped.

    name: the head is not clipped, since zeros would be clipped to nothing. shape: as in the program of the authors of
    arXiv:2106.00116, every weight matrix or filter bank whose first dimension equals the number of classes is not
    clipped, and the head's bias is.
    """
    clipped: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        by_shape, by_name = parameter.ndim > 1 and parameter.shape[0] == num_classes, name.startswith("head.")
        (free if (by_shape if agc_head == "shape" else by_name) else clipped).append(parameter)
    groups = [{"params": clipped, "agc_clipping": agc_clipping}, {"params": free, "agc_clipping": NO_CLIPPING}]
    return [group for group in groups if group["params"]]
