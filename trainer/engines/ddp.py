"""PyTorch's DistributedDataParallel: NCCL on GPUs, Gloo on CPUs, and a plain single process without either."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_pipelines.errors import InputError
from trainer.config import Precision, RuntimeConfig
from trainer.engines.base import Engine, RankLostError, Update
from trainer.engines.device import cpu_threads, pick_device
from trainer.models.bit import PreActBottleneck
from trainer.optim.sgd_agc import SGDAGC

_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SUM_ELEMENTS = 1 << 24  # of a CPU tensor that go through the GPU at a time


class DDPEngine(Engine):
    """See Engine. Ranks and addresses come from torchrun's environment variables.

    Raises InputError where the device cannot do what is asked for.
    """

    def __init__(self, runtime: RuntimeConfig, precision: Precision) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.device = pick_device(runtime.device, self.local_rank)
        self.threads = cpu_threads(runtime.threads)
        self._amp_dtype = _AMP_DTYPES.get(precision)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.device)
        if precision == "fp16" and not on_gpu:
            raise InputError("--precision fp16 needs a GPU; take bf16 or fp32 on a CPU")
        if precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise InputError(f"{torch.cuda.get_device_name(self.device)} has no bf16; take --precision fp16")
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = runtime.tf32
        self._compile = runtime.compile
        self._scales_loss = precision == "fp16"
        if self.world_size > 1:
            dist.init_process_group("nccl" if on_gpu else "gloo", device_id=self.device if on_gpu else None)

    def prepare(self, model: nn.Module, optimizer: SGDAGC, example: Tensor) -> None:
        self._bare, self._optimizer = model, optimizer
        # Without fp16 its scale() and unscale_() change nothing.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._scales_loss)
        model.to(self.device)
        for parameter in model.parameters():
            parameter.data = _channels_last(parameter.data)
        self.model: nn.Module = model
        if self._compile:
            self._compile_units(example)
        if self.world_size > 1:
            for parameter in model.parameters():
                if _is_pointwise(parameter):
                    parameter.register_hook(_contiguous_strides)
            self.model = DistributedDataParallel(
                model, device_ids=[self.device] if self.device.type == "cuda" else None, gradient_as_bucket_view=True
            )
        # DDP lays out its buckets anew after the first backward pass, which changes the order of its sums. Done here,
        # an interrupted run goes on bit for bit.
        self._dry_run(example)

    def _dry_run(self, example: Tensor) -> None:
        with self.accumulate(last=True):
            self.model(example.to(self.device)).sum().backward()
        self._optimizer.zero_grad()

    def _compile_units(self, example: Tensor) -> None:
        """Compile each residual unit in place; where a rank cannot, all warn and go on without."""
        units = [module for module in self._bare.modules() if isinstance(module, PreActBottleneck)]
        if self.rank == 0:
            print(
                f"compiling {len(units)} residual units; the first pass takes a while ...", file=sys.stderr, flush=True
            )
        # Units share their code: each shape and mode of each takes one place in the compiler's cache for it.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(units))
        for unit in units:
            unit.compile()
        failed = torch.zeros(())
        try:
            self._dry_run(example)
        except Exception as error:  # torch has no common base class for what its compilers and theirs may raise
            failed += 1
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            print(f"warning: torch.compile failed, going on without it: {reason}", file=sys.stderr, flush=True)
        if self.sum(failed) > 0:
            for unit in units:
                unit._compiled_call_impl = None
            self._optimizer.zero_grad()

    def set_lr(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        silence: AbstractContextManager[None] = nullcontext()
        if isinstance(self.model, DistributedDataParallel) and not last:
            silence = self.model.no_sync()
        with silence, self._autocast():
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._amp_dtype, enabled=self._amp_dtype is not None)

    def backward(self, loss: Tensor) -> None:
        with _lost_ranks_named():
            self._scaler.scale(loss).backward()

    def step(self) -> Update:
        self._scaler.unscale_(self._optimizer)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return Update(self._optimizer.grad_norm, self._optimizer.clipped_share)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        wrapped, self.model = self.model, self._bare
        try:
            with torch.inference_mode(), self._autocast():
                yield
        finally:
            self.model = wrapped

    def sum(self, tensor: Tensor) -> Tensor:
        if self.world_size == 1:
            return tensor
        if tensor.device == self.device:
            total = tensor.clone()
            with _lost_ranks_named():
                dist.all_reduce(total)
            return total
        # A CPU tensor in a job on GPUs: in pieces, because the predictions of a large set may not fit beside the model.
        pieces = [self.sum(piece.to(self.device)).to(tensor.device) for piece in tensor.flatten().split(_SUM_ELEMENTS)]
        return torch.cat(pieces).view(tensor.shape)

    def state_dict(self) -> dict[str, Any]:
        parameters = dict(self._bare.named_parameters())
        state = self._optimizer.state
        return {
            "model": dict(self._bare.state_dict()),
            "momentum": {
                name: state[p]["momentum_buffer"]
                for name, p in parameters.items()
                if state[p].get("momentum_buffer") is not None
            },
            "loss_scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._bare.load_state_dict(state["model"])
        parameters = dict(self._bare.named_parameters())
        for name, momentum in state["momentum"].items():
            # In the parameter's memory layout, as an uninterrupted run has it.
            self._optimizer.state[parameters[name]]["momentum_buffer"] = torch.empty_like(parameters[name]).copy_(
                momentum
            )
        if self._scaler.is_enabled() and state["loss_scaler"]:
            self._scaler.load_state_dict(state["loss_scaler"])

    def close(self) -> None:
        if self.world_size > 1:
            dist.destroy_process_group()


@contextmanager
def _lost_ranks_named() -> Iterator[None]:
    """Turn what the backends raise when a peer is gone into RankLostError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "gloo" in str(error):
            raise RankLostError(f"another rank stopped; start the run again to resume it ({error})") from error
        raise


def _channels_last(weight: Tensor) -> Tensor:
    """Filters in channels-last order. 1x1 filters stay as they are: both layouts hold the same numbers in the same
    order and differ only in the strides of dimensions of size 1."""
    if weight.ndim == 4 and not _is_pointwise(weight):
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


def _is_pointwise(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.shape[2:] == (1, 1)


def _contiguous_strides(gradient: Tensor) -> Tensor:
    """A view of a 1x1 filter's gradient with the strides of DDP's buckets, which otherwise warns and copies."""
    return gradient.flatten(1)[:, :, None, None]
