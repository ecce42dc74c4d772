"""SweepProgress display of a sweep: one bar over the steps of all runs, and a line per finished run."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from data_pipelines.common.progress import LINE_EVERY_S
from trainer.sweep.plan import PlannedRun


class SweepProgress:
    """Counts steps, not runs: a run on a full set may have forty times as many as one on a single shot."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._num_runs, self._num_ended, self._num_failed = len(runs), 0, 0
        self._steps = {run.name: run.first_step for run in runs}
        self._total = sum(run.steps for run in runs)
        self._first = sum(self._steps.values())
        self._started = self._last_line = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._total,
            initial=self._first,
            unit="step",
            smoothing=0,
            ncols=100,
            disable=not self._is_terminal,
        )

    def show(self, busy: Sequence[PlannedRun]) -> None:
        """Update the bar from the progress of the current runs."""
        self._steps |= {run.name: max(self._steps[run.name], run.steps_done()) for run in busy}
        self._bar.n, self._bar.total = sum(self._steps.values()), self._total
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        self._bar.set_description_str(f"{self._num_ended}/{self._num_runs} runs{failed}")
        if not self._is_terminal and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._say(self.line())

    def ended(self, run: PlannedRun, reason: str | None) -> None:
        """A run finished, or failed for a reason."""
        self._num_ended += 1
        if reason is None:
            self._steps[run.name] = run.steps
            line = run.summary()
        else:
            self._num_failed += 1
            self._total -= run.steps - self._steps[run.name]
            line = f"{run.run_dir} failed: {reason}"
        self._say(f"[{self._num_ended}/{self._num_runs}] {line}")

    def held(self, run: PlannedRun, reason: str) -> None:
        """Another start is using a run's folder, or was."""
        self._say(f"{run.name} comes last: {reason}")

    def line(self) -> str:
        """Steps done and the time left, extrapolated from the speed so far."""
        done, elapsed = sum(self._steps.values()), time.monotonic() - self._started
        line = f"{self._num_ended}/{self._num_runs} runs, {done}/{self._total} steps"
        if done == self._first:
            return line
        left = elapsed / (done - self._first) * (self._total - done)
        return f"{line}, {tqdm.format_interval(int(left))} left"

    def _say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)
        self._last_line = time.monotonic()

    def close(self) -> None:
        """Restore the terminal."""
        self._bar.close()
