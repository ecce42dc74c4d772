"""Results are found in folders and files, once each, and nothing is left out silently."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from made_results import ENVIRONMENT, authors_row, pretrain_result, seeds, transfer_result, write_authors, write_results
from nasty_names import NAMES

from data_pipelines.common.errors import InputError
from data_pipelines.common.printable import printable
from trainer.reporting.collect import collect, write_runs
from trainer.reporting.rows import COLUMNS
from trainer.run_files import RESULT


def test_a_row_holds_what_was_run(tmp_path: Path) -> None:
    changes = {"prepared_size": [224, 256], "source_sets": ["chexpert"], "left_out": {"test": ["Mass", "Nodule"]}}
    results = [pretrain_result("big"), transfer_result("mine", "5", 3, 0.25, **changes)]
    runs = collect((write_results(tmp_path, results),)).runs
    pretrain, transfer = runs.to_dict("records")
    assert {name: pretrain[name] for name in ("kind", "source", "target", "shots", "seed", "metric", "val")} == {
        "kind": "pretrain",
        "source": "big",
        "target": "chexpert+mimic_cxr",
        "shots": "full",
        "seed": 0,
        "metric": "auc",
        "val": 0.8125,
    }
    assert pretrain["not_a_number"]
    assert not transfer["not_a_number"]
    expected = {
        "source": "mine",
        "source_sets": "chexpert",
        "model": "r50x1",
        "mode": "finetune",
        "shots": "5",
        "seed": 3,
        "test": 0.25,
        "test_top1": 0.25,
        "prepared": "224 x 256",
        "image_size": 128,
        "resize": 160,
        "commit": "c0ffee",
        "patients": "none",
        "left_out": "Mass; Nodule",
        "seconds": 12.3,
    }
    assert {name: transfer[name] for name in expected} == expected


def test_half_written_and_foreign_results_are_left_out_and_named(tmp_path: Path) -> None:
    runs = write_results(tmp_path, [transfer_result("mine", "5", 0, 0.5)])
    whole = (runs / "run 0" / RESULT).read_text()
    strange = {
        "half": whole[: len(whole) // 2],
        "list": '["kind"]',
        "other": "{}",
        "empty": "",
        "kind": '{"kind": "x"}',
        "shots": json.dumps(transfer_result("mine", "many", 0, 0.5)),
    }
    for name, content in strange.items():
        (runs / name).mkdir()
        (runs / name / RESULT).write_text(content)
    collected = collect((runs,))
    assert list(collected.runs["source"]) == ["mine"]
    (warning,) = collected.warnings
    assert f"Left out: 6 {RESULT}" in warning
    assert str(runs / "empty" / RESULT) in warning


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text('{"kind": "trans')
    with pytest.raises(InputError, match=f"no finished run below {tmp_path}: no readable {RESULT} .*half-written"):
        collect((tmp_path,))
    with pytest.raises(InputError, match="absent is neither a folder of runs nor a CSV file"):
        collect((tmp_path / "absent",))


def test_overlapping_folders_count_once_and_copies_are_said(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", seeds("mine", (0.5, 0.6)))
    collected = collect((runs, runs, runs / "run 0"))
    assert len(collected.runs) == 2
    assert collected.remarks == ()
    write_results(tmp_path / "copy", seeds("mine", (0.5, 0.6)))
    collected = collect((tmp_path,))
    assert len(collected.runs) == 2
    assert collected.remarks == ("Found twice and counted once: 2 results",)


def test_two_results_of_one_seed_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path, [transfer_result("mine", "5", 0, top1, run=f"{top1}") for top1 in (0.5, 0.6)])
    with pytest.raises(InputError, match=r"several results for the same cell: 0\.5, 0\.6; report their folders"):
        collect((tmp_path,))


def test_modes_models_and_shots_are_cells_of_their_own(tmp_path: Path) -> None:
    one = {"source": "mine", "shots": "5", "seed": 0, "top1": 0.5}
    results = [
        transfer_result(**one | changes) for changes in ({}, {"mode": "knn"}, {"model": "r101x1"}, {"shots": "1"})
    ]
    assert len(collect((write_results(tmp_path, results),)).runs) == 4


AUTHORS = [
    authors_row(source, shots, seed, 0.5 + seed / 100)
    for source in ("imagenet1k_bit50x1", "imagenet21k_bit152x4")
    for shots in ("1", "full")
    for seed in range(3)
]


def test_the_authors_layout_without_its_duplicates(tmp_path: Path) -> None:
    write_authors(tmp_path / "results" / "cifar100_test_acc.csv", AUTHORS)
    collected = collect((tmp_path,))
    remark = "Of 24 rows of cifar100_test_acc.csv, 12 are exact duplicates and dropped; 12 are left"
    assert collected.remarks == (remark,)
    runs = collected.runs
    assert len(runs) == 12
    assert set(zip(runs["source"], runs["model"], strict=True)) == {("imagenet1k", "r50x1"), ("imagenet21k", "r152x4")}
    assert set(runs["shots"]) == {"1", "full"}
    assert set(runs["origin"]) == {"published"}
    assert set(runs["metric"]) == {"top1"}
    assert sorted(set(runs["test"])) == [0.5, 0.51, 0.52]


def test_the_authors_metrics_come_together_by_run(tmp_path: Path) -> None:
    for metric, value in (("acc", 0.25), ("mean_auc", 0.75), ("f1_0", 0.125)):
        rows = [authors_row("chexpert_bit50x1", "full", 0, value, dataset, metric=f"test/{metric}")
                for dataset in ("padchest", "tuberculosis_full")]  # fmt: skip
        write_authors(tmp_path / f"{metric}.csv", rows)
    collected = collect((tmp_path,))
    by_target = collected.runs.set_index("target")
    assert list(by_target.loc["padchest_cl", ["metric", "test", "test_top1"]]) == ["auc", 0.75, 0.25]
    assert list(by_target.loc["tuberculosis", ["metric", "test", "test_auc"]]) == ["top1", 0.25, 0.75]
    assert collected.warnings == ("Left out: 2 rows of f1_0.csv, of metrics that are not reported (test/f1_0)",)


def test_two_values_of_one_published_run_are_refused(tmp_path: Path) -> None:
    path = write_authors(tmp_path / "a.csv", [authors_row("imagenet1k_bit50x1", "1", 0, value) for value in (0.5, 0.6)])
    with pytest.raises(InputError, match="several results for the same cell: finetuning_results/cifar100"):
        collect((path,))


def test_a_published_source_without_a_model_is_refused(tmp_path: Path) -> None:
    path = write_authors(tmp_path / "a.csv", [authors_row("imagenet1k", "1", 0, 0.5)])
    with pytest.raises(InputError, match="'imagenet1k' does not end in a model"):
        collect((path,))


OUTSIDE_GIT = ENVIRONMENT | {"commit": None}


def test_results_csv_is_read_again_as_it_was(tmp_path: Path) -> None:
    results = [
        pretrain_result("big"),
        *seeds("mine", (1 / 3, math.nan, 0.7)),
        transfer_result("mine", "5", 0, None),
        transfer_result("chexpert", "5", 0, 0.5, "covidx", prepared_size=[28, 28], environment=OUTSIDE_GIT),
    ]
    write_authors(tmp_path / "runs" / "a.csv", AUTHORS)
    first = collect((write_results(tmp_path / "runs", results),)).runs
    write_runs(first, tmp_path / "results.csv")
    again = collect((tmp_path / "results.csv",)).runs
    pd.testing.assert_frame_equal(again[COLUMNS], first[COLUMNS])
    both = collect((tmp_path / "results.csv", tmp_path / "runs"))
    assert len(both.runs) == len(first)
    assert f"Found twice and counted once: {len(first)} results" in both.remarks


@pytest.mark.slow
def test_names_are_the_same_in_a_result_and_in_the_table_of_it(tmp_path: Path) -> None:
    results = [r for name in NAMES for r in seeds(name, (0.5,), target=name, left_out={"test": [name]}, run=name)]
    collected = collect((write_results(tmp_path / "runs", results),))
    first = collected.runs
    assert collected.warnings == ()
    assert set(first["target"]) == set(first["source"]) == set(map(printable, NAMES))
    write_runs(first, tmp_path / "results.csv")
    again = collect((tmp_path / "results.csv",)).runs
    pd.testing.assert_frame_equal(again[COLUMNS], first[COLUMNS])
    assert len(collect((tmp_path / "results.csv", tmp_path / "runs")).runs) == len(first)


def test_a_broken_table_among_runs_spoils_nothing(tmp_path: Path) -> None:
    write_results(tmp_path / "runs", [transfer_result("mine", "5", 0, 0.5)])
    (tmp_path / "runs" / "folder.csv").mkdir()
    (tmp_path / "runs" / "nowhere.csv").symlink_to(tmp_path / "absent.csv")
    (tmp_path / "runs" / "bytes.csv").write_bytes(b"\xff\xfe\0,\n")
    broken = write_authors(tmp_path / "runs" / "theirs.csv", [authors_row("imagenet1k_bit50x1", "1", 0, 0.5)])
    broken.write_bytes(broken.read_bytes() + b'"\xff')
    collected = collect((tmp_path / "runs",))
    assert list(collected.runs["source"]) == ["mine"]
    (warning,) = collected.warnings
    assert warning.startswith(f"Left out: {broken} is damaged, or was edited: ")
    with pytest.raises(InputError, match=r"theirs\.csv is damaged"):
        collect((broken,))
    (tmp_path / "nothing.csv").touch()
    with pytest.raises(InputError, match=r"nothing\.csv is empty, or cannot be read"):
        collect((tmp_path / "nothing.csv",))


def test_a_table_of_an_older_report_is_read(tmp_path: Path) -> None:
    old = "kind,run,source,target,model,shots,seed,metric,val,test,loader\n"
    row = "transfer,runs/a,mine,pets,r50x1,5,1,top-1 accuracy,,0.5,dali\n"
    (tmp_path / "results.csv").write_text(old + row)
    (run,) = collect((tmp_path / "results.csv",)).runs.to_dict("records")
    assert (run["metric"], run["test"], run["test_top1"], run["shots"], run["mode"]) == (
        "top1",
        0.5,
        0.5,
        "5",
        "finetune",
    )


def test_a_foreign_csv_is_refused_if_named_else_skipped(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", [transfer_result("mine", "5", 0, 0.5)])
    (runs / "run 0" / "subset.csv").write_text("key,class\na,b\n")
    assert len(collect((runs,)).runs) == 1
    with pytest.raises(InputError, match=r"subset\.csv is neither results\.csv of a report nor"):
        collect((runs / "run 0" / "subset.csv",))


def test_another_metric(tmp_path: Path) -> None:
    tests = [{"top1": 0.5, "f1": 0.4}, {"top1": 0.6, "f1": math.nan}, {"top1": 0.7}]
    results = [transfer_result("mine", "5", seed, None, test=test) for seed, test in enumerate(tests)]
    results.append(transfer_result("mine", "5", 0, 0.9, "covidx"))
    runs = collect((write_results(tmp_path, results),), "f1").runs
    assert runs["test"].dropna().tolist() == [0.4]
    assert runs["not_a_number"].tolist() == [False, True, True, False]  # of covidx no run has it: nothing failed
    with pytest.raises(InputError, match="no result has the metric 'auc'; they have top1, f1"):
        collect((tmp_path,), "auc")


def test_names_that_are_no_text_are_taken_as_text(tmp_path: Path) -> None:
    results = [transfer_result("mine", "5", 0, 0.5), transfer_result("mine", "5", 0, 0.6)]
    results[1]["run"] = True
    with pytest.raises(InputError, match=r"several results for the same cell: .*True"):
        collect((write_results(tmp_path, results),))


def test_a_null_metric_is_no_crash(tmp_path: Path) -> None:
    write_results(
        tmp_path, [transfer_result("mine", "5", 0, 0.5), transfer_result("mine", "5", 1, None, test={"top1": None})]
    )
    collected = collect((tmp_path,))
    assert json.dumps(collected.runs["seed"].tolist()) == "[0]"
    assert "Left out: 1" in collected.warnings[0]
