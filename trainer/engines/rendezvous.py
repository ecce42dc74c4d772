"""How the ranks of a job meet at start, and how the survivors find out which ranks are lost."""

import fcntl
import json
import os
import platform
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from data_pipelines.common.errors import InputError
from trainer.engine import RankLostError
from trainer.engines.consistency import disagreements, shared_gpus
from trainer.engines.ranks import RankInfo

_KNOCK_S = 5.0  # to wait for one answer of an address
_POLL_S = 0.02
SILENT_S = 10.0  # after which an address that answers nothing at all is given up
_BEAT_S = 1.0
_SILENT_BEATS = 3
_SAME = ("torch", "nccl")  # where they differ, NCCL hangs instead of saying so
_SIOCGIFADDR = 0x8915
_STORES: list[dist.Store] = []  # the server of rank 0 lives as long as the process: others may still read what it holds

# What the backends say of a peer that is gone, where the type of the error does not. Gloo names its source file but for
# the second: an exchange after one that timed out, while the backward pass was still under way.
_LOST_PEER = (
    "gloo",
    "Application timeout caused pair closure",
    "Connection closed by peer",
    "Horovod has been shut down",
)


class Rendezvous:
    """A store that all ranks share, with a pulse of each rank in it.

    Raises InputError, within seconds where possible, when rank 0 cannot be reached, when ranks are missing after
    `timeout_s`, and when ranks do not match each other; rank 0 has the full message.
    """

    def __init__(self, rank_info: RankInfo, device: torch.device, timeout_s: int) -> None:
        self.rank_info = rank_info
        self.address = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        self._timeout, self._gathered = timedelta(seconds=timeout_s), 0
        self.store = self._join_round(self._open_store())
        by_rank = self.gather(_facts(device))
        problems = disagreements(by_rank, _SAME) + shared_gpus(by_rank)
        if problems:
            raise InputError("the ranks do not fit each other:\n  " + "\n  ".join(problems))
        self._pulse = dist.PrefixStore("pulse", self.store.clone())
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _open_store(self) -> dist.Store:
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        if not host or not port.isdigit():
            raise InputError(f"MASTER_ADDR={host!r} and MASTER_PORT={port!r} must name where rank 0 listens")
        serves = self.rank_info.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if not serves:
            _await_answer(host, int(port), self._timeout.total_seconds())
        try:
            store = dist.TCPStore(
                host,
                int(port),
                self.rank_info.world_size,
                is_master=serves,
                timeout=self._timeout,
                wait_for_workers=False,
                multi_tenant=True,
            )
            _STORES.append(store)
            return store
        except RuntimeError as error:
            raise InputError(
                f"rank {self.rank_info.rank} cannot open MASTER_ADDR:MASTER_PORT {self.address} ({error}); choose "
                "another port, and let MASTER_ADDR name the host of rank 0"
            ) from error

    def _join_round(self, store: dist.Store) -> dist.Store:
        """The part of the store that the ranks of this start share with no earlier start.

        The store of torchrun's agents keeps what ranks before a restart wrote, and nothing that agents tell their ranks
        names the round on all of them: each counts its own restarts. So rank 0 makes up a name, and gives it to every
        rank that asks, under a key that nobody used before.
        """
        rank_info = self.rank_info
        if rank_info.rank > 0:
            key = f"round/{secrets.token_hex(8)}"
            store.append("asking", f"{key} ")  # type: ignore[attr-defined]  # torch's stubs lack it
            with self._rank_0_answers():
                joined = dist.PrefixStore(store.get(key).decode(), store)
            joined.set(f"joined/{rank_info.rank}", "")
            return joined
        name, answered = secrets.token_hex(8), set[str]()
        joined = dist.PrefixStore(name, store)
        others = [f"joined/{rank}" for rank in range(1, rank_info.world_size)]
        deadline = time.monotonic() + self._timeout.total_seconds()
        while others and not joined.check(others):
            asking = set(store.get("asking").decode().split()) if store.check(["asking"]) else set[str]()
            for key in asking - answered:
                store.set(key, name)
            answered |= asking
            if time.monotonic() > deadline:
                raise self._missing([key.partition("/")[2] for key in others if not joined.check([key])])
            time.sleep(_POLL_S)
        return joined

    @contextmanager
    def _rank_0_answers(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise InputError(f"rank 0 at {self.address} stopped before the job began, see its message") from error

    def _missing(self, ranks: list[str]) -> InputError:
        return InputError(f"rank {', '.join(ranks)} did not start within {self._timeout.total_seconds():g} s")

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, plain JSON types, by rank. Collective; through the store, for use before the process
        group exists.

        Raises InputError naming ranks that do not answer within the start's time-out.
        """
        self._gathered += 1
        store, rank_info = dist.PrefixStore(f"gather/{self._gathered}", self.store), self.rank_info
        store.set(str(rank_info.rank), json.dumps(value))
        if rank_info.rank > 0:
            with self._rank_0_answers():
                answer: list[Any] = json.loads(store.get("all"))
            store.add("read", 1)
            return answer
        names = [str(rank) for rank in range(rank_info.world_size)]
        try:
            store.wait(names, self._timeout)
        except RuntimeError as error:
            raise self._missing([name for name in names if not store.check([name])]) from error
        values = [json.loads(text) for text in store.multi_get(names)]
        store.set("all", json.dumps(values))
        deadline = time.monotonic() + _KNOCK_S
        # The store may end with rank 0, so the others read it first.
        while store.add("read", 0) < rank_info.world_size - 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return values

    # Not by the watchdog's thread: that runs while a run is watched, and ranks are also lost before and after.
    def _beat(self) -> None:
        with suppress(RuntimeError):  # the store went first
            while not self._stopped.wait(_BEAT_S):
                self._pulse.add(str(self.rank_info.rank), 1)

    def find_lost_ranks(self) -> str:
        """The ranks without a pulse, as text. Takes some seconds."""
        answers: list[str] = []
        # Behind a cut cable a call to the store does not return.
        asking = threading.Thread(target=lambda: answers.append(self._ask_for_pulses()), daemon=True)
        asking.start()
        asking.join(2 * _SILENT_BEATS * _BEAT_S)
        return answers[0] if answers else f"lost: rank 0, whose store at {self.address} does not answer"

    def _ask_for_pulses(self) -> str:
        names = [str(rank) for rank in range(self.rank_info.world_size)]
        try:
            before = [self._pulse.add(name, 0) for name in names]
            time.sleep(_SILENT_BEATS * _BEAT_S)
            after = [self._pulse.add(name, 0) for name in names]
        except RuntimeError:
            return f"rank 0 at {self.address} does not answer"
        lost = [name for name, old, new in zip(names, before, after, strict=True) if old == new]
        if lost:
            return f"lost: rank {', '.join(lost)}"
        return "all ranks are alive: the network is at fault, or they wait for each other in different exchanges"

    @contextmanager
    def reporting_lost_ranks(self) -> Iterator[None]:
        """Turn the backends' errors about a lost peer into RankLostError."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, RankLostError) or not is_of_a_lost_peer(error):
                raise
            who = self.find_lost_ranks()
            raise RankLostError(f"another rank stopped or did not answer ({who})") from error

    def close(self) -> None:
        self._stopped.set()


def is_of_a_lost_peer(error: RuntimeError) -> bool:
    """Whether a backend reports so that another rank is gone."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError):
        return True
    return any(words in str(error) for words in _LOST_PEER)


def _facts(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {"host": platform.node(), "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = str(getattr(properties, "uuid", device))
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return facts


def _await_answer(host: str, port: int, timeout_s: float) -> None:
    """Wait until rank 0 listens. A reachable host may start late; an unreachable one is not waited for."""
    started, heard = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host, port), _KNOCK_S).close()
            return
        except socket.gaierror as error:
            raise InputError(
                f"MASTER_ADDR={host} is not the name of a host that {platform.node()} knows ({error.strerror}); start "
                "rank 0's node with an address that all nodes know: launchers/torchrun.sh has --local-addr for it, "
                "a SLURM job `address` of the site profile"
            ) from error
        except ConnectionRefusedError:
            heard, failure = True, "it refuses the connection"
        except OSError as error:
            failure = error.strerror or "no answer"
        waited = time.monotonic() - started
        if waited > (timeout_s if heard else min(timeout_s, SILENT_S)):
            way = interface_to(host) or "any interface"
            raise InputError(
                f"rank 0 at MASTER_ADDR={host}, MASTER_PORT={port} cannot be reached from {platform.node()} over "
                f"{way}: {failure}, after {waited:.0f} s. Name an address in the network that the nodes "
                "share (with InfiniBand often <host>i), and open the port"
            )
        time.sleep(0.2)


def interface_to(host: str) -> str:
    """The network interface that this machine uses to reach a host; empty if unknown."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        address = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return ""
