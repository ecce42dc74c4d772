"""Phantoms whose findings have known places, to test maps on: drawn anew, so that no run was trained on them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.phantom import draw_phantom
from data_pipelines.datasets.phantom_places import finding_places
from data_pipelines.image_files.png import encode_png

PHANTOM_SET = "phantom"
"""The name of the sets that `prepare phantom` writes."""
NUMBER = 96
_SEED = 2_000_003  # none that anybody trains on, nor that the smoothing and the margin of `checks.py` were chosen on
_LEAST_SIDE = 32


class PhantomCase(NamedTuple):
    """A picture, PNG, and where its findings lie, bool [S, S] by name."""

    encoded: bytes
    places: dict[str, npt.NDArray[np.bool_]]


def phantom_cases(side: int) -> Iterator[PhantomCase]:
    """The phantoms that maps are tested on, of this side in pixels, and at least 32."""
    for image in range(NUMBER):
        size = max(side, _LEAST_SIDE)
        pixels, _ = draw_phantom(_SEED, image, size)
        yield PhantomCase(encode_png(pixels), finding_places(_SEED, image, size))
