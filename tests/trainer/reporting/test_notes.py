"""What must not be missed of some runs is said, once."""

import math

import pytest
from made_results import ENVIRONMENT, frame, pretrain_result, seeds, settings_of, transfer_result

from trainer.document.markdown import markdown_words
from trainer.reporting import notes
from trainer.reporting.rows import PUBLISHED

SWEEP = seeds("mine", (0.5, 0.6))


def test_mixed_versions_of_the_code_are_named() -> None:
    assert notes.mixed_versions(frame([*SWEEP, pretrain_result("big")])) == []
    other = seeds("other", (0.5,), environment=ENVIRONMENT | {"commit": "bad"})
    none = seeds("third", (0.5,), environment=ENVIRONMENT | {"commit": None})
    line = markdown_words(*notes.mixed_versions(frame([*SWEEP, *other, *none])))
    assert line.startswith(
        "**Mixed code versions**: 3 commits in one report: c0ffee (2 runs: mine-r50x1/pets/full-shot-seed-0"
    )
    assert "bad (1 run: other-r50x1/pets/full-shot-seed-0-finetune)" in line
    assert "bitscale 0.1.0 (1 run: third" in line


def test_runs_that_are_not_a_number_are_named() -> None:
    assert notes.not_numbers(frame([*SWEEP, transfer_result("mine", "5", 0, None)])) == []
    line = markdown_words(*notes.not_numbers(frame(seeds("mine", (0.5, math.nan)))))
    assert line == (
        "**Not a number**: the test metric of 1 of 2 runs is NaN: mine-r50x1/pets/full-shot-seed-1-finetune."
    )


def test_seeds_of_different_settings_are_named() -> None:
    assert notes.cells_of_mixed_settings(frame(SWEEP)) == []
    shorter = transfer_result("mine", "full", 2, 0.5, total_steps=100)
    line = markdown_words(*notes.cells_of_mixed_settings(frame([*SWEEP, shorter])))
    assert line == ("**Seeds of different settings** in one mean: mine, r50x1 on pets, full (total_steps, departures).")
    assert notes.cells_of_mixed_settings(frame([*SWEEP, transfer_result("mine", "5", 2, 0.5, total_steps=100)])) == []
    weights = [settings_of(seed) | {"model": {"name": "r50x1", "pretrained": f"/{seed}/mine"}} for seed in range(2)]
    of_two = [transfer_result("mine", "5", seed, 0.5, settings=weights[seed]) for seed in range(2)]
    assert markdown_words(*notes.cells_of_mixed_settings(frame(of_two))).endswith(
        " in one mean: mine, r50x1 on pets, 5 (weights)."
    )


def test_different_metrics_of_one_target_are_named() -> None:
    by_area = transfer_result("other", "full", 0, None, metric="auc", test={"auc": 0.75})
    assert notes.several_metrics(frame(SWEEP)) == []
    line = markdown_words(*notes.several_metrics(frame([*SWEEP, by_area])))
    assert line == "**Different metrics** on Pets: top-1 accuracy, mean AUC."


@pytest.mark.parametrize("patients", ["none", "apart", None])
def test_nothing_is_said_of_patients_that_are_apart(patients: str | None) -> None:
    changes = {} if patients is None else {"patients": patients}  # older results know nothing of patients
    assert notes.patient_leaks(frame([pretrain_result("big", **changes), *SWEEP])) == []


def test_sets_whose_patients_may_leak_are_named() -> None:
    leaking = [
        pretrain_result("big", patients="may leak"),
        transfer_result("mine", "5", 0, 0.5, "tuberculosis", patients="may leak"),
        transfer_result("mine", "5", 1, 0.5, patients="none"),
    ]
    line = markdown_words(*notes.patient_leaks(frame(leaking)))
    assert line.startswith("**Patients may leak** in chexpert, mimic_cxr, tuberculosis: ")


def test_deviations_from_the_rule_and_the_paper_are_listed_once() -> None:
    assert notes.deviations(frame([*SWEEP, pretrain_result("big")])) == []
    settings = settings_of(0, image_size=64, mixup_alpha=0.1)
    settings["optim"]["base_lr"], settings["global_batch_size"] = 0.003, 64
    odd = [transfer_result("mine", "5", seed, 0.5, total_steps=100, settings=settings) for seed in range(2)]
    assert notes.deviations(frame([*SWEEP, *odd])) == [
        "MixUp alpha: 0.1 instead of 0.0",
        "base learning rate: 0.003 instead of 0.001",
        "batch size: 64 instead of 128",
        "optimiser steps: 100 instead of 500",
        "pixels: 64 instead of 128",
    ]
    probe = transfer_result("mine", "5", 0, 0.5, mode="probe", total_steps=0, settings=settings)
    assert notes.deviations(frame([probe])) == []  # the rule is of fine-tuning


def test_stored_and_trained_sizes_are_said_by_target() -> None:
    results = seeds("mine", (0.5, 0.6), prepared_size=[32, 40])
    results += seeds("mine", (0.5,), target="digits", settings=settings_of(0, image_size=32, resize=32))
    assert notes.sizes(frame(results)) == [
        "Pets: stored at 32 x 40 pixels (median), resized to 160, trained at 128 x 128",
        "digits: stored size not recorded, trained at 32 x 32",
    ]


def test_classes_left_out_of_means_are_named() -> None:
    results = seeds("mine", (0.5, 0.6), left_out={"val": ["x"], "test": ["b", "a"]}) + seeds("mine", (0.5,), "5")
    assert notes.classes_left_out(frame(results)) == ["Pets: a, b"]


def test_published_results_that_share_images_are_shown_and_named() -> None:
    overlapping = frame(seeds("chexpert_mimic_nih", (0.5, 0.6), target="covidx")).assign(origin=PUBLISHED)
    line = markdown_words(*notes.published_overlaps(overlapping))
    assert line.startswith(
        "**Shown as published**, though source and target share images: CheXpert+MIMIC+NIH on COVIDx ("
    )
    assert notes.published_overlaps(frame(seeds("chexpert_mimic_nih", (0.5,), target="covidx"))) == []
    assert notes.published_overlaps(overlapping.assign(target="pets")) == []


def test_origins() -> None:
    made = "commit c0ffee, 4 x some GPU (16 CPU threads), torch 2.11.0"
    assert notes.origins(frame(SWEEP)) == [made]
    theirs = frame(SWEEP).assign(origin=PUBLISHED, made_by="")
    assert notes.origins(theirs) == ["2 rows of the files that the paper's authors published"]


def test_targets_that_were_trained_on_val_are_named() -> None:
    assert notes.trained_on_val(frame(SWEEP)) == []  # older results do not say it, and were not
    whole = seeds("other", (0.5, 0.6), trained_on="train+val")
    assert notes.trained_on_val(frame([*SWEEP, *whole])) == [
        "Pets: 2 of 4 runs, for which nothing was chosen on val; they cannot be compared with the others"
    ]
    covidx = transfer_result("mine", "full", 0, 0.5, "covidx", trained_on="train")
    assert notes.trained_on_val(frame([*whole, covidx])) == ["Pets: all runs, for which nothing was chosen on val"]
    published = frame(whole).assign(origin=PUBLISHED)
    assert notes.trained_on_val(published) == []
    mixed = frame([*SWEEP, transfer_result("mine", "full", 2, 0.5, trained_on="train+val")])
    line = markdown_words(*notes.cells_of_mixed_settings(mixed))
    assert line.endswith("full (trained_on).")
