"""Run a function on several real ranks, each a process of its own.

They are forked by a server that has imported torch and the trainer once: importing them takes seconds for each rank.
"""

import os
import queue
import socket
import traceback
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.reduction import DupFd
from typing import Any

import torch
import torch.multiprocessing as mp

TIMEOUT_S = 300
# What a run imports when it comes to it: DDP's constructor, the metrics and their files.
_IMPORTED_BY_A_RUN = ("torch._dynamo", "torch.utils.tensorboard", "scipy.optimize", "scipy.stats")


def context_of_ranks() -> BaseContext:
    """Of processes that begin with torch and the trainer imported, and share nothing else with this one."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["trainer.training.run", "trainer.engines.ddp", *_IMPORTED_BY_A_RUN])
    return context


class Surroundings:
    """Environment variables and standard streams of this process, for one whose parent is the server."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._streams: tuple[Any, ...] = (1, 2)

    def __getstate__(self) -> dict[str, Any]:
        return {"_environment": self._environment, "_streams": tuple(DupFd(stream) for stream in self._streams)}

    def take_over(self) -> None:
        """Call it in the new process."""
        os.environ.clear()
        os.environ.update(self._environment)
        for number, stream in enumerate(self._streams, 1):
            os.dup2(stream.detach(), number)


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """function(*arguments) on each rank, under torchrun's environment variables; the results by rank.

    `function` must be importable by name; results must pickle. Raises AssertionError with a rank's traceback.
    """
    context = context_of_ranks()
    results = context.Queue()
    port, surroundings = free_port(), Surroundings()
    processes = [
        context.Process(
            target=_rank, args=(surroundings, rank, world_size, port, results, function, arguments), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    by_rank: dict[int, Any] = {}
    for _ in processes:
        try:
            rank, ok, result = results.get(timeout=TIMEOUT_S)
        except queue.Empty:
            for process in processes:
                process.kill()
            raise AssertionError(f"of {world_size} ranks only {sorted(by_rank)} came to an end") from None
        if not ok:
            for process in processes:
                process.kill()
        assert ok, f"rank {rank} of {world_size}:\n{result}"
        by_rank[rank] = result
    for process in processes:
        process.join(TIMEOUT_S)
    return [by_rank[rank] for rank in range(world_size)]


def _rank(
    surroundings: Surroundings,
    rank: int,
    world_size: int,
    port: int,
    results: Any,
    function: Callable[..., Any],
    arguments: Any,
) -> None:
    surroundings.take_over()
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        results.put((rank, True, function(*arguments)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))


def free_port() -> int:
    """A TCP port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
