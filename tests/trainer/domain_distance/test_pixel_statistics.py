"""Grey levels and spectra, against SciPy, plain loops and pictures whose spectrum is known."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import wasserstein_distance

from trainer.domain_distance.pixel_statistics import (
    LEVELS,
    grey_level_distance,
    pixel_statistics,
    spectrum_distance,
)

Images = npt.NDArray[np.uint8]


def noise(count: int, low: int, high: int, seed: int = 0, side: int = 16) -> Images:
    return np.random.default_rng(seed).integers(low, high, (count, side, side, 1)).astype(np.uint8)


def test_grey_levels_are_as_far_as_scipy_says() -> None:
    one, other = noise(7, 0, 100), noise(9, 50, 256, 1)
    truth = wasserstein_distance(one.ravel(), other.ravel())
    assert grey_level_distance(pixel_statistics(one), pixel_statistics(other)) == pytest.approx(truth, rel=1e-4)


def test_grey_levels_of_brighter_images_are_that_much_apart() -> None:
    one = noise(5, 20, 200)
    assert grey_level_distance(pixel_statistics(one), pixel_statistics(one + 30)) == pytest.approx(30, rel=1e-4)


def test_spectrum_is_that_of_loops() -> None:
    (image,) = noise(1, 0, 256, side=9)
    window = np.hanning(11)[1:-1]
    grey = image[:, :, 0] / 255
    windowed = (grey - grey.mean()) * np.outer(window, window)
    rings: dict[int, list[float]] = {}
    for u in range(-4, 5):
        for v in range(-4, 5):
            wave = np.exp(-2j * np.pi * (u * np.arange(9)[:, None] + v * np.arange(9)) / 9)
            rings.setdefault(round(np.hypot(u, v)), []).append(abs((windowed * wave).sum()) ** 2 / 81)
    truth = [10 * np.log10(np.mean(rings[ring])) for ring in range(1, 5)]
    assert pixel_statistics(image[None])[0, LEVELS:] == pytest.approx(truth, rel=1e-4)


def test_waves_have_their_power_at_their_frequency() -> None:
    wave = np.cos(2 * np.pi * 6 * np.arange(32) / 32) * 100 + 128
    image = np.broadcast_to(wave, (32, 32)).astype(np.uint8)[None, :, :, None]
    assert pixel_statistics(image)[0, LEVELS:].argmax() + 1 == 6


def test_colour_is_looked_at_as_grey() -> None:
    grey = noise(3, 0, 256)
    colour = np.repeat(grey, 3, axis=3)
    np.testing.assert_allclose(pixel_statistics(colour), pixel_statistics(grey), atol=1e-5)


def test_smoother_images_have_other_spectra() -> None:
    sharp = noise(40, 0, 256)
    smooth = ((sharp.astype(int) + np.roll(sharp, 1, axis=1) + np.roll(sharp, 1, axis=2)) // 3).astype(np.uint8)
    apart = [pixel_statistics(images) for images in (sharp, noise(40, 0, 256, 1), smooth)]
    assert spectrum_distance(apart[0], apart[1]) < 0.5 < 2 < spectrum_distance(apart[0], apart[2])


def test_uniform_images_have_finite_statistics() -> None:
    assert np.isfinite(pixel_statistics(np.full((2, 8, 8, 1), 7, np.uint8))).all()
