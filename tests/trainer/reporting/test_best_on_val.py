"""Of several settings of a cell, one is chosen by the mean on val, never by test."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import seeds, settings_of, transfer_result, write_results

from data_pipelines.common.errors import InputError
from trainer.reporting.collect import Collected, collect
from trainer.reporting.report_runs import Report, write_report

# Val and test disagree on all of them.
VAL = {0.001: (0.6, 0.6), 0.003: (0.5, 0.8), 0.01: (0.9, 0.3)}
TEST = {0.001: (0.9, 0.9), 0.003: (0.2, 0.4), 0.01: (0.95, 0.95)}


def one(base_lr: float, seed: int, val: float | None, test: float, source: str = "mine", **changes: Any) -> Any:
    return transfer_result(
        source,
        changes.pop("shots", "5"),
        seed,
        test,
        settings=settings_of(seed) | {"optim": {"base_lr": base_lr}},
        **{} if val is None else {"val": {"top1": val, "f1": 1 - val, "images": 9}},
        **changes,
    ) | {"run": f"/runs/{base_lr}/{source}/pets/{changes.get('shots', '5')}-shot-seed-{seed}"}


def trials(source: str = "mine", **changes: Any) -> list[Any]:
    return [
        one(base_lr, seed, VAL[base_lr][seed], TEST[base_lr][seed], source, **changes)
        for base_lr in VAL
        for seed in range(2)
    ]


def chosen(folder: Path, results: list[Any], **options: Any) -> Collected:
    return collect((write_results(folder, results),), best_on_val=True, **options)


def picked(collected: Collected) -> set[str]:
    return set(collected.runs.loc[collected.runs["chosen"] == "yes", "setting"])


def test_the_best_mean_on_val_is_chosen_for_all_seeds(tmp_path: Path) -> None:
    collected = chosen(tmp_path, trials())
    assert picked(collected) == {"base_lr 0.003"}
    assert collected.shown["test"].tolist() == [0.2, 0.4]
    assert collected.runs["chosen"].value_counts().to_dict() == {"yes": 2, "no": 4}
    assert collected.remarks == (
        "Chosen on val: one of 3 settings for each of 1 cell, 3 trials in all; test was not looked at",
    )


def test_test_decides_nothing(tmp_path: Path) -> None:
    better = [result | {"test": {"top1": 1 - result["test"]["top1"]}} for result in trials()]
    assert picked(chosen(tmp_path / "a", trials())) == picked(chosen(tmp_path / "b", better))


@pytest.mark.slow
def test_each_cell_has_its_own_choice_on_one_row(tmp_path: Path) -> None:
    scratch = [one(base_lr, 0, 1 - base_lr, 0.125, "scratch") for base_lr in VAL]
    single = [one(0.003, 0, 0.5, 0.75, "mine", shots="full")]  # a cell with nothing to choose
    runs = write_results(tmp_path / "runs", [*trials(), *scratch, *single])
    text = write_report(Report((runs,), tmp_path / "out", best_on="val")).read_text()
    assert "10 runs, 4 of them shown. Every run is a row of" in text
    assert "| scratch, r50x1 | 12.50 |  |" in text
    assert "| mine, r50x1 | **30.00 ± 14.14** | **75.00** |" in text
    assert "The 6 runs of other settings are in results.csv alone." in text
    assert "Test was not looked at." in text
    assert "Runs of several settings" not in text
    head = "| cell | chosen | settings tried | seeds | mean on val | next best on val |"
    rows = [
        "| Pets, mine, r50x1, 5-shot | base_lr 0.003 | 3 | 2 | 65.00 | 60.00 (base_lr 0.001) |",
        "| Pets, scratch, r50x1, 5-shot | base_lr 0.001 | 3 | 1 | 99.90 | 99.70 (base_lr 0.003) |",
    ]
    assert [line for line in text.splitlines() if line.startswith(("| cell", "| Pets, "))] == [head, *rows]
    assert r"& base\_lr 0.003 & 3 & 2 &" in (tmp_path / "out" / "tables.tex").read_text()
    results = tmp_path / "out" / "results.csv"
    assert pd.read_csv(results)["chosen"].value_counts(dropna=False).tolist() == [6, 3, 1]
    assert len(collect((results,)).shown) == 10  # without --best-on, each has a row again
    assert len(collect((results,), best_on_val=True).shown) == 4


def test_settings_are_compared_on_the_seeds_they_share(tmp_path: Path) -> None:
    """More seeds of one setting, of which the further ones were luckier, give it no advantage."""
    results = [one(0.001, seed, (0.5, 0.9, 0.9)[seed], 0.5) for seed in range(3)] + [one(0.01, 0, 0.6, 0.5)]
    assert picked(chosen(tmp_path, results)) == {"base_lr 0.01"}


def test_settings_without_a_seed_in_common_are_compared(tmp_path: Path) -> None:
    assert picked(chosen(tmp_path, [one(0.001, 0, 0.5, 0.5), one(0.01, 1, 0.6, 0.5)])) == {"base_lr 0.01"}


def test_a_trial_that_is_not_a_number_is_not_chosen(tmp_path: Path) -> None:
    results = [one(0.1, 0, math.nan, math.nan), one(0.001, 0, 0.3, 0.5)]
    collected = chosen(tmp_path, results)
    assert picked(collected) == {"base_lr 0.001"}
    assert collected.choices is not None
    assert collected.choices.rows[0][1][-1].text == "NaN (base_lr 0.1)"


def test_equal_means_go_to_the_lower_setting(tmp_path: Path) -> None:
    results = [one(base_lr, 0, 0.5, 0.5) for base_lr in (0.01, 0.002, 0.03)]
    assert picked(chosen(tmp_path, results)) == {"base_lr 0.002"}


def test_another_metric_is_shown_of_what_its_own_chose(tmp_path: Path) -> None:
    results = [result | {"test": result["test"] | {"f1": 0.25}} for result in trials()]
    collected = chosen(tmp_path, results, metric="f1")
    assert picked(collected) == {"base_lr 0.003"}
    assert collected.choices is not None
    assert "highest mean on val (top-1 accuracy; percent)" in collected.choices.caption
    assert [entry.text for entry in collected.choices.rows[0][1]][-2:] == ["65.00", "60.00 (base_lr 0.001)"]


def test_without_trials_nothing_is_chosen(tmp_path: Path) -> None:
    collected = chosen(tmp_path, seeds("mine", (0.5, 0.6)))  # no val either: nothing needs it
    assert (len(collected.shown), collected.choices, collected.remarks) == (2, None, ())


def test_trials_on_train_and_val_are_refused(tmp_path: Path) -> None:
    results = [one(base_lr, 0, None, 0.5, trained_on="train+val") for base_lr in VAL]
    with pytest.raises(InputError, match=r"3 of the runs .*: /runs.*train and val.*--data\.train-on train$"):
        chosen(tmp_path, results)
    assert len(collect((tmp_path,)).shown) == 3


def test_trials_of_a_set_without_val_are_refused(tmp_path: Path) -> None:
    results = [*trials(), one(0.03, 0, None, 0.5)]
    with pytest.raises(InputError, match=r"1 of the runs .*: /runs/0\.03/mine.*no val split.*Leave out --best-on"):
        chosen(tmp_path, results)
