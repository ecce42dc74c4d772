"""A few pictures in a folder, and what a run must be to predict them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ABOUT: dict[str, Any] = {"task": "single_label", "resize": 32, "eval_view": "squash", "channels": 3, "xray_size": None}


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
