"""PyTorch's DistributedDataParallel: NCCL on GPUs, Gloo on CPUs; a single process uses neither."""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from trainer.engine import Update
from trainer.engines.ranks import RankInfo
from trainer.engines.rendezvous import Rendezvous
from trainer.engines.replica import ReplicaEngine, in_layout_of, is_pointwise

_DDP_BUCKET_MB = 25
_COMPRESSION_HOOKS = {"bf16": bf16_compress_hook, "fp16": fp16_compress_hook}


def init_process_group(rank_info: RankInfo, device: torch.device, rendezvous: Rendezvous, timeout_s: int) -> None:
    """Initialise NCCL or Gloo over the store where the ranks met."""
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=dist.PrefixStore("group", rendezvous.store),
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if on_gpu else None,
    )


class DDPEngine(ReplicaEngine):
    """See Engine. With zero_stage 1 each parameter's momentum is kept only on the rank that updates it."""

    def _connect(self, rank_info: RankInfo) -> None:
        if self.world_size > 1:
            self._rendezvous = Rendezvous(rank_info, self.device, self._runtime.connect_timeout_s)
            with self._reporting_lost_ranks():
                init_process_group(rank_info, self.device, self._rendezvous, self._runtime.timeout_s)

    def _wrap(self, model: nn.Module) -> nn.Module:
        self._sharded: Any = None  # torch.distributed.optim.ZeroRedundancyOptimizer
        self._hooks: list[Any] = []
        return model if self.world_size == 1 else self._distributed(model)

    def _distributed(self, model: nn.Module) -> nn.Module:
        self._hooks += [
            parameter.register_hook(_contiguous_strides)
            for parameter in model.parameters()
            if is_pointwise(parameter) and parameter.requires_grad
        ]
        wrapped = DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            # Of its own accord DDP takes this size too, but a small first bucket, so that something travels early.
            bucket_cap_mb=None if self._runtime.bucket_mb == _DDP_BUCKET_MB else self._runtime.bucket_mb,
            gradient_as_bucket_view=True,
        )
        if self._runtime.gradient_compression != "none":
            wrapped.register_comm_hook(None, _COMPRESSION_HOOKS[self._runtime.gradient_compression])
        if self._runtime.zero_stage == 1:
            from trainer.engines.sharded_optimizer import ShardedOptimizer  # brings FSDP, DTensor and sympy along

            groups, shared = self._optimizer.param_groups, self._optimizer.defaults
            names = ("lr", "momentum", "weight_decay", "nesterov")
            self._sharded = ShardedOptimizer(groups, type(self._optimizer), **{name: shared[name] for name in names})
            self._optimizer = self._sharded
        return wrapped

    def _unwrap(self) -> None:
        """Undo `_wrap`."""
        self.model = self._unwrapped
        for hook in self._hooks:
            hook.remove()

    def _no_sync(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def step(self, is_nonfinite: Tensor | None = None) -> Update:
        if self._sharded is None:
            return super().step(is_nonfinite)
        mine = self._sharded.optim
        self._scaler.unscale_(self._sharded)
        skipped = mine.skip = self._any_nonfinite(is_nonfinite)
        with self._reporting_lost_ranks():
            self._scaler.step(self._sharded)
            self._scaler.update()
            self._sharded.zero_grad()
            squared_norm, clipped, units = self._all_reduce(self._clip_stats())
        return Update(squared_norm.sqrt(), clipped / units.clamp(min=1), skipped)

    def _clip_stats(self) -> Tensor:
        """Of this rank's shard: the squared norm, the clipped units and all units, float64 [3]."""
        stats = self._sharded.optim.stats
        units = torch.full(
            (), float(stats.units), device=self.device, dtype=torch.float64
        )  # a copy would be waited for
        return torch.stack([stats.squared_norm.to(units), stats.clipped.to(units), units])

    def _momentum(self) -> dict[str, Tensor]:
        if self._sharded is None:
            return super()._momentum()
        # Each parameter's momentum from the rank that has it; the others add zeros.
        mine, trained = self._sharded.optim.state, list(self._trained())
        buffers = [mine.get(parameter, {}).get("momentum_buffer") for _, parameter in trained]
        owners = self.sum(torch.tensor([float(buffer is not None) for buffer in buffers], device=self.device))
        return {
            name: self.sum(torch.zeros_like(parameter) if buffer is None else buffer).cpu()
            for (name, parameter), buffer, count in zip(trained, buffers, owners.tolist(), strict=True)
            if count
        }

    def _load_momentum(self, momentum: dict[str, Tensor]) -> None:
        if self._sharded is None:
            return super()._load_momentum(momentum)
        mine = self._sharded.optim
        own = {p for group in mine.param_groups for p in group["params"]}
        for name, parameter in self._trained():
            if parameter in own:
                mine.state.pop(parameter, None)
                if name in momentum:
                    mine.state[parameter]["momentum_buffer"] = in_layout_of(parameter, momentum[name])
        return None

    def _all_reduce(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def close(self) -> None:
        super().close()
        if self.world_size > 1:
            dist.destroy_process_group()


def _contiguous_strides(gradient: Tensor) -> Tensor:
    """A view of a 1x1 filter's gradient with the strides of DDP's buckets; otherwise DDP warns and copies."""
    return gradient.flatten(1)[:, :, None, None]
