"""The layout of the paper's Tables 1 and 2: what stands where, what is bold, italic, blank and beside it."""

import math
from typing import Any

import pandas as pd
import pytest
from made_results import frame, seeds
from scipy import stats

from trainer.document.blocks import Entry, Table
from trainer.reporting.paper import published
from trainer.reporting.rows import PUBLISHED
from trainer.reporting.scale_tables import transfer_tables
from trainer.reporting.tables import PRINTED_SPREADS

LOW, MIDDLE, HIGH = (0.50, 0.51, 0.52), (0.505, 0.512, 0.522), (0.70, 0.71, 0.72)
X = "chexpert"
XM = "chexpert_mimic"
XMN = "chexpert_mimic_nih"


def only(tables: list[Table]) -> Table:
    (table,) = tables
    return table


def entries(table: Table, row: str) -> dict[tuple[str, str], Entry]:
    """The entries of a row that have a text, by (model, source)."""
    (found,) = [entries for title, entries in table.rows if title == row]
    return {(c.group, c.title): e for c, e in zip(table.columns, found, strict=True) if e.text}


def test_columns_are_models_and_sources_from_small_to_large() -> None:
    names = ["mine", "imagenet21k", XM, "scratch", "imagenet1k", X]
    results = [r for model in ("r152x4", "r50x1") for name in names for r in seeds(name, LOW, model=model)]
    table = only(transfer_tables(frame(results[: 6 * 3]), "full"))
    titles = ["scratch", "ImageNet-1k", "ImageNet-21k", "CheXpert", "CheXpert+MIMIC", "mine"]
    assert [column.title for column in table.columns] == titles
    assert [column.short for column in table.columns] == [*titles[:4], "+MIMIC", "mine"]
    wide = transfer_tables(frame(results), "full")
    assert [[(c.group, c.title) for c in table.columns] for table in wide] == [
        [(model, title) for model in ("r50x1", "r152x4") for title in titles[1:3]],
        [(model, title) for model in ("r50x1", "r152x4") for title in titles[3:5]],
        [(model, title) for model in ("r50x1", "r152x4") for title in ("scratch", "mine")],
    ]
    assert [table.name for table in wide] == ["full_shot_natural", "full_shot_chest", "full_shot_other"]


def test_rows_are_the_papers_targets_in_order_then_others() -> None:
    results = [
        r
        for target in ("digits", "covidx", "cifar10")
        for mode in ("knn", "finetune", "probe")
        for r in seeds("mine", LOW, target=target, mode=mode)
    ]
    table = only(transfer_tables(frame(results), "full"))
    aside = ["", ", linear probe", ", k-NN"]
    assert [title for title, _ in table.rows] == [f"{t}{a}" for t in ("CIFAR-10", "COVIDx", "digits") for a in aside]


def test_the_best_of_a_row_is_marked_also_if_it_prints_alike() -> None:
    results = seeds("a", HIGH) + seeds("b", tuple(top + 1e-6 for top in HIGH)) + seeds("c", LOW)
    of = entries(only(transfer_tables(frame(results), "full")), "Pets")
    assert {title: entry.best for (_, title), entry in of.items()} == {"a": True, "b": True, "c": False}


def test_more_data_is_tested_against_the_next_smaller_source() -> None:
    tops = {X: LOW, XM: MIDDLE, XMN: HIGH}
    results = [r for name, values in tops.items() for r in seeds(name, values)]
    results += seeds(XM, HIGH, model="r152x4")
    of = entries(only(transfer_tables(frame(results), "full")), "Pets")
    middle, large = of["r50x1", "CheXpert+MIMIC"], of["r50x1", "CheXpert+MIMIC+NIH"]
    assert middle.p == pytest.approx(stats.ttest_ind(MIDDLE, LOW, equal_var=False).pvalue)
    assert (middle.against, middle.insignificant) == ("CheXpert", True)
    assert large.p == pytest.approx(stats.ttest_ind(HIGH, MIDDLE, equal_var=False).pvalue)
    assert (large.against, large.insignificant) == ("CheXpert+MIMIC", False)
    for alone in (of["r50x1", "CheXpert"], of["r152x4", "CheXpert+MIMIC"]):
        assert (alone.p, alone.against, alone.insignificant) == (None, "", False)


def test_recorded_sets_say_which_source_is_smaller() -> None:
    results = seeds("first", LOW, source_sets=["a"]) + seeds("second", HIGH, source_sets=["a", "b"])
    of = entries(only(transfer_tables(frame(results), "full")), "Pets")
    assert of["r50x1", "second"].against == "first"


@pytest.mark.parametrize("shared", [{"target": "padchest_cl"}, {"target": "PadChest-Cl", "target_set": "padchest_cl"}])
def test_cells_that_share_images_stay_blank_and_say_so(shared: dict[str, Any]) -> None:
    shared = {"source_sets": ["padchest"], **shared}
    results = seeds("mine", LOW, **shared) + seeds("mine", LOW, target="pets", source_sets=["padchest"])
    results += seeds("other", HIGH, **shared | {"source_sets": ["chexpert"]})
    table = only(transfer_tables(frame(results), "full"))
    assert set(entries(table, "PadChest-Cl")) == {("r50x1", "other")}
    assert set(entries(table, "Pets")) == {("r50x1", "mine")}
    (note,) = [note for note in table.notes if note.startswith("Blank")]
    assert note.startswith("Blank: mine on PadChest-Cl, 3 runs left out: the source was pre-trained on padchest")
    kept = only(transfer_tables(frame(seeds("mine", LOW, overlap_excluded=True, **shared)), "full"))
    assert set(entries(kept, "PadChest-Cl")) == {("r50x1", "mine")}
    assert not any(note.startswith("Blank") for note in kept.notes)


