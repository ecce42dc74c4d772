"""Horovod: each gradient is averaged as soon as it is computed. Ranks come from horovodrun, torchrun or srun."""

import json
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from trainer.engines.ranks import RankInfo
from trainer.engines.rendezvous import Rendezvous, interface_to
from trainer.engines.replica import ReplicaEngine
from trainer.kernels.ranges import HOROVOD, named_range

_INSTALL = "launchers/install_horovod.sh"


class HorovodEngine(ReplicaEngine):
    """See Engine. Raises InputError where Horovod is missing, or was built for another torch or without GPUs."""

    def _connect(self, rank_info: RankInfo) -> None:
        self._hvd = _import_horovod(self.device)
        self._in_flight: list[tuple[int, Tensor, Tensor]] = []
        self._hooks: list[Any] = []
        self._last = False
        os.environ["HOROVOD_FUSION_THRESHOLD"] = str(self._runtime.bucket_mb << 20)
        os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"] = str(self._runtime.timeout_s)
        if self.world_size > 1 and rank_info.launcher != "horovodrun":
            self._rendezvous = Rendezvous(rank_info, self.device, self._runtime.connect_timeout_s)
            _stand_in_for_horovodrun(rank_info, self._rendezvous)
        with self._reporting_lost_ranks():
            self._hvd.init()

    def _store(self) -> dist.Store | None:
        if self.world_size == 1 or self._rendezvous is not None:
            return super()._store()
        # horovodrun gives no address to meet at, but Horovod itself is up by now.
        address: list[Any] = ["", 0]
        store: dist.Store | None = None
        if self.rank == 0:
            store = dist.TCPStore("localhost", 0, self.world_size, is_master=True, wait_for_workers=False)
            address = [os.environ.get("HOROVOD_HOSTNAME", platform.node()), store.port]
        host, port = self.gather(address)[0]
        return store or dist.TCPStore(host, port, self.world_size, wait_for_workers=False)

    def _wrap(self, model: nn.Module) -> nn.Module:
        for hook in self._hooks:
            hook.remove()
        if self.world_size == 1:
            return model
        for name, parameter in model.named_parameters():
            self._hvd.broadcast_(_flat_in_memory_order(parameter.data), 0, name=f"weights.{name}")
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._start_all_reduce, name))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        return model

    @contextmanager
    def _remember_last(self, last: bool) -> Iterator[None]:
        self._last = last
        yield

    def _no_sync(self, last: bool) -> AbstractContextManager[Any]:
        return self._remember_last(last)

    def _start_all_reduce(self, name: str, parameter: Tensor) -> None:
        if not self._last or parameter.grad is None:
            return
        gradient = _flat_in_memory_order(parameter.grad)
        sent = gradient.half() if self._runtime.gradient_compression == "fp16" else gradient
        handle = self._hvd.allreduce_async_(sent, name=f"gradient.{name}", op=self._hvd.Average)
        self._in_flight.append((handle, sent, gradient))

    def _finish_reduction(self) -> None:
        with named_range(HOROVOD):
            for handle, sent, gradient in self._in_flight:
                self._hvd.synchronize(handle)
                if sent is not gradient:
                    gradient.copy_(sent)
        self._in_flight.clear()

    def _all_reduce(self, tensor: Tensor) -> Tensor:
        # Calls of one kind share a name, and never overlap: Horovod remembers names.
        flat = tensor.flatten()
        name = f"sum.{tensor.dtype}.{len(flat)}"
        with named_range(HOROVOD):
            total: Tensor = self._hvd.allreduce_(flat, name=name, op=self._hvd.Sum)
        return total.view(tensor.shape)

    def close(self) -> None:
        super().close()
        self._hvd.shutdown()


def _flat_in_memory_order(tensor: Tensor) -> Tensor:
    """The tensor's elements as a contiguous vector that shares its memory, which Horovod requires."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    return tensor.permute(0, 2, 3, 1).view(-1)  # channels-last: weights, and gradients after them, are one or the other


def _stand_in_for_horovodrun(rank_info: RankInfo, rendezvous: Rendezvous) -> None:
    """Run the rendezvous server and set the environment that horovodrun would provide. The server lives as long as rank
    0."""
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousServer

    first_rank = rank_info.rank - rank_info.local_rank
    places = rendezvous.gather([rank_info.rank, rank_info.local_rank, rank_info.local_world_size])
    sizes = {rank - local: size for rank, local, size in places}  # of each node, by its first rank
    sharing = [first for first, size in sorted(sizes.items()) if size > rank_info.local_rank]
    node = f"node{first_rank}"
    port = 0
    if rank_info.rank == 0:
        server = RendezvousServer()
        port = server.start()
        server.init(_slots(sizes, SlotInfo))
    port = max(rendezvous.gather(port))
    os.environ.update(
        HOROVOD_HOSTNAME=node,
        HOROVOD_RANK=str(rank_info.rank),
        HOROVOD_SIZE=str(rank_info.world_size),
        HOROVOD_LOCAL_RANK=str(rank_info.local_rank),
        HOROVOD_LOCAL_SIZE=str(rank_info.local_world_size),
        HOROVOD_CROSS_RANK=str(sharing.index(first_rank)),
        HOROVOD_CROSS_SIZE=str(len(sharing)),
        HOROVOD_GLOO_RENDEZVOUS_ADDR=os.environ["MASTER_ADDR"],
        HOROVOD_GLOO_RENDEZVOUS_PORT=str(port),
        HOROVOD_CONTROLLER="gloo",
        HOROVOD_CPU_OPERATIONS="gloo",
    )
    os.environ.setdefault(
        "HOROVOD_GLOO_IFACE", os.environ.get("GLOO_SOCKET_IFNAME") or interface_to(os.environ["MASTER_ADDR"])
    )


def _slots(sizes: dict[int, int], slot_info: Any) -> list[Any]:
    """Every rank's slot; the server needs them to know how many ranks join each rendezvous."""
    slots = []
    for first, size in sorted(sizes.items()):
        for local in range(size):
            sharing = [other for other, their_size in sorted(sizes.items()) if their_size > local]
            slots.append(
                slot_info(
                    hostname=f"node{first}",
                    rank=first + local,
                    local_rank=local,
                    cross_rank=sharing.index(first),
                    size=sum(sizes.values()),
                    local_size=size,
                    cross_size=len(sharing),
                )
            )
    return slots


def _import_horovod(device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a build for another torch, which is an error here
            import horovod.torch as hvd
    except ImportError as error:
        raise InputError(f"Horovod cannot be imported ({error}); build it for this torch with {_INSTALL}") from error
    built = json.loads((Path(hvd.__file__).parents[1] / "metadata.json").read_text(encoding="utf-8")).get("pytorch")
    if built != torch.__version__:
        raise InputError(
            f"Horovod was built for torch {built}, this is {torch.__version__}; build it again with {_INSTALL}"
        )
    if device.type == "cuda" and not hvd.nccl_built():
        raise InputError(
            f"this Horovod was built for the CPU; build it for NCCL with {_INSTALL} --nccl, or take "
            f"{flag('--device')} cpu"
        )
    return hvd
