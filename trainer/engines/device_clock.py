"""How long the forward passes of a GPU take, without waiting for it."""

import torch

from trainer.engine import Phase


class DeviceClock:
    """Seconds of the forward passes on a GPU, from sampled events that are read once they have completed."""

    def __init__(self) -> None:
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._state = "idle"
        self._passes, self._sampled, self._sampled_s = 0, 0, 0.0

    def enter(self, phase: Phase) -> None:
        """The training thread begins a phase."""
        if phase == "forward":
            self._passes += 1
            if self._state == "ended" and self._end.query():
                self._sampled += 1
                self._sampled_s += self._start.elapsed_time(self._end) / 1e3
                self._state = "idle"
            if self._state == "idle":
                self._start.record()
                self._state = "begun"
        elif self._state == "begun":
            self._end.record()
            self._state = "ended"

    def seconds(self) -> float:
        """Of all passes so far, as long as the sampled ones took on average."""
        return self._sampled_s / max(1, self._sampled) * self._passes
