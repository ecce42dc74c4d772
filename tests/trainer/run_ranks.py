"""Run a function on several real ranks, each a process of its own."""

import os
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

TIMEOUT_S = 300


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """function(*arguments) on each rank, under torchrun's environment variables; the results by rank.

    `function` must be importable by name; results must pickle. Raises AssertionError with a rank's traceback.
    """
    context = mp.get_context("spawn")
    results = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_rank, args=(rank, world_size, port, results, function, arguments), daemon=True)
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


def _rank(rank: int, world_size: int, port: int, results: Any, function: Callable[..., Any], arguments: Any) -> None:
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
