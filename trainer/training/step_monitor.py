"""Checks each step's report: non-finite losses or gradients stop the run or skip the update, and the images are named;
loss spikes give a warning; a stop signal on one rank stops all, and rank 0's clock has all save."""

import math
from collections import deque
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from data_pipelines.common.advice import flag, has_flag
from data_pipelines.common.errors import RunError
from data_pipelines.common.files import write_json
from data_pipelines.common.messages import logger
from data_pipelines.loading.unreadable import sample_keys
from trainer.config import Config
from trainer.engine import Engine, RankLostError
from trainer.run_files import NONFINITE, SKIPPED_STEPS
from trainer.run_folder import CsvLog
from trainer.training.job import Job
from trainer.training.rising_val_loss import RisingValLoss
from trainer.training.step_report import HostCopy, StepReport
from trainer.training.unreadable_images import UnreadableImageLog

_COLUMNS = ("step", "lr", "why", "rank", "key")
_SHOWN_KEYS = 8
WINDOW_STEPS, FEWEST_STEPS = 100, 20
_DEVIATIONS = 10.0
_SIGMA_OF_MAD = 1.4826  # of normally distributed values
_LEAST_SPREAD = 0.01  # of the median: losses may be equal for a while
_NO_SPIKE_BELOW = 0.1  # a cross-entropy at which true labels have a probability of 90%: the images are learnt


class SpikeDetector:
    """Detects a sudden rise of the loss. It only leads to a warning: whether it matters is for people to judge.

    Each loss is compared with the last hundred by their median and median absolute deviation, which a few outliers do
    not move. A loss below 0.1 is no spike, however small those before it were. It starts empty at every launch, so
    nothing has to be saved.
    """

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._is_high = False

    def observe(self, loss: float) -> float | None:
        """The median that a loss is far above, at the first step of a spike; None otherwise."""
        if not math.isfinite(loss):
            return None
        usual = None
        if len(self._losses) >= FEWEST_STEPS:
            middle = median(self._losses)
            spread = _SIGMA_OF_MAD * median(abs(seen - middle) for seen in self._losses)
            is_high = loss > max(_NO_SPIKE_BELOW, middle + _DEVIATIONS * max(spread, _LEAST_SPREAD * abs(middle)))
            usual = middle if is_high and not self._is_high else None
            self._is_high = is_high
        self._losses.append(loss)
        return usual


class StepMonitor:
    """Reads the reports of every step, one step late, so that reading never makes a GPU wait. Collective."""

    def __init__(
        self, job: Job, engine: Engine, first_step: int, is_overdue: Callable[[], bool] = lambda: False
    ) -> None:
        self.is_overdue = is_overdue
        """Whether this rank finds that the last checkpoint is too old."""
        self._job, self._rank, self._world_size = job, engine.rank, engine.world_size
        self._pending: HostCopy | None = None
        self.skips = job.config.runtime.non_finite == "skip"
        self._scales_loss = job.config.precision == "fp16"  # whose infinite gradients are left to the loss scaler
        self._spikes = SpikeDetector()
        self._rising = RisingValLoss(job.config, job.total_steps, job.steps_per_epoch)
        self._unreadable = UnreadableImageLog(job, engine, first_step)
        self._skipped = CsvLog(job.run_dir / SKIPPED_STEPS, _COLUMNS, enabled=engine.rank == 0)
        before = {row[0] for row in self._skipped.truncate(first_step)}
        self.num_skipped = int(engine.sum(torch.tensor(len(before))))
        """Updates that the run has left out, those before it was resumed included; the same on every rank."""
        self.stop_asked = False
        """Whether a rank had been asked to stop by the last step that was read; the same on every rank."""
        self.save_asked = False
        """Whether a step read since the last `observe` found the checkpoint too old; the same on every rank."""
        self.regroup_asked = False
        """Whether ranks wait to join an elastic run; the same on every rank."""

    def observe_val(self, step: int, loss: float) -> None:
        """Warn at the end of a run whose loss on val, here after so many steps, has been rising for long."""
        self._rising.observe(step, loss)

    def is_nonfinite(self, losses: Tensor) -> Tensor | None:
        """For `Engine.step`: whether any rank's loss is not finite, on the device; None where that stops the run."""
        return ~losses.isfinite().all() if self.skips else None

    def observe(self, report: StepReport) -> None:
        """Begin to read the report of a step, and check that of the step before."""
        self.save_asked = False
        self.flush()
        self._pending = report.to_host()

    def flush(self) -> None:
        """Check the report that was observed last. Raises RunError on every rank where a loss or gradient is not
        finite, unless that update was skipped and not too many were; and for unreadable images, as
        `UnreadableImageLog.take` does."""
        if self._pending is None:
            return
        report, numbers = self._pending.report, self._pending.read()
        self._pending = None
        self.stop_asked = numbers.is_stopping
        self.save_asked = self.save_asked or numbers.is_overdue
        self.regroup_asked = numbers.num_joining > 0
        if numbers.num_samples is not None:
            self._require_whole(report.step, numbers.num_samples)
        if numbers.num_unreadable:
            self._unreadable.take(report.step, report.unreadable)
        ranks = [rank for rank, loss in enumerate(numbers.losses) if not math.isfinite(loss)]
        if ranks:
            self._handle_nonfinite(report.step, report.lr, "loss", ranks)
        elif numbers.is_bad and not self._scales_loss:
            self._handle_nonfinite(report.step, report.lr, "gradient", list(range(self._world_size)))
        else:
            self._warn_of_spike(report.step, sum(numbers.losses))

    def _require_whole(self, step: int, num_samples: int) -> None:
        batch_size = self._job.config.global_batch_size
        if num_samples != batch_size:
            raise RankLostError(
                f"the ranks of step {step} brought {num_samples} of {batch_size} samples together, so its update was "
                "left out: they were not those of one round"
            )

    def _handle_nonfinite(self, step: int, lr: float, what: str, ranks: list[int]) -> None:
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
        usual = self._spikes.observe(loss)
        # While the learning rate rises, losses leap as a rule.
        is_warming_up = step > 0 and self._job.schedule(step) > self._job.schedule(step - 1)
        if usual is not None and not is_warming_up and self._rank == 0:
            logger.warning(f"the loss of step {step} jumps to {loss:.4g}, where {usual:.4g} is usual")

    def _keys(self, step: int, ranks: list[int]) -> dict[int, list[str]]:
        train, order = self._job.train, self._job.order
        return {rank: sample_keys(train, order.request(step, rank, self._world_size).samples) for rank in ranks}

    def _stop(self, step: int, lr: float, what: str, ranks: list[int]) -> None:
        keys = self._keys(step, ranks)
        path = self._job.run_dir / NONFINITE.format(step=step)
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
    """Advice for a run whose numbers became too large, ending with `another` way."""
    ways = ["lower the learning rate", "lengthen the warm-up" if has_flag("--schedule.warmup-steps") else None]
    ways += [f"take {flag('--precision')} fp32" if config.precision != "fp32" else None, another]
    *most, last = filter(None, ways)
    return f"{', '.join(most)}, or {last}" if most else last