def test_what_is_not_a_number_is_shown() -> None:
    results = seeds("mine", (0.5, math.nan, 0.7)) + seeds("lost", (math.nan,) * 3)
    of = entries(only(transfer_tables(frame(results), "full")), "Pets")
    assert of["r50x1", "mine"].text == "60.00 ± 14.14 (1 of 3 NaN)"
    assert of["r50x1", "lost"].text == "NaN (3 of 3)"
    assert not of["r50x1", "lost"].best


def test_captions_say_the_metric_and_the_seeds() -> None:
    by_area = {"metric": "auc", "test": {"auc": 0.75, "images": 1}}
    results = seeds("a", LOW) + seeds("b", LOW[:2]) + seeds("a", LOW, target="padchest_cl", **by_area)
    table = only(transfer_tables(frame(results), "full"))
    assert table.caption == (
        "Transfer with all training images. Top-1 accuracy on test (PadChest-Cl: mean AUC), percent; "
        "mean ± standard deviation over 2 to 3 seeds."
    )
    one = only(transfer_tables(frame(seeds("a", LOW[:1], "1")), "1"))
    assert one.caption.startswith("Transfer with 1 training image per class. ")
    assert one.caption.endswith("over 1 seed.")


def test_sources_of_one_title_keep_their_whole_names() -> None:
    results = seeds("imagenet1k", LOW) + seeds("imagenet1k_r50x1", HIGH)
    table = only(transfer_tables(frame(results), "full"))
    assert [column.title for column in table.columns] == ["imagenet1k", "imagenet1k_r50x1"]


def test_published_values_stand_below_those_of_the_target() -> None:
    results = seeds("mine", LOW, target="cifar100", source_sets=["imagenet1k"]) + seeds("other", LOW, target="digits")
    table = only(transfer_tables(frame(results), "full", published()))
    assert [title for title, _ in table.rows] == ["CIFAR-100", "CIFAR-100, paper", "digits"]
    of = entries(table, "CIFAR-100, paper")
    assert {key: entry.text for key, entry in of.items()} == {
        ("r50x1", "mine"): "75.90 ± 0.05 [0.05]",
        ("r50x1", "ImageNet-21k"): "82.47 ± 0.20 [0.21]",
        ("r152x4", "ImageNet-1k"): "83.90 ± 0.08 [0.09]",
        ("r152x4", "ImageNet-21k"): "88.54 ± 0.13 [0.14]",
    }
    assert of["r152x4", "ImageNet-21k"].best
    assert PRINTED_SPREADS in table.notes
    few = only(transfer_tables(frame(seeds("mine", LOW, "5", target="cifar100")), "5", published()))
    assert [title for title, _ in few.rows] == ["CIFAR-100"]
    assert PRINTED_SPREADS not in few.notes


def test_a_kind_of_source_that_the_paper_alone_has_gets_no_table() -> None:
    results = [
        result
        for source in ("scratch", "mine", "yours", "theirs", "ours")
        for model in ("r50x1", "r152x4")
        for result in seeds(source, LOW, target="pets", model=model)
    ]
    tables = transfer_tables(frame(results), "full", published())
    assert [table.name for table in tables] == ["full_shot_other"]


def test_cells_of_fewer_seeds_than_others_are_named() -> None:
    results = seeds("imagenet1k", LOW[:-1], "full") + seeds("imagenet21k", LOW, "full") + seeds("other", LOW, "5")
    table = only(transfer_tables(frame(results), "full"))
    n = len(LOW)
    assert f"Fewer than {n} seeds: Pets, r50x1, ImageNet-1k, full ({n - 1})." in table.notes
    assert not any("Fewer" in note for note in only(transfer_tables(frame(results), "5")).notes)


def test_another_metric_is_not_put_beside_the_papers() -> None:
    by_area = {"metric": "auc", "test": {"auc": 0.75, "images": 1}}
    table = only(transfer_tables(frame(seeds("mine", LOW, target="covidx", **by_area)), "full", published()))
    assert [title for title, _ in table.rows] == ["COVIDx"]


def test_published_files_have_rows_beside_ones_own_results() -> None:
    own = frame(seeds("imagenet1k_r50x1", LOW, target="cifar100"))
    theirs = frame(seeds("imagenet1k", HIGH, target="cifar100")).assign(origin=PUBLISHED)
    table = only(transfer_tables(pd.concat([theirs, own]), "full"))
    assert [title for title, _ in table.rows] == ["CIFAR-100", "CIFAR-100, authors' files"]
    assert [column.title for column in table.columns] == ["ImageNet-1k"]
    assert [title for title, _ in only(transfer_tables(theirs, "full")).rows] == ["CIFAR-100"]
