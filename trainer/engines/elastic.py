"""DDP whose ranks may come and go without leaving their processes (`--elastic`). Experimental: tried on CPUs only.

Between two calls of `regroup` nothing differs from DDP: rank and world size are fixed. When a rank is lost, the
exchange under way fails on the others; they ask the coordinator (`membership.py`) who is left, form a new process
group, and repeat the step with other shares of the same batch. Order and augmentation are functions of the step, so
each sample still counts once.
"""

import atexit
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before a group exists: defaults of its functions would keep that for ever
from torch import Tensor, nn

from data_pipelines.common.errors import InputError
from trainer.config import Precision, RuntimeConfig
from trainer.engine import Changes, Progress, RegroupError, Update
from trainer.engines.ddp import DDPEngine
from trainer.engines.device import return_freed_memory
from trainer.engines.membership import Membership
from trainer.engines.ranks import RankInfo
from trainer.engines.rendezvous import is_of_a_lost_peer
from trainer.engines.watched_store import WatchedStore

_HERE_S, _POLL_S = 20.0, 0.005  # to wait for ranks that were there a moment ago
_ON_ITS_WAY_S = 0.5  # until a signal that is sent to all ranks has reached each


class ElasticEngine(DDPEngine):
    """See Engine and this module. Raises InputError without the coordinator that launchers/torchrun.sh --elastic
    starts."""

    def __init__(self, runtime: RuntimeConfig, precision: Precision) -> None:
        self._is_joining = False
        self._first: int | None = None  # step of this round
        self._num_mine = self._num_of_all = 0
        gc.freeze()  # `leave_group` collects garbage, and need not look through all modules for it
        atexit.register(gc.unfreeze)  # nanobind's modules complain of objects that outlive the interpreter
        super().__init__(runtime, precision)
        self.updates_done = torch.zeros((), dtype=torch.int64, device=self.device)  # updates of this round

    def _connect(self, rank_info: RankInfo) -> None:
        address, ranks = os.environ.get("BITSCALE_COORDINATOR", ""), int(os.environ.get("BITSCALE_RANKS", 0))
        if not address:
            raise InputError("--elastic needs a coordinator; start the run with launchers/torchrun.sh --elastic")
        if self._runtime.min_ranks > ranks:
            raise InputError(
                f"--min-ranks {self._runtime.min_ranks} is above the {ranks} ranks that the run starts with; lower it"
            )
        # Each rank serves a store of its own for when it is rank 0; the rounds have parts of it.
        self._served = dist.TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False)
        here = os.environ.get("BITSCALE_LOCAL_ADDR") or platform.node()
        slot = int(os.environ.get("BITSCALE_SLOT", 0))
        timeout_s = float(self._runtime.timeout_s)
        hello = {
            "name": f"{platform.node()}-{slot} (process {os.getpid()})",
            "host": platform.node(),
            "place": [int(os.environ.get("BITSCALE_NODE", 0)), slot],
            "store": f"{here}:{self._served.port}",
            "settings": {
                "ranks": ranks,
                "min_ranks": self._runtime.min_ranks,
                "straggler_s": timeout_s,
                "wait_s": float(self._runtime.min_ranks_wait_s),
            },
        }
        secret, connect_s = os.environ.get("BITSCALE_SECRET", ""), float(self._runtime.connect_timeout_s)
        self.membership = Membership(address, secret, hello, self._on_loss, connect_s)
        answer = None if self.membership.is_running() else self.membership.begin()
        if answer is None:
            self._is_joining, self.rank, self.world_size = True, -1, 1
        else:
            self._meet(answer)

    @property
    def is_joining(self) -> bool:
        return self._is_joining

    def introduce(self, facts: dict[str, Any]) -> None:
        self.membership.introduce(facts)

    def _store(self) -> dist.Store | None:
        return None if self._is_joining else self._shared

    def _meet(self, answer: dict[str, Any]) -> None:
        """Form the process group of a round."""
        self.rank, self.world_size = answer["rank"], answer["world_size"]
        self.local_world_size = answer["on_host"]
        self.changes = Changes(*(answer[name] for name in ("round", "left", "joined", "ends", "too_few")))
        os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(self.world_size))  # by which messages are told once
        host, _, port = answer["store"].rpartition(":")
        with self._reporting_lost_ranks():
            timeout = timedelta(seconds=self._runtime.timeout_s)
            client = dist.TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)
            self._shared = dist.PrefixStore(answer["name"], client)
            self._await_all()
            self._forms_until = time.monotonic() + self._runtime.timeout_s
            dist.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo",
                store=WatchedStore(dist.PrefixStore("group", self._shared), self._check_ranks),
                rank=self.rank,
                world_size=self.world_size,
                timeout=timeout,
                device_id=self.device if self.device.type == "cuda" else None,
            )

    def _await_all(self) -> None:
        """Wait until all ranks of the round are there. Without this, a group that lacks one waits for its time-out."""
        self._shared.set(f"here/{self.rank}", "")
        names = [f"here/{rank}" for rank in range(self.world_size)]
        deadline = time.monotonic() + _HERE_S
        while not self._shared.check(names):
            self._raise_if_lost()
            if time.monotonic() > deadline:
                raise RegroupError("a rank of the new round did not come")
            time.sleep(_POLL_S)

    def _check_ranks(self) -> None:
        self._raise_if_lost()
        if time.monotonic() > self._forms_until:
            raise RegroupError("a rank of the new round does not answer")

    def _on_loss(self, who: str) -> None:
        """A rank is lost. On GPUs the others' kernels would wait for it for ever: end them. Gloo sees it by itself."""
        if self.device.type == "cuda":
            with suppress(RuntimeError, ValueError, AttributeError):  # there may be no group at the moment
                abort_group(self.device)

    def _raise_if_lost(self) -> None:
        if self.membership.lost is not None:
            raise RegroupError(f"lost: {self.membership.lost}")

    @contextmanager
    def _regrouping(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, RegroupError):
                raise
            if self.membership.lost is None and not is_of_a_lost_peer(error):
                raise
        else:
            return
        # Without the error: it would keep the group alive, whose sockets the others wait for to close.
        raise RegroupError(f"an exchange failed, lost: {self.membership.lost or 'a rank, or its network'}")

    def _reporting_lost_ranks(self) -> AbstractContextManager[None]:
        return self._regrouping()

    def _describe_transport(self) -> str:
        return f"{'NCCL' if self.device.type == 'cuda' else 'Gloo'}, elastic"

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, example: Tensor) -> None:
        self._example = example
        super().prepare(model, optimizer, example)
        if self._is_joining:
            self._rehearse()

    def _rehearse(self) -> None:
        """Form a group of this rank alone: what takes long for the first time is then behind it, and the others, whom
        it joins, do not wait for that."""
        store = dist.HashStore()
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        self.model = self._distributed(self._unwrapped)
        self._dry_run(self._example)
        self.leave_group()

    def begin_step(self, step: int) -> None:
        self._raise_if_lost()
        if self._first is None:
            self._first = step
        super().begin_step(step)

    def expect_samples(self, mine: int, of_all: int) -> None:
        self._num_mine, self._num_of_all = mine, of_all

    def step(self, is_nonfinite: Tensor | None = None) -> Update:
        # Filled on the device: a copy from the host would wait for it.
        counted = torch.full((2,), float(self._num_mine), dtype=torch.float64, device=self.device)
        counted[1] = float(self.membership.joiners_wait)
        counted = self.sum(counted)
        is_short = counted[0] != self._num_of_all
        update = super().step(is_short if is_nonfinite is None else is_nonfinite | is_short)
        self.updates_done += ~is_short
        return update._replace(skipped=None if is_nonfinite is None else update.skipped, counted=counted)

    def agree_to_stop(self, is_asked: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _ON_ITS_WAY_S
        while not is_asked() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        asked = is_asked()
        if int(self.sum(torch.tensor(int(asked)))) == self.world_size:
            return True
        if asked:
            self.membership.leave("it was asked to stop")
        return False

    def sum(self, tensor: Tensor) -> Tensor:
        if self.world_size > 1:
            self._raise_if_lost()
        return super().sum(tensor)

    def regroup(self, progress: Progress, is_asked: Callable[[], bool]) -> Progress:
        if self._first is not None:
            done = self._first + int(self.updates_done)  # what the device has done of what the host has asked for
            if done < progress.step:
                progress.step, progress.is_owed = done, False
        while True:
            self.leave_group()
            answer = self.membership.regroup(progress.step, is_asked)
            try:
                with self._regrouping():
                    return self.take_part(answer, progress)
            except RegroupError:
                continue  # one more is lost

    def take_part(self, answer: dict[str, Any], progress: Progress) -> Progress:
        """Form the group of a round and bring its ranks to the state of the one that is furthest."""
        self._meet(answer)
        self.heartbeat.move(self._shared, self.rank, self.world_size)
        states = self.gather({"progress": asdict(progress), "loss_scaler": self._scaler.state_dict()})
        state = states[answer["source"]]
        if not answer["in_step"]:
            self._receive(answer["source"], state["loss_scaler"])
        self.model = self._wrap(self._unwrapped)
        self._dry_run(self._example)
        self._first, self._is_joining = None, False
        self.updates_done.zero_()
        at_source = [each["progress"] for each in states if each["progress"]["step"] == state["progress"]["step"]]
        return replace(
            Progress(**state["progress"]),
            is_owed=any(each["is_owed"] for each in at_source),
            must_save=answer["new_rank_0"] and state["progress"]["step"] > 0,
            source=answer["source"],
        )

    def leave_group(self) -> None:
        """Undo what forming a group and wrapping the model have done. Whatever still refers to the old group would keep
        its sockets open, and other ranks would wait for their end."""
        self._unwrap()
        self._optimizer.zero_grad()
        gc.collect()
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()
        return_freed_memory()

    def _receive(self, source: int, loss_scaler: dict[str, Any]) -> None:
        """Give all ranks the weights, momentum and loss scaler of one."""
        if self.gather(bool(self._momentum()))[source]:
            for _, parameter in self._trained():
                state = self._optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        else:
            self._load_momentum({})
        tensors = [*self._unwrapped.state_dict().values(), *self._momentum().values()]
        # As they lie in memory, alike on all ranks: Gloo takes no channels-last tensors.
        works = [dist.broadcast(_in_memory_order(tensor), source, async_op=True) for tensor in tensors]
        for work in works:
            assert work is not None  # as this rank is in the group
            work.wait()
        if self._scaler.is_enabled() and loss_scaler:
            self._scaler.load_state_dict(loss_scaler)

    def close(self) -> None:
        self.membership.leave("the run is finished", finished=True)
        if dist.is_initialized():
            dist.destroy_process_group()


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A view, one-dimensional, of a tensor without gaps."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def abort_group(device: torch.device) -> None:
    """End the collectives under way on a GPU. From any thread."""
    group: Any = dist.group.WORLD
    group._get_backend(device).abort()
