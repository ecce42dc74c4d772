"""Reads what the ranks report of each step: a loss or gradient that is no longer a number stops the run, or costs one
update, and the images are named; a loss that leaps is warned of; a rank that was asked to stop stops all."""

import math

import torch
from torch import Tensor

from data_pipelines.common.advice import flag, has_flag
from data_pipelines.common.errors import RunError
from data_pipelines.common.files import write_json
from data_pipelines.common.messages import logger
from data_pipelines.loading.unreadable import keys_of
from trainer.config import Config
from trainer.engines.base import Engine
from trainer.run_files import SKIPPED_STEPS
from trainer.run_folder import Rows
from trainer.training.job import Job
from trainer.training.loss_spikes import SpikeDetector
from trainer.training.step_report import HostCopy, StepReport
from trainer.training.unreadable_images import Account

_COLUMNS = ("step", "lr", "why", "rank", "key")
_SHOWN_KEYS = 8


class LossWatch:
    """Reads the reports of every step, one step late, so that reading never makes a GPU wait. Collective."""

    def __init__(self, job: Job, engine: Engine, first_step: int) -> None:
        self._job, self._rank, self._world_size = job, engine.rank, engine.world_size
        self._seen: HostCopy | None = None
        self.skips = job.config.runtime.non_finite == "skip"
        self._scales_loss = job.config.precision == "fp16"  # whose infinite gradients are the loss scaler's affair
        self._spikes = SpikeDetector()
        self._account = Account(job, engine, first_step)
        self._skipped = Rows(job.run_dir / SKIPPED_STEPS, _COLUMNS, enabled=engine.rank == 0)
        before = {row[0] for row in self._skipped.cut_back(first_step)}
        self.num_skipped = int(engine.sum(torch.tensor(len(before))))
        """Updates that the run has left out, those before it was resumed included; the same on every rank."""
        self.stop_asked = False
        """Whether a rank had been asked to stop by the last step that was read; the same on every rank."""

    def ruined(self, losses: Tensor) -> Tensor | None:
        """For `Engine.step`: whether a rank's loss is not finite, on the device; None where that stops the run."""
        return ~losses.isfinite().all() if self.skips else None

    def see(self, report: StepReport) -> None:
        """Check the step before, and take note of this one."""
        self.settle()
        self._seen = report.to_host()

    def settle(self) -> None:
        """Check what was noted last. Raises RunError on every rank where a loss or gradient is not finite, unless that
        update was left out and not too many were; and where images cannot be shown, as `Account.take` does."""
        if self._seen is None:
            return
        report, numbers = self._seen.report, self._seen.read()
        self._seen = None
        self.stop_asked = numbers.is_stopping
        if numbers.num_unreadable:
            self._account.take(report.step, report.unreadable)
        ranks = [rank for rank, loss in enumerate(numbers.losses) if not math.isfinite(loss)]
        if ranks:
            self._object(report.step, report.lr, "loss", ranks)
        elif numbers.is_bad and not self._scales_loss:
            self._object(report.step, report.lr, "gradient", list(range(self._world_size)))
        else:
            self._warn_of_spike(report.step, sum(numbers.losses))

    def _object(self, step: int, lr: float, what: str, ranks: list[int]) -> None:
        if not self.skips:
            self._stop(step, lr, what, ranks)
        self.num_skipped += 1
        keys = self._keys(step, ranks) if self._rank == 0 else {}
        self._skipped.add((step, lr, what, rank, key) for rank, of_rank in keys.items() for key in of_rank)
        most = self._job.config.runtime.max_skipped_steps
        if self._rank == 0:
            left = f"the update is left out, as {self.num_skipped} of at most {most}"
            logger.warning(f"the {what} of step {step} is not finite; {left}; {SKIPPED_STEPS} has the images")
        if self.num_skipped > most:
            raise RunError(
                f"{self.num_skipped} steps had a loss or gradient that was not finite, more than "
                f"{flag('--max-skipped-steps')} {most}; their images are in {self._skipped.path}. Look at these, "
                f"{ways_to_stay_finite(self._job.config)}"
            )

    def _warn_of_spike(self, step: int, loss: float) -> None:
        usual = self._spikes.see(loss)
        if usual is not None and self._rank == 0:
            logger.warning(f"the loss of step {step} leaps to {loss:.4g}, usual is {usual:.4g}")

    def _keys(self, step: int, ranks: list[int]) -> dict[int, list[str]]:
        train, order = self._job.train, self._job.order
        return {rank: keys_of(train, order.step(step, rank, self._world_size).samples) for rank in ranks}

    def _stop(self, step: int, lr: float, what: str, ranks: list[int]) -> None:
        keys = self._keys(step, ranks)
        path = self._job.run_dir / f"nonfinite_step_{step:08d}.json"
        if self._rank == 0:
            write_json(path, {"step": step, "lr": lr, "keys_by_rank": keys})
        another = f"leave out such updates with {flag('--non-finite')} skip"
        shown = [key for rank_keys in keys.values() for key in rank_keys][:_SHOWN_KEYS]
        raise RunError(
            f"the {what} of step {step} is not finite at learning rate {lr:.4g}, on rank {', '.join(map(str, ranks))}; "
            f"samples: {', '.join(shown)} ... (all in {path}). What was saved before stays as it is. Look at these, "
            f"{ways_to_stay_finite(self._job.config, another)}"
        )


def ways_to_stay_finite(config: Config, another: str | None = None) -> str:
    """What a run can be given whose numbers became too large, and `another` way."""
    ways = ["lower the learning rate", "lengthen the warm-up" if has_flag("--schedule.warmup-steps") else None]
    ways += [f"take {flag('--precision')} fp32" if config.precision != "fp32" else None, another]
    *most, last = filter(None, ways)
    return f"{', '.join(most)}, or {last}" if most else last
