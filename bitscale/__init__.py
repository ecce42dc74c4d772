"""bitscale in Python: open a trained run, predict arrays, iterate batches, load weights, read results.

    import bitscale

    classifier = bitscale.open_classifier("runs/mine")
    classifier.predict([array])                # uint8 [H, W, 3], red, green, blue

What it names is imported when it is first used. This package may import all others; none imports it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitscale.api import Classifier, Predictions, batches, load_model, open_classifier, read_results

__all__ = ["Classifier", "Predictions", "batches", "load_model", "open_classifier", "read_results"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bitscale' has no attribute {name!r}")
    from bitscale import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__
