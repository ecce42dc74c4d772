"""SGD with momentum whose gradients are clipped adaptively first."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.optim.agc import ClipStats, clip_adaptively

NO_CLIPPING = 0.0


class SGDAGC(torch.optim.SGD):
    """torch.optim.SGD behind adaptive gradient clipping; state and state dict are SGD's.

    Each parameter group carries `agc_clipping` beside SGD's hyperparameters; 0 leaves its gradients alone. After
    `step`, `grad_norm` is the L2 norm of the whole gradient before clipping and `clipped_share` the share of units
    that were clipped, both scalar tensors on the parameters' device; `stats` is what they come from.
    Source: arXiv:2102.06171 (clipping 0.01); the paper trains everything with it.
    """

    grad_norm: Tensor = torch.zeros(())
    clipped_share: Tensor = torch.zeros(())
    stats = ClipStats(torch.zeros(()), torch.zeros(()), 0)

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
        """Clip and update. Parameters without a gradient are left alone; gradients are clipped in place."""
        squared_norms, clipped, units = [], [], 0
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in weights]
            if weights and group["agc_clipping"]:
                stats = clip_adaptively(weights, gradients, group["agc_clipping"])
                squared_norms.append(stats.squared_norm)
                clipped.append(stats.clipped)
                units += stats.units
            elif weights:
                squared_norms.append(torch.stack(torch._foreach_norm(gradients)).square().sum())
        if squared_norms:
            squared_norm = torch.stack(squared_norms).sum()
            total = torch.stack(clipped).sum() if clipped else torch.zeros_like(squared_norm)
            self.stats = ClipStats(squared_norm, total, units)
            self.grad_norm, self.clipped_share = squared_norm.sqrt(), total / max(1, units)
        self._make_momentum()
        return super().step(closure)

    def _make_momentum(self) -> None:
        # torch leaves new buffers uninitialised when the update that should fill them is skipped for an fp16 overflow.
        for group in self.param_groups:
            for p in group["params"] if group["momentum"] else ():
                if p.grad is not None and self.state[p].get("momentum_buffer") is None:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)


def param_groups(
    model: nn.Module, num_classes: int, agc_clipping: float, paper_code: bool = False
) -> list[dict[str, Any]]:
    """The model's parameters in two groups: clipped, and not clipped (the head, by name).

    A zero-initialised head would be clipped to nothing. `paper_code` does what the authors' program did instead: leave
    out every weight matrix or filter bank whose first dimension equals the number of classes, and clip the head's bias.
    """
    clipped: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        by_shape, by_name = parameter.ndim > 1 and parameter.shape[0] == num_classes, name.startswith("head.")
        (free if (by_shape if paper_code else by_name) else clipped).append(parameter)
    groups = [{"params": clipped, "agc_clipping": agc_clipping}, {"params": free, "agc_clipping": NO_CLIPPING}]
    return [group for group in groups if group["params"]]
