"""What a GPU uses, from NVML."""

from typing import Any

import torch


class EnergyCounter:
    """Joules of this rank's GPU, from NVML; None where there is none."""

    def __init__(self, device: torch.device) -> None:
        self._handle: Any = None
        if device.type != "cuda":
            return
        try:
            import pynvml  # of nvidia-ml-py, which a GPU can be measured without
        except ImportError:
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}".encode())
            self._read()
        except pynvml.NVMLError:
            self._handle = None

    def _read(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000.0  # millijoules

    def start(self) -> None:
        """Begin to count."""
        self._started = self._read() if self._handle else 0.0

    def stop(self) -> float | None:
        """What was used since."""
        return self._read() - self._started if self._handle else None
