"""DeepSpeed with ZeRO stages 0 to 2: shards momentum (1) and gradients (2) across ranks."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from trainer.engine import Update
from trainer.engines.ddp import init_process_group
from trainer.engines.ranks import RankInfo
from trainer.engines.rendezvous import Rendezvous
from trainer.engines.replica import ReplicaEngine, channels_last
from trainer.optim.sharded_sgd_agc import ShardedSGDAGC

_BYTES_OF_GRADIENT = 4
_COMMUNICATION = {"none": "fp32", "bf16": "bf16", "fp16": "fp16"}
_GATHERED_ELEMENTS = 1 << 24  # of the momentum that are on the device at a time


class DeepSpeedEngine(ReplicaEngine):
    """See Engine. The model is fp32 for DeepSpeed; mixed precision is autocast, as in every engine.

    Raises InputError where DeepSpeed is not installed, and for a model that is not fp32.
    """

    def _connect(self, rank_info: RankInfo) -> None:
        self._deepspeed = _import_deepspeed(self.device)
        os.environ.setdefault("LOCAL_RANK", str(self.local_rank))  # without which DeepSpeed refuses to start
        if self.world_size > 1:
            self._rendezvous = Rendezvous(rank_info, self.device, self._runtime.connect_timeout_s)
            with self._reporting_lost_ranks():
                init_process_group(rank_info, self.device, self._rendezvous, self._runtime.timeout_s)
        else:
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        self._engine: Any = None

    def _config(self) -> dict[str, Any]:
        """DeepSpeed's configuration, made from ours. Batch sizes, clipping and precision are left to the loop."""
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "steps_per_print": None,
            "communication_data_type": _COMMUNICATION[self._runtime.gradient_compression],
            "zero_allow_untested_optimizer": True,
        }
        if self._is_sharded:
            config["zero_optimization"] = {
                "stage": self._runtime.zero_stage,
                "reduce_bucket_size": (self._runtime.bucket_mb << 20) // _BYTES_OF_GRADIENT,
                "contiguous_gradients": True,
                "overlap_comm": True,  # on GPUs: a stream of its own, beside the backward pass
                "compute_grad_norm": False,  # the optimiser has it from its own all-reduce
            }
        return config

    def _place_weights(self, model: nn.Module) -> None:
        # DeepSpeed broadcasts weights as bytes and flattens them, which channels-last weights do not bear. With ZeRO
        # they stay as they are, views of its flat buffer; convolutions follow their channels-last input.
        model.to(self.device)
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()

    def _wrap(self, model: nn.Module) -> nn.Module:
        if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
            raise InputError(f"DeepSpeed trains fp32 weights only; take {flag('--engine')} ddp or horovod")
        self._is_sharded = self._runtime.zero_stage > 0
        # ZeRO stage 2 exists to hold only a part of the gradients.
        self._accumulates_filter_gradients = self._runtime.zero_stage < 2
        if self._is_sharded:
            self._optimizer = ShardedSGDAGC(self._optimizer.param_groups, self.rank, self._reduce)
        if self._engine is not None:
            self._engine.destroy()
        precise = _Autocast(model, self._autocast())
        self._engine, *_ = self._deepspeed.initialize(
            model=precise, optimizer=self._optimizer, config=self._config(), dist_init_required=False
        )
        if not self._is_sharded:
            for parameter in model.parameters():
                parameter.data = channels_last(parameter.data)
        else:
            # The copy that DeepSpeed makes of each rank's part is for weights of lower precision; fp32 needs none.
            zero = self._engine.optimizer
            (part,), (parts,) = zero.single_partition_of_fp32_groups, zero.parallel_partitioned_bit16_groups
            part.data = parts[self.rank]
        return _WithoutAutocast(self._engine, self.device.type)

    def _reduce(self, tensor: Tensor) -> Tensor:
        return self._all_reduce(tensor) if self.world_size > 1 else tensor

    def _all_reduce(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def _dry_run(self, example: Tensor) -> None:
        with self.accumulate(last=True):
            self.backward(self.model(example.to(self.device)).sum(), 1)
        if self._is_sharded:
            zero = self._engine.optimizer
            zero.zero_grad()
            zero.averaged_gradients = dict.fromkeys(zero.averaged_gradients)
        else:
            self._optimizer.zero_grad()

    @contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        with super().accumulate(last):
            yield

    def _propagate(self, loss: Tensor) -> None:
        self._engine.backward(self._scaler.scale(loss), scale_wrt_gas=False)

    def set_lr(self, lr: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def step(self, is_nonfinite: Tensor | None = None) -> Update:
        if not self._is_sharded:
            return super().step(is_nonfinite)
        sharded: Any = self._optimizer
        sharded.skip = is_nonfinite
        if self._scaler.is_enabled():
            sharded.inverse_scale = 1 / self._scaler.scale(torch.ones((), device=self.device))
            sharded.skip_overflow = True
        with self._reporting_lost_ranks():
            self._engine.step()
        if self._scaler.is_enabled():
            self._report_overflow(sharded.found_inf)
        if is_nonfinite is not None and not self._scaler.is_enabled():
            is_nonfinite = sharded.found_inf > 0
        return Update(sharded.grad_norm, sharded.clipped_share, is_nonfinite)

    def _report_overflow(self, found_inf: Tensor) -> None:
        """Show the loss scaler an infinite gradient if the real ones were not finite, without a host sync."""
        probe = nn.Parameter(torch.zeros_like(found_inf))
        probe.grad = torch.where(found_inf > 0, torch.inf, 0.0)
        self._scaler.unscale_(torch.optim.SGD([probe]))
        self._scaler.update()

    def _momentum(self) -> dict[str, Tensor]:
        if not self._is_sharded:
            return super()._momentum()
        (part,) = self._engine.optimizer.single_partition_of_fp32_groups
        buffer = self._optimizer.state.get(part, {}).get("momentum_buffer")
        if buffer is None:
            return {}
        flat = self._gathered(buffer)
        momentum, at = {}, 0
        for name, parameter in self._in_flat_order():
            momentum[name] = flat[at : at + parameter.numel()].view(parameter.shape)
            at += parameter.numel()
        return momentum

    def _gathered(self, part: Tensor) -> Tensor:
        """The shards of all ranks, concatenated on the CPU; only some are on the device at a time."""
        flat = torch.empty(self.world_size, len(part), dtype=part.dtype)
        width = max(1, _GATHERED_ELEMENTS // self.world_size)
        for at in range(0, len(part), width):
            piece = part[at : at + width].contiguous()
            pieces = [torch.empty_like(piece) for _ in range(self.world_size)]
            with self._reporting_lost_ranks():
                dist.all_gather(pieces, piece)
            flat[:, at : at + width] = torch.stack(pieces).cpu()
        return flat.flatten()

    def _load_momentum(self, momentum: dict[str, Tensor]) -> None:
        if not self._is_sharded:
            return super()._load_momentum(momentum)
        (part,) = self._engine.optimizer.single_partition_of_fp32_groups
        if not momentum:
            self._optimizer.state.pop(part, None)
            return None
        flat = torch.cat(
            [momentum.get(name, torch.zeros(p.shape)).flatten().to(part.dtype) for name, p in self._in_flat_order()]
        )
        first = self.rank * len(part)
        buffer = torch.zeros_like(part, requires_grad=False)
        mine = flat[first : first + len(part)]
        buffer[: len(mine)] = mine.to(part.device)
        self._optimizer.state[part]["momentum_buffer"] = buffer
        return None

    def _in_flat_order(self) -> list[tuple[str, nn.Parameter]]:
        names = {parameter: name for name, parameter in self._unwrapped.named_parameters()}
        return [(names[p], p) for group in self._engine.optimizer.bit16_groups for p in group]

    def close(self) -> None:
        super().close()
        if self._engine is not None:
            self._engine.destroy()
        dist.destroy_process_group()


class _Autocast(nn.Module):
    """The model under our autocast, as DeepSpeed switches off one that surrounds its call."""

    def __init__(self, model: nn.Module, autocast: torch.autocast) -> None:
        super().__init__()
        self.model, self._autocast = model, autocast

    def forward(self, images: Tensor) -> Tensor:
        with self._autocast:
            logits: Tensor = self.model(images)
        return logits


class _WithoutAutocast(nn.Module):
    """DeepSpeed's engine, called outside the autocast of `accumulate`, about which it would warn."""

    def __init__(self, engine: nn.Module, device_type: str) -> None:
        super().__init__()
        self.engine, self._device_type = engine, device_type

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self._device_type, enabled=False):
            logits: Tensor = self.engine(images)
        return logits


def _import_deepspeed(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("DS_BUILD_OPS", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns of every optimiser that is not its own
    try:
        import deepspeed
    except ImportError as error:
        raise InputError(f"DeepSpeed cannot be imported ({error}); pip install deepspeed") from error
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # An all-reduce for inference on CPUs, which DeepSpeed would compile at the first start, for two minutes.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
