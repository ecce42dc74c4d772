"""Where the findings of a phantom lie: what a picture would not show without them."""

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.phantom import FINDINGS, draw_phantom, render

LEAST_CHANGE = 0.5
"""Of the largest change of a grey value that a finding makes, from which on a pixel belongs to it."""


def finding_places(seed: int, image: int, size: int) -> dict[str, npt.NDArray[np.bool_]]:
    """The pixels, bool [size, size], of each finding that image number `image` shows; nothing else is drawn for it.

    A finding lies where the image and the same one without it, noise and other findings included, differ by at least
    half as much as where they differ most. One that others hide altogether is left out.
    """
    pixels, labels = draw_phantom(seed, image, size)
    places = {}
    for number, name in enumerate(FINDINGS):
        if labels[number]:
            without = labels.copy()
            without[number] = 0
            change = np.abs(pixels.astype(np.int16) - render(seed, image, size, without))
            if change.any():
                places[name] = change >= LEAST_CHANGE * change.max()
    return places
