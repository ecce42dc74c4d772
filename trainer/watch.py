"""Reads what the ranks report of each step: a loss that is no longer a number stops the run and says which images it
was; a rank that was asked to stop stops all."""

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
    report: Tensor
    copied: torch.cuda.Event | None


class LossWatch:
    """Reads the reports of every step, one step late, so that reading never makes a GPU wait."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seen: _Seen | None = None
        self.stop_asked = False
        """Whether a rank had been asked to stop by the last step that was read; the same on every rank."""

    def see(self, step: int, lr: float, report: Tensor) -> None:
        """Check the step before, and take note of this one; `report` is [world size + 1], the same on every rank: the
        loss of each rank, and the number of ranks that were asked to stop."""
        self.settle()
        copied = None
        if report.is_cuda:
            on_host = torch.empty_like(report, device="cpu", pin_memory=True)
            report = on_host.copy_(report, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._seen = _Seen(step, lr, report, copied)

    def settle(self) -> None:
        """Check what was noted last. Raises RunError on every rank if a rank's loss is not finite."""
        if self._seen is None:
            return
        step, lr, report, copied = self._seen
        self._seen = None
        if copied is not None:
            copied.synchronize()
        losses = report[:-1]
        self.stop_asked = bool(report[-1])
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
