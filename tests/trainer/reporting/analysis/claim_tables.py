"""Tables of made-up results, as claims are judged by."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from trainer.reporting.analysis.claim_file import Cells, Claim, ClaimFile, Where


def table(cells: Mapping[tuple[str, str, str, str], Sequence[float | None]], **columns: Any) -> pd.DataFrame:
    """Runs by (source, model, target, shots), each a list of percent over seeds; None for a seed without a run."""
    rows = [
        {
            **dict(zip(("source", "model", "target", "shots"), cell, strict=True)),
            "seed": seed,
            "metric": "top1",
            "test": value / 100,
            "not_a_number": value != value,
            "overlap": "",
            "shares_images": False,
        }
        for cell, values in cells.items()
        for seed, value in enumerate(values)
        if value is not None
    ]
    return pd.DataFrame(rows).assign(**columns)


def claim(direction: Any = "higher", shots: tuple[str, ...] = ("full",), **changes: Any) -> Claim:
    """Of a against b, with model m on the target t."""
    options = {
        "cells": Where(model=("m",), target=("t",), shots=shots),
        "first": Cells(source=("a",)),
        "second": Cells(source=("b",)),
    }
    return Claim(**{"id": "c", "text": "A is better.", "direction": direction, **options, **changes})


def a_and_b(a: Sequence[float | None], b: Sequence[float | None], shots: str = "full") -> pd.DataFrame:
    """Results for such a claim."""
    return table({("a", "m", "t", shots): a, ("b", "m", "t", shots): b})


def file_of(*claims: Claim, **changes: Any) -> ClaimFile:
    return ClaimFile("test", claims, **changes)
