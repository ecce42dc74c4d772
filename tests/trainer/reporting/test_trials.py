"""Runs of one cell with different settings are told apart by what differs, and never averaged or refused."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import authors_row, pretrain_result, seeds, settings_of, transfer_result, write_authors, write_results
from matplotlib import pyplot as plt

from trainer.reporting import figures
from trainer.reporting.collect import collect, write_runs
from trainer.reporting.compose import compose, write
from trainer.reporting.names import setting_order
from trainer.reporting.report_runs import Report, write_report
from trainer.reporting.tables import sources_of, with_titles


def trial(out: str, tops: tuple[float, ...], source: str = "mine", shots: str = "5", **changes: Any) -> list[Any]:
    """The seeds of one setting, below a folder of their own."""
    results = seeds(source, tops, shots, **changes)
    return [result | {"run": f"/runs/{out}/{result['run']}"} for result in results]


def departing(**changes: Any) -> dict[str, Any]:
    return {"departures": {name: dict(zip(("used", "protocol"), pair, strict=True)) for name, pair in changes.items()}}


def with_lr(base_lr: float, **data: Any) -> dict[str, Any]:
    return {**settings_of(0, **data), "optim": {"base_lr": base_lr}}


def by_lr(*rates: float, tops: tuple[float, ...] = (0.5, 0.6), **options: Any) -> list[Any]:
    """Trials of several learning rates; their results say the seeds, their settings do not."""
    results = []
    for base_lr in rates:
        for seed, result in enumerate(trial(f"lr {base_lr}", tops, **options)):
            results.append(result | {"settings": with_lr(base_lr, sets=[result["target"]]) | {"seed": seed}})
    return results


def settings(folder: Path) -> list[str]:
    return sorted(set(collect((folder,)).runs["setting"]), key=setting_order)


def test_learning_rates_have_rows_of_their_own(tmp_path: Path) -> None:
    runs = write_results(
        tmp_path / "runs", [*by_lr(0.001, 0.003), *by_lr(0.001, 0.003, source="scratch", tops=(0.25,))]
    )
    collected = collect((runs,))
    assert len(collected.runs) == 6
    text = write(compose(collected, tmp_path), collected.runs, tmp_path).read_text()
    for row in (
        "| Pets, base_lr 0.001 | 25.00 | **55.00 ± 7.07** |",
        "| scratch, r50x1, base_lr 0.003 | 25.00 |",
        "| mine, r50x1, base_lr 0.003 | **55.00 ± 7.07** |",
        "| mine minus scratch, r50x1, base_lr 0.003 | +25.00 (one seed) |",
    ):
        assert row in text
    assert "Bold: the best of a column within its setting." in text
    assert "Fewer than 2 seeds: Pets, r50x1, scratch, base_lr 0.001, 5-shot (1); " in text
    (remark,) = collected.remarks
    assert remark.startswith("Runs of several settings, each a row of its own: Pets (base_lr 0.001, base_lr 0.003). ")


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"total_steps": 100}, ["steps 100", "steps 500"]),
        ({"settings": settings_of(0, image_size=64, resize=80)}, ["pixels 64", "pixels 128"]),
        ({"settings": settings_of(0, balance="class")}, ["balance class", "balance none"]),
        ({"trained_on": "train+val"}, ["trained on train", "trained on train+val"]),
        (departing(**{"optim.weight_decay": (0.01, 0.0)}), ["weight decay 0.0", "weight decay 0.01"]),
        (
            departing(**{"data.resize": (None, 160)}),
            ["pixels before the random crop none", "pixels before the random crop 160"],
        ),
        (
            departing(**{"global_batch_size": (64, 128), "optim.base_lr": (0.1, 0.001)}),
            ["batch size 64", "batch size 128"],
        ),
    ],
)
def test_a_trial_is_called_by_what_differs(tmp_path: Path, changes: dict[str, Any], labels: list[str]) -> None:
    same = departing(**{"optim.nesterov": (True, False)})["departures"]  # of both, so it tells nothing
    usual = trial("a", (0.5,), departures=same)
    other = trial("b", (0.6,), **changes | {"departures": same | changes.get("departures", {})})
    assert settings(write_results(tmp_path, [*usual, *other])) == labels


def test_all_that_differs_is_named_together(tmp_path: Path) -> None:
    results = [*by_lr(0.001), *[result | {"total_steps": 50} for result in by_lr(0.01)]]
    assert settings(write_results(tmp_path, results)) == ["base_lr 0.001, steps 500", "base_lr 0.01, steps 50"]


def test_seeds_of_other_settings_are_a_trial_too(tmp_path: Path) -> None:
    results = [transfer_result("mine", "5", seed, 0.5, total_steps=100 if seed else 500) for seed in range(3)]
    assert settings(write_results(tmp_path, results)) == ["steps 100", "steps 500"]


def test_settings_of_a_source_or_shots_are_no_trials(tmp_path: Path) -> None:
    results = [*by_lr(0.001), *by_lr(0.01, source="scratch"), *trial("a", (0.5,), shots="full", total_steps=10_000)]
    collected = collect((write_results(tmp_path, results),))
    assert set(collected.runs["setting"]) == {""}
    assert collected.remarks == ()


def test_steps_that_follow_from_the_images_are_no_trials(tmp_path: Path) -> None:
    results = [
        transfer_result("mine", "5", seed, 0.5, train_images=37 + seed, total_steps=370 + 10 * seed)
        for seed in range(2)
    ]
    assert settings(write_results(tmp_path, results)) == [""]


def test_probes_have_no_learning_rate(tmp_path: Path) -> None:
    results = [result | {"mode": "probe"} for result in by_lr(0.001, tops=(0.5,))]
    results += [result | {"mode": "probe", "seed": 1, "settings": with_lr(0.1) | {"seed": 1}} for result in results]
    assert settings(write_results(tmp_path, results)) == [""]


def test_equal_settings_are_told_apart_by_folder(tmp_path: Path) -> None:
    results = [*trial("first", (0.5, 0.6)), *trial("second", (0.7, 0.8)), *trial("first", (0.2,), source="other")]
    assert settings(write_results(tmp_path, results)) == ["in first", "in second"]


def test_results_of_one_folder_are_still_refused(tmp_path: Path) -> None:
    """Two results of one run are no trials: one of them is wrong."""
    collected = [*trial("a", (0.5,)), *trial("a", (0.6,))]
    with pytest.raises(Exception, match="several results for the same cell"):
        collect((write_results(tmp_path, collected),))


def test_protocols_stay_rows_beside_trials(tmp_path: Path) -> None:
    results = by_lr(0.001, 0.01) + [result | {"protocol": "authors", "departures": {}} for result in by_lr(0.02)]
    runs = collect((write_results(tmp_path, results),)).runs
    assert set(zip(runs["protocol"], runs["setting"], strict=True)) == {
        ("default", "base_lr 0.001"),
        ("default", "base_lr 0.01"),
        ("authors", ""),
    }


def test_published_rows_know_no_trials(tmp_path: Path) -> None:
    write_authors(tmp_path / "a.csv", [authors_row("imagenet1k_bit50x1", "5", seed, 0.5, "pets") for seed in range(2)])
    write_results(tmp_path, by_lr(0.001, 0.01, source="imagenet1k_r50x1"))
    runs = collect((tmp_path,)).runs
    assert set(runs.loc[runs["origin"] == "published", "setting"]) == {""}
    assert set(runs.loc[runs["origin"] == "own", "setting"]) == {"base_lr 0.001", "base_lr 0.01"}


def test_pre_trainings_of_one_name_are_told_apart(tmp_path: Path) -> None:
    data = {"sets": ["chexpert"], "image_size": 224}
    results = [
        pretrain_result(f"/runs/{place}/big", settings=with_lr(base_lr, **data))
        for place, base_lr in (("a", 0.01), ("b", 0.03), ("c", 0.03))
    ]
    assert settings(write_results(tmp_path, results)) == ["base_lr 0.01", "base_lr 0.03, in b", "base_lr 0.03, in c"]
    text = write_report(Report((tmp_path,), tmp_path / "out")).read_text()
    assert "| big, base_lr 0.03, in c | r50x1 |" in text


def test_trials_are_the_same_from_results_csv(tmp_path: Path) -> None:
    runs = collect((write_results(tmp_path / "runs", by_lr(0.001, 0.003)),)).runs
    write_runs(runs, tmp_path / "results.csv")
    again = collect((tmp_path / "results.csv",)).runs
    assert list(again["setting"]) == list(runs["setting"])
    older = pd.read_csv(tmp_path / "results.csv").drop(columns=["setting", "chosen", "weights"])
    older.to_csv(tmp_path / "older.csv", index=False)
    assert list(collect((tmp_path / "older.csv",)).runs["setting"]) == list(runs["setting"])
    of_one = runs[runs["base_lr"] == 0.003]
    write_runs(of_one, tmp_path / "one.csv")
    assert set(collect((tmp_path / "one.csv",)).runs["setting"]) == {""}  # nothing beside it that differs


def test_what_an_old_run_did_not_record_is_no_trial(tmp_path: Path) -> None:
    write_runs(collect((write_results(tmp_path / "old", by_lr(0.001, tops=(0.5,))),)).runs, tmp_path / "old.csv")
    old = pd.read_csv(tmp_path / "old.csv").drop(columns=["base_lr", "image_size", "resize"])
    old.to_csv(tmp_path / "old.csv", index=False)
    new = [result | {"settings": result["settings"] | {"seed": 1}} for result in by_lr(0.001, tops=(0.6,))]
    collected = collect((write_results(tmp_path / "new", new), tmp_path / "old.csv"))
    assert set(collected.runs["setting"]) == {""}


def test_settings_sort_by_their_numbers() -> None:
    unsorted = ["steps 1000", "steps 500, in a", "base_lr 0.01", "base_lr 1e-05", "steps 500"]
    assert sorted(unsorted, key=setting_order) == [
        "base_lr 1e-05",
        "base_lr 0.01",
        "steps 500",
        "steps 500, in a",
        "steps 1000",
    ]


def test_figures_have_a_panel_for_each_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    long = [result | {"total_steps": 12345} | departing(global_batch_size=(64, 128)) for result in by_lr(0.03)]
    collected = collect((write_results(tmp_path / "runs", [*by_lr(0.001, 0.003, 0.01), *long]),))
    runs = with_titles(collected.runs)
    figures.few_shot(runs, tmp_path, figures.styles_of(sources_of(runs)))
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert [title.replace("\n", " ") for title in titles] == [f"r50x1, {setting}" for setting in settings(tmp_path)]
    assert len(titles) == 4
    assert max(len(line) for title in titles for line in title.splitlines()) < 35


def test_sizes_of_drawn_images_are_no_settings(tmp_path: Path) -> None:
    def drawn(digest: str, *sizes: tuple[int, int]) -> list[dict[str, Any]]:
        results = trial(digest, (0.5, 0.6, 0.7))
        return [
            result | {"prepared_size": size, "set_digests": {"pets": digest}, "train_images": 5 + place}
            for place, (result, size) in enumerate(zip(results, sizes, strict=True))
        ]

    one = drawn("a", (64, 85), (64, 88), (64, 80))
    assert settings(write_results(tmp_path / "one", one)) == [""]
    two = [*one, *drawn("b", (128, 170), (128, 160), (128, 190))]  # the set prepared in two sizes
    assert settings(write_results(tmp_path / "two", two)) == ["stored at 64 x 80", "stored at 128 x 190"]
