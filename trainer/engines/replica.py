"""Base class of engines that keep the whole model on every rank."""

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from trainer.config import Precision, RuntimeConfig
from trainer.engine import Engine, Update
from trainer.engines import parent_watch
from trainer.engines.compilation import begin_pass, compile_no_units, compile_units
from trainer.engines.device import cpu_threads, keep_freed_memory, pick_device
from trainer.engines.ranks import RankInfo, find_rank_info
from trainer.engines.rendezvous import Rendezvous, interface_to
from trainer.engines.watchdog import Watchdog
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC

_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SUM_ELEMENTS = 1 << 24  # of a CPU tensor that go through the GPU at a time


class ReplicaEngine(Engine):
    """Device, precision, compilation, update and optimiser state; subclasses define how gradients are exchanged.

    Raises InputError where the device cannot do what is asked for.
    """

    _accumulates_filter_gradients = True  # until the last micro-batch; costs one full-size gradient on every rank

    def __init__(self, runtime: RuntimeConfig, precision: Precision) -> None:
        rank_info = find_rank_info()
        parent_watch.end_with_launcher()
        self.rank, self.world_size, self.local_rank, self.local_world_size, _ = rank_info
        self.device = pick_device(runtime.device, rank_info.local_rank, bound=rank_info.launcher == "srun")
        self.threads = cpu_threads(runtime.threads)
        self._amp_dtype = _AMP_DTYPES.get(precision)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.device)
        if precision == "fp16" and not on_gpu:
            raise InputError(f"{flag('--precision')} fp16 needs a GPU; take bf16 or fp32 on a CPU")
        if runtime.compile == "graphs" and not on_gpu:
            raise InputError(f"{flag('--compile')} graphs are CUDA graphs, which need a GPU; take True on a CPU")
        if precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise InputError(f"{torch.cuda.get_device_name(self.device)} has no bf16; take {flag('--precision')} fp16")
        torch.set_num_threads(self.threads)
        if not on_gpu:
            keep_freed_memory()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = runtime.tf32
        torch.backends.cudnn.benchmark = runtime.cudnn_benchmark is True
        self._runtime = runtime
        self._scales_loss = precision == "fp16"
        self._rendezvous: Rendezvous | None = None
        self._connect(rank_info)
        timeouts = runtime.hang_timeout_s, runtime.timeout_s
        self.heartbeat = Watchdog(
            self._store(), self.rank, self.world_size, self.device, *timeouts, is_elastic=runtime.elastic
        )
        self.transport = self._describe_transport()

    @abstractmethod
    def _connect(self, rank_info: RankInfo) -> None:
        """Join the process group."""

    def _store(self) -> dist.Store | None:
        """A store that all ranks share; None for a single process."""
        return None if self._rendezvous is None else self._rendezvous.store

    def _describe_transport(self) -> str:
        if self.world_size == 1:
            return "none"
        library = "NCCL" if self.device.type == "cuda" else "Gloo"
        chosen = os.environ.get(f"{library.upper()}_SOCKET_IFNAME")
        if library == "NCCL":
            fabric = "InfiniBand" if Path("/sys/class/infiniband").is_dir() else "sockets"
            return f"NCCL over {fabric}" + (f", {chosen} for sockets" if chosen else "")
        return f"Gloo over {chosen or interface_to(os.environ.get('MASTER_ADDR', 'localhost')) or 'any interface'}"

    @abstractmethod
    def _wrap(self, model: nn.Module) -> nn.Module:
        """Make weights equal on all ranks and set up gradient exchange; returns the module that the loop calls."""

    @abstractmethod
    def _all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over ranks of a tensor on this engine's device; may overwrite it."""

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, example: Tensor) -> None:
        assert isinstance(model, BiTResNet)
        self._unwrapped = model
        # ZeRO and DeepSpeed want an optimiser even to predict, and put their own in its place.
        self._optimizer: Any = optimizer or SGDAGC(model.parameters(), lr=0.0)
        # Without fp16 its scale() and unscale_() change nothing.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._scales_loss)
        self._place_weights(model)
        self.model: nn.Module = model
        model.checkpoint_stages = self._runtime.checkpoint_stages
        if self._runtime.compile in (True, "graphs"):
            self._compile(example, graphs=self._runtime.compile == "graphs")
        self.model = self._wrap(model)
        self._dry_run(example)

    def _place_weights(self, model: nn.Module) -> None:
        model.to(self.device)
        for parameter in model.parameters():
            parameter.data = channels_last(parameter.data)

    def _dry_run(self, example: Tensor) -> None:
        """One pass whose gradients are dropped: DDP lays out its buckets anew after the first backward pass, which
        changes the order of its sums. With that behind it, an interrupted run goes on bit for bit."""
        with self.accumulate(last=True):
            self.model(example.to(self.device)).sum().backward()
        self._finish_reduction()
        self._optimizer.zero_grad()

    def _compile(self, example: Tensor, graphs: bool) -> None:
        """Compile the residual units; if a rank cannot, all ranks warn and go on without."""
        if self.rank == 0:
            number = len(self._unwrapped.units)
            logger.info(f"compiling {number} residual units; the first pass takes a while ...")
        problem = compile_units(self._unwrapped, example.to(self.device), self._autocast, graphs)
        if problem is not None:
            logger.warning(f"torch.compile failed, going on without it: {problem}")
        if self.sum(torch.tensor(float(problem is not None))) > 0:
            compile_no_units(self._unwrapped)
        elif graphs:
            self._unwrapped.register_forward_pre_hook(begin_pass)

    def set_lr(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        sharing = self._unwrapped.filter_sharing.micro_batch(last or not self._accumulates_filter_gradients)
        self.heartbeat.enter("forward")
        # DDP's first forward pass is an exchange, too.
        with self._reporting_lost_ranks(), self._no_sync(last), self._autocast(), sharing:
            yield
        if last:
            self.heartbeat.enter("update")

    def _no_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Context in which gradients are exchanged only after the `last` micro-batch."""
        return nullcontext()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._amp_dtype, enabled=self._amp_dtype is not None)

    def backward(self, loss_sum: Tensor, num_labels: Tensor | int) -> Tensor:
        loss = loss_sum / num_labels
        self.heartbeat.enter("backward")
        # Under the autocast of `accumulate` the gradients of what ran in fp32, the head, would be rounded.
        with self._reporting_lost_ranks(), torch.autocast(self.device.type, enabled=False):
            self._propagate(loss * self.world_size)  # the average over ranks divides by it
        return loss.detach()

    def _propagate(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def step(self, is_nonfinite: Tensor | None = None) -> Update:
        with self._reporting_lost_ranks():
            self._finish_reduction()
        self._scaler.unscale_(self._optimizer)
        skipped = self._optimizer.skip = self._any_nonfinite(is_nonfinite)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return Update(self._optimizer.grad_norm, self._optimizer.clipped_share, skipped)

    def _any_nonfinite(self, loss_nonfinite: Tensor | None) -> Tensor | None:
        """Whether the loss or a gradient is not finite; None where updates are not skipped. With fp16,
        infinite gradients are left to the loss scaler."""
        gradients = [p.grad for p in self._unwrapped.parameters() if p.grad is not None]
        if loss_nonfinite is None or self._scaler.is_enabled() or not gradients:
            return loss_nonfinite
        return loss_nonfinite | ~torch.stack(torch._foreach_norm(gradients)).isfinite().all()

    def _finish_reduction(self) -> None:
        """Wait until every gradient is the average over ranks."""

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        wrapped, self.model = self.model, self._unwrapped
        self.heartbeat.enter("evaluation")
        try:
            with torch.inference_mode(), self._autocast(), self._unwrapped.filter_sharing.unchanged():
                yield
        finally:
            self.model = wrapped

    def sum(self, tensor: Tensor) -> Tensor:
        if self.world_size == 1:
            return tensor
        if tensor.device == self.device:
            with self._reporting_lost_ranks():
                return self._all_reduce(tensor.clone())
        # A CPU tensor in a job on GPUs: in pieces, because the predictions of a large set may not fit beside the model.
        pieces = [self.sum(piece.to(self.device)).to(tensor.device) for piece in tensor.flatten().split(_SUM_ELEMENTS)]
        return torch.cat(pieces).view(tensor.shape)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": dict(self._unwrapped.state_dict()),
            "momentum": self._momentum(),
            "loss_scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._unwrapped.load_state_dict(state["model"])
        self._load_momentum(state["momentum"])
        if self._scaler.is_enabled() and state["loss_scaler"]:
            self._scaler.load_state_dict(state["loss_scaler"])

    def _momentum(self) -> dict[str, Tensor]:
        state = self._optimizer.state
        return {
            name: state[p]["momentum_buffer"]
            for name, p in self._trained()
            if state[p].get("momentum_buffer") is not None
        }

    def _load_momentum(self, momentum: dict[str, Tensor]) -> None:
        for name, parameter in self._trained():
            if name in momentum:
                self._optimizer.state[parameter]["momentum_buffer"] = in_layout_of(parameter, momentum[name])
            else:
                self._optimizer.state.pop(parameter, None)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that are not frozen, with their names."""
        return [(name, p) for name, p in self._unwrapped.named_parameters() if p.requires_grad]

    def _reporting_lost_ranks(self) -> AbstractContextManager[None]:
        return nullcontext() if self._rendezvous is None else self._rendezvous.reporting_lost_ranks()

    def close(self) -> None:
        if self._rendezvous is not None:
            self._rendezvous.close()


def channels_last(weight: Tensor) -> Tensor:
    """Filters in channels-last order. 1x1 filters stay as they are: both layouts hold the same numbers in the same
    order and differ only in the strides of dimensions of size 1."""
    if weight.ndim == 4 and not is_pointwise(weight):
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


def is_pointwise(weight: Tensor) -> bool:
    """Whether this is a bank of 1x1 filters."""
    return weight.ndim == 4 and weight.shape[2:] == (1, 1)


def in_layout_of(parameter: Tensor, values: Tensor) -> Tensor:
    """A copy in the parameter's memory layout and on its device, as momentum has in an uninterrupted run."""
    return torch.empty_like(parameter, requires_grad=False).copy_(values)
