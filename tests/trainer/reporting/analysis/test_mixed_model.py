"""The mixed model against results whose truth is known."""

import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest
from claim_tables import table

from data_pipelines.common.errors import InputError
from trainer.reporting.analysis.claim_file import Summary
from trainer.reporting.analysis.mixed_model import fit_mixed_model

SUMMARY = Summary("all", ("small", "big"), ("r50x1", "r152x4"), ("t", "u"), ("1", "5", "full"))


def results(seeds: int = 12) -> pd.DataFrame:
    """A larger source gains 4 points with the small model and 6 with the large one, a larger model 3 on average; the
    images of a seed are worth 5 points more or less."""
    rng = np.random.default_rng(0)
    subset = {(t, shots): rng.normal(0, 5, seeds) for t in "tu" for shots in ("1", "5", "full")}
    return table({
        (source, model, t, shots): (
            50 + 10 * place + 4 * (source == "big") + 2 * (model == "r152x4")
            + 2 * (source == "big") * (model == "r152x4") + subset[t, shots] + rng.normal(0, 0.5, seeds)
        ).tolist()
        for source, model, t, (place, shots) in product(
            ("small", "big"), ("r50x1", "r152x4"), "tu", enumerate(("1", "5", "full"))
        )
    })  # fmt: skip


def test_the_effects_and_spreads_are_found() -> None:
    pytest.importorskip("statsmodels")
    fitted = fit_mixed_model(SUMMARY, results())
    terms = {term.title: term for term in fitted.terms}
    assert terms["larger source"].effect == pytest.approx(5, abs=0.2)
    assert terms["larger model"].effect == pytest.approx(3, abs=0.2)
    assert terms["larger source × larger model"].effect == pytest.approx(2, abs=0.4)
    assert terms["larger source × more shots"].low < 0 < terms["larger source × more shots"].high
    assert terms["larger source"].high - terms["larger source"].low < 0.4
    assert fitted.seed_std == pytest.approx(5, abs=1.2)
    assert fitted.residual_std == pytest.approx(0.5, abs=0.05)


def test_too_few_cells_for_a_model_say_why() -> None:
    pytest.importorskip("statsmodels")
    runs = results()
    assert fit_mixed_model(SUMMARY, runs[runs["seed"] == 0]).reason.startswith("too few")
    assert fit_mixed_model(SUMMARY, runs[runs["target"] == "none"]).reason == "no results for its cells"


def test_without_statsmodels_the_pip_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.regression.mixed_linear_model", None)
    with pytest.raises(InputError, match=r"needs statsmodels.*pip install -e '\.\[analysis\]'"):
        fit_mixed_model(SUMMARY, results())
