"""SGD with momentum and adaptive gradient clipping."""

import inspect
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from trainer.kernels import sgd_agc as kernel
from trainer.kernels.agc import ClipStats, Hyperparameters, clip_adaptively
from trainer.kernels.layout import laid_out_alike

NO_CLIPPING = 0.0


class SGDAGC(torch.optim.SGD):
    """torch.optim.SGD behind adaptive gradient clipping; state and state dict are SGD's.

    Each parameter group carries `agc_clipping` beside SGD's hyperparameters; 0 leaves its gradients alone. After
    `step`, `grad_norm` is the L2 norm of the whole gradient before clipping and `clipped_share` the share of units
    that were clipped, both scalar tensors on the parameters' device; `stats` is what they come from. If `skip`, a
    scalar on the parameters' device or None, is true, a step leaves weights and momentum as they are.
    Source: arXiv:2102.06171 (clipping 0.01); the paper trains everything with it.
    """

    grad_norm: Tensor = torch.zeros(())
    clipped_share: Tensor = torch.zeros(())
    stats = ClipStats(torch.zeros(()), torch.zeros(()), 0)
    skip: Tensor | None = None
    _layout_key: object = None  # of weights, gradients and momenta at the step before
    _kernel_fits = False  # whether there is a kernel for that layout
    _kernel_skips_on_overflow = False  # and whether it updates nothing where a loss scaler found an overflow

    # Unwrapped: torch's decorators would import torch._dynamo, which takes seconds.
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
        # only the fused update respects an overflow that a gradient scaler found.
        clippings = [group["agc_clipping"] for group in self.__dict__.get("param_groups", [])]
        super().__setstate__(state)
        for group, clipping in zip(self.param_groups, clippings, strict=False):
            group.setdefault("agc_clipping", clipping)
            group["fused"] = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Clip and update. Parameters without a gradient are left alone. Gradients are undefined afterwards."""
        self._check_layout()
        if self.skip is None:
            return self._update(closure)
        if not self.skip.is_cuda:  # on the CPU the kernel cannot skip, and reading the flag does not synchronise
            if not self.skip:
                return self._update(closure)
            self._record_stats([_clip(group) for group in self.param_groups])
            return None
        # torch's fused SGD and the kernel update nothing where found_inf is not zero: they get `skip` that way, and a
        # loss scaler's own flag is restored.
        overflow = getattr(self, "found_inf", None)
        self.found_inf = self.skip.float() if overflow is None else torch.maximum(overflow, self.skip.float())
        try:
            return self._update(closure)
        finally:
            del self.found_inf
            if overflow is not None:
                self.found_inf = overflow

    def _update(self, closure: Any) -> Any:
        if self._can_use_kernel(closure):
            self._record_stats([self._update_by_kernel(group) for group in self.param_groups])
            return None
        self._record_stats([_clip(group) for group in self.param_groups])
        return super().step(closure)

    def _can_use_kernel(self, closure: Any) -> bool:
        if not self._kernel_fits or closure is not None or getattr(self, "grad_scale", None) is not None:
            return False
        if any(
            group["dampening"] or group["maximize"] or isinstance(group["lr"], Tensor) for group in self.param_groups
        ):
            return False
        return self._kernel_skips_on_overflow or getattr(self, "found_inf", None) is None

    def _check_layout(self) -> None:
        """Align layouts and see whether the kernel takes the tensors, unless nothing moved since the step
        before: looking at hundreds of tensors takes the host longer than launching the update."""
        layouts = self._tensor_layouts()
        if layouts is None or layouts != self._layout_key:
            self._align_layouts()
            tensors = [tensor for tensors in self._tensors() for tensor in tensors]
            self._kernel_fits = bool(tensors) and kernel.takes(tensors)
            self._kernel_skips_on_overflow = self._kernel_fits and tensors[0].is_cuda
            self._layout_key = self._tensor_layouts()

    def _tensor_layouts(self) -> object:
        """Address and strides of each tensor of an update; None where one is not ready, or has none."""
        layouts = []
        for tensors in self._tensors():
            if any(tensor is None or tensor.is_sparse or isinstance(tensor, FakeTensor) for tensor in tensors):
                return None
            layouts += [(tensor.data_ptr(), tensor.stride()) for tensor in tensors]
        return layouts

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
        hyper = Hyperparameters(
            group["agc_clipping"], group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]
        )
        return kernel.update(weights, [p.grad for p in weights], momenta, hyper, getattr(self, "found_inf", None))

    def _record_stats(self, stats: list[ClipStats | None]) -> None:
        seen = [one for one in stats if one is not None]
        if seen:
            squared_norm = torch.stack([one.squared_norm for one in seen]).sum()
            clipped = torch.stack([one.clipped.to(squared_norm) for one in seen]).sum()
            units = sum(one.units for one in seen)
            self.stats = ClipStats(squared_norm, clipped, units)
            self.grad_norm, self.clipped_share = squared_norm.sqrt(), clipped / max(1, units)

    def _align_layouts(self) -> None:
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
    unclipped: list[nn.Parameter] = []

    def is_head(name: str, parameter: nn.Parameter) -> bool:
        if agc_head == "name":
            return name.startswith("head.")
        return parameter.ndim > 1 and parameter.shape[0] == num_classes

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (unclipped if is_head(name, parameter) else clipped).append(parameter)
    groups = [{"params": clipped, "agc_clipping": agc_clipping}, {"params": unclipped, "agc_clipping": NO_CLIPPING}]
    return [group for group in groups if group["params"]]
