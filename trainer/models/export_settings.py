"""The flags of an export. Without PyTorch, which their help does not need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Export:
    """Write the weights of a run for other programs."""

    source: Annotated[str, tyro.conf.Positional]
    """Run folder, file of weights, or published name."""
    out: Path
    """Folder to make: the weights and a config.json."""
    format: Literal["timm", "npz"] = "timm"
    """timm: safetensors with timm's names; npz: the NumPy format of the BiT authors, which timm reads too."""
    as_stored: bool = False
    """timm: leave the filters as they are, instead of multiplying them by 10: timm adds 1e-8 to their variance where
    BiT adds 1e-10. Without the factor its logits differ from ours; with it SGD turns the filters as with a hundredth of
    its learning rate."""
    force: bool = False
    """Replace an earlier export."""
    head: str | None = None
    """Of a run with a head for each of its sets: the one to export."""
