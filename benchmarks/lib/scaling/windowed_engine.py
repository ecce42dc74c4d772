"""An engine that times a training run in windows of steps, some of them without gradient exchange."""

from typing import Any

from torch import Tensor

from trainer.engine import Engine, Update
from trainer.training.gpu_energy import EnergyCounter


class WindowsDone(Exception):  # noqa: N818 - nothing is wrong
    """The last window is over. Ends the loop before it saves and evaluates."""


class WindowedEngine:
    """Wraps an engine and ends the run with WindowsDone after the last window of `window_steps` steps: one to warm up,
    `windows` as in any training, and `silent` ones in which gradients stay on their rank. The loop writes a row of
    metrics after each window; `joules` is the energy of `windows`.
    """

    def __init__(self, engine: Engine, window_steps: int, windows: int, silent: int) -> None:
        self._engine = engine
        self._warm = window_steps
        self._silent_from = window_steps * (1 + windows)
        self.total_steps = window_steps * (1 + windows + silent)
        self._steps = 0
        self._energy = EnergyCounter(engine.device)
        self.joules: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def accumulate(self, last: bool) -> Any:
        """The engine's, but for silent windows."""
        return self._engine.accumulate(last and self._steps < self._silent_from)

    def step(self, is_nonfinite: Tensor | None = None) -> Update:
        """The engine's; counts."""
        update = self._engine.step(is_nonfinite)
        self._steps += 1
        if self._steps == self._warm:
            self._energy.start()
        if self._steps == self._silent_from:
            self.joules = self._energy.stop()
        return update

    def set_lr(self, lr: float) -> None:
        """The engine's; that of the step after the last window ends the run, on all ranks alike."""
        if self._steps == self.total_steps:
            raise WindowsDone
        self._engine.set_lr(lr)
