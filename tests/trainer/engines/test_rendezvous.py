"""How ranks meet in a store that torchrun's agents keep from one start of the ranks to the next."""

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from run_ranks import free_port, run_ranks

from trainer.engines.ranks import RankInfo
from trainer.engines.rendezvous import Rendezvous


def meet(port: int, word: str) -> list[str]:
    """Rank 0 comes last, so that the other one finds what was left before."""
    rank = int(os.environ["RANK"])
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    time.sleep(0.5 * (rank == 0))
    met = Rendezvous(RankInfo(rank, 2, rank, 2, "torchrun"), torch.device("cpu"), 20)
    words: list[str] = met.gather(f"{word} {rank}")
    met.close()
    return words


def come_late(port: int) -> list[str]:
    """Rank 1 comes after four seconds; a time-out of a day and two, without the day, would be over."""
    rank = int(os.environ["RANK"])
    os.environ["MASTER_PORT"] = str(port)
    time.sleep(4 * (rank == 1))
    met = Rendezvous(RankInfo(rank, 2, rank, 2, "torchrun"), torch.device("cpu"), 86_402)
    words: list[str] = met.gather("here")
    met.close()
    return words


def test_a_day_is_waited_for_a_rank() -> None:
    assert run_ranks(2, come_late, free_port()) == [["here", "here"]] * 2


def test_restarted_ranks_read_no_answers_of_an_earlier_round() -> None:
    store = dist.TCPStore(
        "127.0.0.1", free_port(), is_master=True, wait_for_workers=False, timeout=timedelta(seconds=9)
    )
    for word in ("first", "second"):
        assert run_ranks(2, meet, store.port, word) == [[f"{word} 0", f"{word} 1"]] * 2
