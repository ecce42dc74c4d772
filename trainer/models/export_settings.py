"""The flags of an export. Without PyTorch, which their help does not need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipelines.common.errors import InputError
from trainer.models.sources import require_weights
from trainer.run_files import require_run

SAFETENSORS, NPZ, ONNX, TORCH = "model.safetensors", "model.npz", "model.onnx", "model.pt2"
ONNX_DATA = f"{ONNX}.data"
"""The weights of a network that is too large for one file."""
EXPORTED_FILES = (SAFETENSORS, NPZ, ONNX, ONNX_DATA, TORCH, "config.json", "MODEL_CARD.md")
GRAPHS = ("onnx", "torch")
"""The formats that hold the network with its weights."""


@dataclass(frozen=True)
class Export:
    """Write a run for other programs."""

    source: Annotated[str, tyro.conf.Positional]
    """Run folder, file of weights, or published name; onnx and torch: run folder or checkpoint."""
    out: Path
    """Folder to make: the weights and a config.json; onnx and torch: a model card too."""
    format: Literal["timm", "npz", "onnx", "torch"] = "timm"
    """timm: safetensors with timm's names; npz: the NumPy format of the BiT authors, which timm reads too. The network
    itself, from uint8 pixels to logits: onnx for ONNX Runtime and others (extra onnx), torch for torch.export.load."""
    as_stored: bool = False
    """timm: leave the filters as they are, instead of multiplying them by 10: timm adds 1e-8 to their variance where
    BiT adds 1e-10. Without the factor its logits differ from ours; with it SGD turns the filters as with a hundredth of
    its learning rate."""
    force: bool = False
    """Replace an earlier export."""
    head: str | None = None
    """Of a run with a head for each of its sets: the one to export."""

    def __post_init__(self) -> None:
        if self.as_stored and self.format in GRAPHS:
            raise InputError(f"--as-stored is for --format timm; leave it out with --format {self.format}")

    def require_source(self) -> None:
        """Raise InputError, naming the nearest, where nothing is there to export."""
        if self.format in GRAPHS:
            require_run(Path(self.source))
        else:
            require_weights(self.source)
