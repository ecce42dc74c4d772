"""What pre-training gained: each run minus the one from scratch with the same seed."""

import pandas as pd

from trainer.reporting.names import SCRATCH

_PAIRED_BY = ["target", "mode", "protocol", "origin", "setting", "model", "shots", "seed"]


def gains(runs: pd.DataFrame) -> pd.DataFrame:
    """The pre-trained runs whose partner from scratch is among the runs, with the difference of both in the column
    `test`. Runs whose source has seen the target are left out."""
    shown = runs[runs["overlap"] == ""]
    scratch = shown[shown["source"] == SCRATCH].set_index(_PAIRED_BY)["test"].rename("from_scratch")
    paired = shown[shown["source"] != SCRATCH].join(scratch, on=_PAIRED_BY)
    paired = paired.assign(test=paired["test"] - paired["from_scratch"]).drop(columns="from_scratch")
    return paired[paired["test"].notna()]
