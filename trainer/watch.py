"""Stops a run whose loss is no longer a number, and says which images it was."""

from typing import NamedTuple

import torch
from torch import Tensor

from data_pipelines.errors import RunError
from trainer.files import write_json
from trainer.job import Job

_SHOWN_KEYS = 8


class _Seen(NamedTuple):
    step: int
    lr: float
    losses: Tensor
    copied: torch.cuda.Event | None


class LossWatch:
    """Checks the loss of every step, one step late, so that reading it never makes a GPU wait."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seen: _Seen | None = None

    def see(self, step: int, lr: float, rank_losses: Tensor) -> None:
        """Check the step before, and take note of this one; `rank_losses` is [world size], the same on every rank."""
        self.settle()
        copied = None
        if rank_losses.is_cuda:
            on_host = torch.empty_like(rank_losses, device="cpu", pin_memory=True)
            rank_losses = on_host.copy_(rank_losses, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._seen = _Seen(step, lr, rank_losses, copied)

    def settle(self) -> None:
        """Check what was noted last. Raises RunError on every rank if a rank's loss is not finite."""
        if self._seen is None:
            return
        step, lr, losses, copied = self._seen
        self._seen = None
        if copied is not None:
            copied.synchronize()
        ranks = torch.nonzero(~losses.isfinite()).flatten().tolist()
        if ranks:
            self._stop(step, lr, ranks, len(losses))

    def _stop(self, step: int, lr: float, ranks: list[int], world_size: int) -> None:
        keys = {rank: self._job.train.keys(self._job.order.step(step, rank, world_size).samples) for rank in ranks}
        path = self._job.run_dir / f"nonfinite_step_{step:08d}.json"
        write_json(path, {"step": step, "lr": lr, "keys_by_rank": keys})
        shown = [key for rank_keys in keys.values() for key in rank_keys][:_SHOWN_KEYS]
        raise RunError(
            f"the loss of step {step} is not finite at learning rate {lr:.4g}, on rank {', '.join(map(str, ranks))}; "
            f"samples: {', '.join(shown)} ... (all in {path}). The last checkpoint is from before. Look at these, "
            "lower the learning rate, lengthen the warm-up, or take --precision fp32"
        )
