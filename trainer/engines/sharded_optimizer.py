"""PyTorch's ZeRO stage 1 optimiser together with a loss scaler."""

from typing import Any

from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer


class ShardedOptimizer(ZeroRedundancyOptimizer):
    """Hands an overflow that the loss scaler found on to the optimiser of this rank's shard, which leaves all as it is
    then. The scaler would otherwise read it first, and wait for the device.

    Gradients are averages over ranks by then, so that every rank finds the overflow of any.
    """

    _step_supports_amp_scaling = True

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        overflow: Tensor | None = getattr(self, "found_inf", None)
        if overflow is None:
            return super().step(closure, **kwargs)
        self.optim.found_inf = overflow
        try:
            return super().step(closure, **kwargs)
        finally:
            del self.optim.found_inf
