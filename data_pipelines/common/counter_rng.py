"""Counter-based random numbers: every draw is a hash of (seed, counters), so there is no generator state to save.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
"""

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: UInt64s) -> UInt64s:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64s = z ^ (z >> np.uint64(31))
    return mixed


def hash64(seed: int, *counters: npt.ArrayLike) -> UInt64s:
    """64 random bits for each broadcast tuple of non-negative counters, uint64, at least one-dimensional."""
    state = _mix(np.array([seed], dtype=np.uint64) + _GOLDEN)
    for counter in counters:
        # Arrays, never numpy scalars: those warn when they wrap around, and wrapping is the point.
        state = _mix(state * _GOLDEN + np.atleast_1d(np.asarray(counter, dtype=np.uint64)) + _GOLDEN)
    return state


def uniform(seed: int, *counters: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Uniform draws in [0, 1), float64, 53 random bits each; one for each broadcast tuple of counters."""
    return np.asarray((hash64(seed, *counters) >> np.uint64(11)) * 2.0**-53)


def integers(bound: npt.ArrayLike, seed: int, *counters: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, bound), int64; `bound` broadcasts against the counters and is far below 2**53."""
    return np.asarray(uniform(seed, *counters) * np.asarray(bound), dtype=np.int64)
