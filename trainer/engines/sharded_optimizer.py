"""PyTorch's ZeRO stage 1 optimiser together with a loss scaler."""

from typing import Any

from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer


class ShardedOptimizer(ZeroRedundancyOptimizer):
    """Passes an overflow found by the loss scaler on to this rank's optimiser shard, which then skips the update. The
    scaler itself would have to read the flag first, and wait for the device.

    Gradients are averages over ranks by then, so every rank sees an overflow of any rank.
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
