"""The report says what the results say: means, spreads, paired gains and deviations, computed again here by hand."""

import json
import math
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_pipelines.errors import InputError
from trainer.experiment import RESULT
from trainer.report import (
    Report,
    collect,
    deviations,
    few_shot_table,
    gains_over_scratch,
    leaks,
    tabulate,
    write_report,
)

# Quantiles 0.975 of Student's t from a printed table, by degrees of freedom.
T_TABLE = {1: 12.706, 2: 4.303, 4: 2.776}
RULE = {"schedule": [100, 200, 300, 400, 500], "mixup_alpha": 0.0, "resize": 160, "size": 128}


def settings_of(seed: int, model: str = "r50x1", **data: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "global_batch_size": 128,
        "data": {"sets": ["pets"], "image_size": 128, "resize": 160, "mixup_alpha": 0.0, **data},
        "model": {"name": model},
        "optim": {"base_lr": 0.001},
    }


ENVIRONMENT = {
    "commit": "c0ffee",
    "world_size": 4,
    "device": "some GPU",
    "threads_per_rank": 16,
    "packages": {"torch": "2.11.0"},
}


def transfer_result(source: str, shots: str, seed: int, top1: float | None, **changes: Any) -> dict[str, Any]:
    """What `transfer` leaves of one run; without a test split if `top1` is None."""
    return {
        "kind": "transfer",
        "source": source,
        "target": "pets",
        "model": "r50x1",
        "shots": shots,
        "seed": seed,
        "rule": RULE,
        "run": f"{source}/pets/{shots}-shot-seed-{seed}",
        "task": "single_label",
        "settings": settings_of(seed),
        "total_steps": 500,
        "train_images": 37,
        "loader": "torch",
        "environment": ENVIRONMENT,
        "seconds": 12.345,
        "checkpoint": "best.safetensors",
        "checkpoint_step": 500,
        **({} if top1 is None else {"test": {"loss": 1.0, "top1": top1, "images": 100}}),
        **changes,
    }


def pretrain_result(name: str, **changes: Any) -> dict[str, Any]:
    """What `pretrain` leaves."""
    return {
        "kind": "pretrain",
        "run": name,
        "task": "multi_label",
        "settings": settings_of(0, sets=["chexpert", "mimic_cxr"], image_size=224),
        "total_steps": 9000,
        "train_images": 600_000,
        "loader": "dali",
        "environment": ENVIRONMENT,
        "seconds": 7200.0,
        "val": {"loss": 0.5, "auc": 0.8125, "images": 10},
        "test": {"loss": 0.5, "auc": math.nan, "images": 10},
        **changes,
    }


def write_results(folder: Path, results: list[dict[str, Any]]) -> Path:
    for i, result in enumerate(results):
        path = folder / f"run {i}" / RESULT
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result))
    return folder


SCRATCH = {"5": (0.20, 0.24, 0.19), "10": (0.30, 0.33, 0.28), "full": (0.70, 0.72, 0.71)}
PRETRAINED = {"5": (0.41, 0.44, 0.35), "10": (0.50, 0.52, 0.53), "full": (0.90, 0.93, 0.90)}
SWEEP = [
    transfer_result(source, shots, seed, top1)
    for source, cells in (("scratch", SCRATCH), ("imagenet", PRETRAINED))
    for shots in ("full", "10", "5")
    for seed, top1 in enumerate(cells[shots])
]


