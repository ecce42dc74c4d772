"""Plain statistics of images: grey levels, and the spectrum averaged over directions."""

import numpy as np
import numpy.typing as npt

from trainer.domain_distance.moments import Features, Floats

LEVELS = 256
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_DECIBEL = 10.0
_SMALLEST_POWER = 1e-12  # of pixels in [0, 1]: of a uniform image


def pixel_statistics(images: npt.NDArray[np.uint8]) -> Features:
    """Statistics of each image, uint8 [N, H, H, 1 or 3] -> [N, 256 + H // 2]: shares of its grey levels, then the power
    at 1 to H // 2 cycles per image in decibels."""
    grey = images[..., 0] if images.shape[-1] == 1 else np.rint(images @ _LUMA).astype(np.uint8)
    number, side = len(grey), grey.shape[1]
    cells = grey.reshape(number, -1) + LEVELS * np.arange(number)[:, None]
    shares = np.bincount(cells.ravel(), minlength=LEVELS * number).reshape(number, LEVELS) / side**2
    return np.concatenate([shares, _spectra(grey / (LEVELS - 1.0))], axis=1).astype(np.float32)


def _spectra(grey: Floats) -> Floats:
    """Power of each image [N, H, H] by its distance from zero frequency, rounded, in decibels."""
    side = grey.shape[1]
    window = np.hanning(side + 2)[1:-1]  # or the edges of an image look like fine structure
    centred = (grey - grey.mean(axis=(1, 2), keepdims=True)) * window[:, None] * window
    power = np.abs(np.fft.fft2(centred)) ** 2 / side**2
    cycles = np.fft.fftfreq(side, 1 / side)
    ring = np.rint(np.hypot(cycles[:, None], cycles)).astype(np.int64)
    rings = np.arange(1, side // 2 + 1)
    means = np.stack([power[:, ring == one].mean(axis=1) for one in rings], axis=1)
    return np.asarray(_DECIBEL * np.log10(means + _SMALLEST_POWER))


def grey_level_distance(one: Features, other: Features) -> float:
    """Grey levels by which the pixels of one set must change on average to be distributed as those of the other
    (Wasserstein-1 of both histograms, 0 to 255)."""
    shares = [each[:, :LEVELS].mean(axis=0, dtype=np.float64) for each in (one, other)]
    return float(np.abs(np.cumsum(shares[0] - shares[1]))[:-1].sum())


def spectrum_distance(one: Features, other: Features) -> float:
    """Root mean square difference of both mean spectra over frequencies, decibels."""
    spectra = [each[:, LEVELS:].mean(axis=0, dtype=np.float64) for each in (one, other)]
    return float(np.sqrt(np.square(spectra[0] - spectra[1]).mean()))
