"""GPU energy counter, from NVML."""

from typing import Any

import torch


class EnergyCounter:
    """Energy in joules of this rank's GPU, from NVML; None without a GPU, or for one that has no counter."""

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self._begun: float | None = None
        if device.type != "cuda":
            return
        try:
            import pynvml  # only here: it comes with nvidia-ml-py, and a CPU has no use for it
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}".encode())
        except pynvml.NVMLError:
            return
        self._nvml = pynvml

    def total(self) -> float | None:
        """Energy used since the driver was loaded."""
        if self._nvml is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000.0  # millijoules
        except self._nvml.NVMLError:  # GPUs before Volta, and parts of a GPU, do not count
            return None

    def start(self) -> None:
        """Begin to count."""
        self._begun = self.total()

    def stop(self) -> float | None:
        """Energy used since `start`."""
        total = self.total()
        return None if total is None or self._begun is None else total - self._begun