def row_of(lines: list[str], name: str) -> list[str]:
    """The cells of the table row of that name."""
    (row,) = [line for line in lines if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_cells_are_mean_and_sample_deviation_over_seeds_with_full_last() -> None:
    lines = few_shot_table(tabulate(SWEEP))
    assert lines[0] == "| source | 5-shot | 10-shot | full |"
    for source, cells in (("scratch", SCRATCH), ("imagenet", PRETRAINED)):
        expected = [f"{statistics.mean(c) * 100:.2f} ± {statistics.stdev(c) * 100:.2f}" for c in cells.values()]
        assert row_of(lines, f"{source}, r50x1") == expected


def test_shots_are_ordered_as_numbers() -> None:
    results = [transfer_result("scratch", shots, 0, 0.5) for shots in ("100", "full", "5", "10", "1", "500")]
    (header, _, _) = few_shot_table(tabulate(results))
    assert header == "| source | 1-shot | 5-shot | 10-shot | 100-shot | 500-shot | full |"


def parse_interval(cell: str) -> tuple[float, ...]:
    mean, _, rest = cell.partition(" [")
    return (float(mean), *(float(part) for part in rest.rstrip("]").split(", ")))


def test_gains_are_paired_by_seed_with_a_t_interval() -> None:
    cells = row_of(gains_over_scratch(tabulate(SWEEP)), "imagenet minus scratch, r50x1")
    for cell, shots in zip(cells, ("5", "10", "full"), strict=True):
        gains = [(one - other) * 100 for one, other in zip(PRETRAINED[shots], SCRATCH[shots], strict=True)]
        mean, half = statistics.mean(gains), T_TABLE[2] * statistics.stdev(gains) / math.sqrt(3)
        assert parse_interval(cell) == pytest.approx((mean, mean - half, mean + half), abs=0.011)


def test_gains_pair_the_seeds_that_both_have() -> None:
    results = [transfer_result("scratch", "5", seed, top1) for seed, top1 in ((3, 0.1), (0, 0.2), (1, 0.4), (2, None))]
    results += [transfer_result("mine", "5", seed, top1) for seed, top1 in ((0, 0.5), (1, 0.6), (2, 0.9), (7, 0.9))]
    (cell,) = row_of(gains_over_scratch(tabulate(results)), "mine minus scratch, r50x1")
    half = T_TABLE[1] * statistics.stdev([30, 20]) / math.sqrt(2)
    assert parse_interval(cell) == pytest.approx((25, 25 - half, 25 + half), abs=0.02)


def test_one_seed_has_no_spread_and_an_absent_cell_is_empty() -> None:
    results = [transfer_result("scratch", "5", 0, 0.25), transfer_result("mine", "5", 0, 0.5)]
    table = tabulate([*results, transfer_result("mine", "full", 0, 0.75)])
    assert row_of(few_shot_table(table), "scratch, r50x1") == ["25.00", ""]
    assert row_of(few_shot_table(table), "mine, r50x1") == ["50.00", "75.00"]
    assert row_of(gains_over_scratch(table), "mine minus scratch, r50x1") == ["+25.00 (one seed)", ""]


def of_model(model: str, source: str, shots: str, seed: int, top1: float) -> dict[str, Any]:
    return transfer_result(source, shots, seed, top1, model=model, settings=settings_of(seed, model))


def test_models_are_kept_apart_and_paired_with_their_own_kind() -> None:
    tops = {("r50x1", "scratch"): 0.2, ("r101x3", "scratch"): 0.5, ("r50x1", "mine"): 0.3, ("r101x3", "mine"): 0.8}
    results = [
        of_model(model, source, "5", seed, top1 + seed / 100)
        for (model, source), top1 in tops.items()
        for seed in range(2)
    ]
    results.append(of_model("r152x4", "mine", "5", 0, 0.9))  # from scratch there is none of it
    table = tabulate(results)
    lines = few_shot_table(table)
    for (model, source), top1 in tops.items():
        assert row_of(lines, f"{source}, {model}") == [f"{top1 * 100 + 0.5:.2f} ± 0.71"]
    assert row_of(lines, "mine, r152x4") == ["90.00"]
    gains = gains_over_scratch(table)
    assert row_of(gains, "mine minus scratch, r50x1") == ["+10.00 [+10.00, +10.00]"]
    assert row_of(gains, "mine minus scratch, r101x3") == ["+30.00 [+30.00, +30.00]"]
    assert len(gains) == 4


def test_curves_of_two_models_are_both_drawn(tmp_path: Path) -> None:
    results = [
        of_model(model, source, shots, 0, 0.5)
        for model in ("r50x1", "r101x3")
        for source in ("scratch", "mine")
        for shots in ("5", "full")
    ]
    write_report(Report((write_results(tmp_path / "runs", results),), tmp_path / "out"))
    drawn = (tmp_path / "out" / "few_shot_pets.svg").read_text()
    for model in ("r50x1", "r101x3"):
        assert f"<!-- from scratch, {model} -->" in drawn
        assert f"<!-- pre-trained: mine, {model} -->" in drawn


def test_what_is_no_number_is_left_out_of_means_and_gains() -> None:
    tops = {"scratch": (0.2, 0.3, math.nan), "mine": (0.6, math.nan, 0.9), "lost": (math.nan,) * 3}
    table = tabulate([transfer_result(name, "5", seed, top) for name in tops for seed, top in enumerate(tops[name])])
    lines = few_shot_table(table)
    assert row_of(lines, "scratch, r50x1") == ["25.00 ± 7.07"]
    assert row_of(lines, "mine, r50x1") == ["75.00 ± 21.21"]
    assert row_of(lines, "lost, r50x1") == [""]
    assert gains_over_scratch(table)[2:] == ["| mine minus scratch, r50x1 | +40.00 (one seed) |"]


def test_no_gains_without_both_sides() -> None:
    for source in ("scratch", "mine"):
        assert gains_over_scratch(tabulate([transfer_result(source, "5", 0, 0.5)])) == []


def test_table_holds_what_was_run() -> None:
    table = tabulate([pretrain_result("big"), transfer_result("big", "5", 3, None)])
    pretrain, transfer = table.to_dict("records")
    assert math.isnan(pretrain.pop("test"))
    assert pretrain == {
        "kind": "pretrain",
        "run": "big",
        "source": "big",
        "target": "chexpert+mimic_cxr",
        "model": "r50x1",
        "shots": "full",
        "seed": 0,
        "metric": "mean AUC",
        "val": 0.8125,
        "train_images": 600_000,
        "image_size": 224,
        "total_steps": 9000,
        "base_lr": 0.001,
        "balance": "none",
        "loader": "dali",
        "seconds": 7200.0,
    }
    assert math.isnan(transfer["val"])
    assert math.isnan(transfer["test"])
    assert (transfer["shots"], transfer["seed"], transfer["metric"]) == ("5", 3, "top-1 accuracy")


def test_deviations_from_the_rule_and_the_paper_are_listed_once() -> None:
    assert deviations([*SWEEP, pretrain_result("big")]) == []
    settings = settings_of(0, image_size=64, mixup_alpha=0.1)
    settings["optim"]["base_lr"], settings["global_batch_size"] = 0.003, 64
    odd = [transfer_result("mine", "5", seed, 0.5, total_steps=100, settings=settings) for seed in range(2)]
    assert deviations([*SWEEP, *odd]) == [
        "- MixUp alpha: 0.1 instead of 0.0",
        "- base learning rate: 0.003 instead of 0.001",
        "- batch size: 64 instead of 128",
        "- optimiser steps: 100 instead of 500",
        "- pixels: 64 instead of 128",
    ]


def by_area(source: str, shots: str, seed: int, auc: float) -> dict[str, Any]:
    """The result of a set with one label per image that reports AUC."""
    test = {"loss": 1.0, "top1": 0.123, "auc": auc, "images": 100}
    return transfer_result(source, shots, seed, None, metric="auc", target="covidx", test=test)


def test_the_metric_is_that_of_the_result() -> None:
    table = tabulate([by_area("mine", "5", 0, 0.75), transfer_result("mine", "5", 0, 0.5), pretrain_result("big")])
    assert table["metric"].tolist() == ["mean AUC", "top-1 accuracy", "mean AUC"]
    assert table["test"].tolist()[:2] == [0.75, 0.5]
    assert tabulate([transfer_result("mine", "5", 0, 0.5, metric="top1")])["metric"].tolist() == ["top-1 accuracy"]


def test_targets_are_reported_by_their_own_metrics(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", [by_area("mine", "5", 0, 0.75), transfer_result("mine", "5", 0, 0.5)])
    text = write_report(Report((runs,), tmp_path / "out")).read_text()
    sections = {part.partition("\n")[0]: part for part in text.split("## Transfer to ")[1:]}
    assert "mean AUC on test, percent" in sections["covidx"]
    assert row_of(sections["covidx"].splitlines(), "mine, r50x1") == ["75.00"]
    assert "top-1 accuracy on test, percent" in sections["pets"]
    assert row_of(sections["pets"].splitlines(), "mine, r50x1") == ["50.00"]


@pytest.mark.parametrize("patients", ["none", "apart", None])
def test_nothing_is_said_of_patients_that_are_apart(patients: str | None, tmp_path: Path) -> None:
    changes = {} if patients is None else {"patients": patients}  # older results know nothing of patients
    runs = write_results(tmp_path / "runs", [pretrain_result("big", **changes), transfer_result("mine", "5", 0, 0.5)])
    assert leaks(collect((runs,))) == []
    assert "atients" not in write_report(Report((runs,), tmp_path / "out")).read_text()


def test_sets_whose_patients_may_leak_are_named(tmp_path: Path) -> None:
    leaking = [
        pretrain_result("big", patients="may leak"),
        transfer_result("mine", "5", 0, 0.5, settings=settings_of(0, sets=["tuberculosis"]), patients="may leak"),
        transfer_result("mine", "5", 1, 0.5, settings=settings_of(1, sets=["pets"]), patients="none"),
    ]
    runs = write_results(tmp_path / "runs", leaking)
    text = write_report(Report((runs,), tmp_path / "out")).read_text()
    assert text.count("**Patients may leak** in chexpert, mimic_cxr, tuberculosis: ") == 1
    assert text.count("atients") == text.count("Patients may leak") + text.count("new patients") == 2


def test_report_of_a_sweep(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", [*SWEEP, pretrain_result("big")])
    out = tmp_path / "out" / "report"
    path = write_report(Report((runs, runs), out))
    assert path == out / "report.md"
    text = path.read_text()
    assert "commit c0ffee, 4 x some GPU (16 CPU threads), torch 2.11.0" in text
    assert "| big | r50x1 | chexpert+mimic_cxr | 9000 | mean AUC | 81.25% |  | 120.0 |" in text
    assert "nan" not in text
    assert "## Transfer to pets" in text
    assert "top-1 accuracy on test, percent" in text
    assert "| imagenet minus scratch, r50x1 | +19.00 [" in text
    assert "![few-shot curves of pets](few_shot_pets.png)" in text
    assert "Not as BiT-HyperRule" not in text
    assert "19 runs, loader: dali, torch." in text
    rows = pd.read_csv(out / "results.csv", dtype={"shots": str})
    pd.testing.assert_frame_equal(rows, tabulate(collect((runs,))), check_dtype=False)
    assert len(rows) == 19
    with Image.open(out / "few_shot_pets.png") as figure:
        assert figure.format == "PNG"
        assert np.asarray(figure.convert("L")).std() > 10
    svg = ElementTree.parse(out / "few_shot_pets.svg").getroot()
    assert svg.tag.endswith("svg")


def test_report_without_test_split_or_second_seed(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", [transfer_result("mine", "5", 0, None, total_steps=50)])
    text = write_report(Report((runs,), tmp_path / "out")).read_text()
    assert "Points gained" not in text
    assert "## Not as BiT-HyperRule and the paper have it\n\n- optimiser steps: 50 instead of 500\n" in text
    with Image.open(tmp_path / "out" / "few_shot_pets.png") as figure:
        figure.load()


def test_unreadable_results_are_left_out(tmp_path: Path) -> None:
    runs = write_results(tmp_path, [transfer_result("mine", "5", 0, 0.5)])
    whole = (runs / "run 0" / RESULT).read_text()
    for name, content in (("half", whole[: len(whole) // 2]), ("list", '["kind"]'), ("other", "{}"), ("empty", "")):
        (runs / name).mkdir()
        (runs / name / RESULT).write_text(content)
    assert [result["source"] for result in collect((runs,))] == ["mine"]


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text('{"kind": "trans')
    with pytest.raises(InputError, match=f"no finished run below {tmp_path}: no readable {RESULT}"):
        collect((tmp_path,))
    with pytest.raises(InputError, match="absent is no folder of runs"):
        write_report(Report((tmp_path / "absent",), tmp_path / "out"))
