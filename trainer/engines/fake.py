"""One rank of a job without the others, to run all that depends on rank and world size at any size."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainer.engines.ddp import DDPEngine
from trainer.engines.ranks import RankInfo


class FakeEngine(DDPEngine):
    """DDP over PyTorch's fake process group, whose collectives leave tensors unchanged. For dry runs and tests; the
    trained weights are meaningless."""

    def _connect(self, rank_info: RankInfo) -> None:
        if self.world_size > 1:
            dist.init_process_group("fake", store=FakeStore(), rank=rank_info.rank, world_size=rank_info.world_size)

    def gather(self, value: Any) -> list[Any]:
        """This rank's value, repeated for every rank."""
        return [value] * self.world_size

    def _wrap(self, model: nn.Module) -> nn.Module:
        wrapped = super()._wrap(model)
        if isinstance(wrapped, DistributedDataParallel):
            # Without a hook DDP's own reduction waits for work that the fake group never gives it.
            wrapped.register_comm_hook(None, _return_bucket)
        return wrapped


def _return_bucket(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done
