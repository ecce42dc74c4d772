"""Tables of one target: shots side by side, paired gains, and the comparison with the paper."""

import math
import statistics

import pytest
from made_results import frame, seeds, transfer_result
from scipy import stats

from trainer.document.blocks import Cell, Table
from trainer.reporting.paper import Published, published
from trainer.reporting.rows import PUBLISHED
from trainer.reporting.tables import PRINTED_SPREADS
from trainer.reporting.target_tables import few_shot_table, gains_over_scratch, paper_table

# Quantiles 0.975 of Student's t from a printed table, by degrees of freedom.
T_TABLE = {1: 12.706, 2: 4.303}
SCRATCH = {"5": (0.20, 0.24, 0.19), "10": (0.30, 0.33, 0.28), "full": (0.70, 0.72, 0.71)}
PRETRAINED = {"5": (0.41, 0.44, 0.35), "10": (0.50, 0.52, 0.53), "full": (0.90, 0.93, 0.90)}
SWEEP = [
    result
    for source, cells in (("imagenet", PRETRAINED), ("scratch", SCRATCH))
    for shots in ("full", "10", "5")
    for result in seeds(source, cells[shots], shots)
]


def texts(table: Table | None, row: str) -> list[str]:
    assert table is not None
    (entries,) = [entries for title, entries in table.rows if title == row]
    return [entry.text for entry in entries]


def interval_of(cell: str) -> tuple[float, ...]:
    mean, _, rest = cell.partition(" [")
    return (float(mean), *(float(part) for part in rest.rstrip("]").split(", ")))


def test_cells_are_mean_and_deviation_over_seeds_full_last() -> None:
    table = few_shot_table(frame(SWEEP))
    assert [column.title for column in table.columns] == ["5-shot", "10-shot", "full"]
    assert [title for title, _ in table.rows] == ["scratch, r50x1", "imagenet, r50x1"]
    for source, cells in (("scratch", SCRATCH), ("imagenet", PRETRAINED)):
        expected = [f"{statistics.mean(c) * 100:.2f} ± {statistics.stdev(c) * 100:.2f}" for c in cells.values()]
        assert texts(table, f"{source}, r50x1") == expected
    assert [[entry.best for entry in entries] for _, entries in table.rows] == [[False] * 3, [True] * 3]


def test_shots_are_ordered_as_numbers_and_absent_cells_empty() -> None:
    order = ("100", "full", "5", "10", "1", "500")
    table = few_shot_table(frame([transfer_result(f"s{s}", s, 0, 0.5) for s in order]))
    assert [column.title for column in table.columns] == ["1-shot", "5-shot", "10-shot", "100-shot", "500-shot", "full"]
    assert texts(table, "s10, r50x1") == ["", "", "50.00", "", "", ""]


def test_modes_have_rows_of_their_own() -> None:
    table = few_shot_table(frame(seeds("mine", (0.5, 0.6)) + seeds("mine", (0.3, 0.4), mode="probe")))
    assert [title for title, _ in table.rows] == ["mine, r50x1", "mine, r50x1, linear probe"]
    assert texts(table, "mine, r50x1, linear probe") == ["35.00 ± 7.07"]


def test_gains_are_paired_by_seed_with_a_t_interval() -> None:
    cells = texts(gains_over_scratch(frame(SWEEP)), "imagenet minus scratch, r50x1")
    for cell, shots in zip(cells, ("5", "10", "full"), strict=True):
        gains = [(one - other) * 100 for one, other in zip(PRETRAINED[shots], SCRATCH[shots], strict=True)]
        mean, half = statistics.mean(gains), T_TABLE[2] * statistics.stdev(gains) / math.sqrt(3)
        assert interval_of(cell) == pytest.approx((mean, mean - half, mean + half), abs=0.011)


def test_gains_pair_the_seeds_that_both_have() -> None:
    results = [transfer_result("scratch", "5", seed, top1) for seed, top1 in ((3, 0.1), (0, 0.2), (1, 0.4), (2, None))]
    results += [transfer_result("mine", "5", seed, top1) for seed, top1 in ((0, 0.5), (1, 0.6), (2, 0.9), (7, 0.9))]
    (cell,) = texts(gains_over_scratch(frame(results)), "mine minus scratch, r50x1")
    half = T_TABLE[1] * statistics.stdev([30, 20]) / math.sqrt(2)
    assert interval_of(cell) == pytest.approx((25, 25 - half, 25 + half), abs=0.02)


def test_gains_are_of_the_same_model_and_mode() -> None:
    tops = {("r50x1", "scratch"): 0.2, ("r101x3", "scratch"): 0.5, ("r50x1", "mine"): 0.3, ("r101x3", "mine"): 0.8}
    results = [r for (m, s), top in tops.items() for r in seeds(s, (top, top + 0.01), "5", model=m)]
    results += seeds("mine", (0.9,), "5", model="r152x4") + seeds("mine", (0.9, 0.9), "5", mode="knn")
    gains = gains_over_scratch(frame(results))
    assert texts(gains, "mine minus scratch, r50x1") == ["+10.00 [+10.00, +10.00]"]
    assert texts(gains, "mine minus scratch, r101x3") == ["+30.00 [+30.00, +30.00]"]
    assert gains is not None
    assert len(gains.rows) == 2


def test_no_gains_without_both_sides() -> None:
    for source in ("scratch", "mine"):
        assert gains_over_scratch(frame([transfer_result(source, "5", 0, 0.5)])) is None


PAPER = Published(
    "made up",
    5,
    {"pets": "top1", "covidx": "top1"},
    {
        "pets": {
            ("r50x1", ("imagenet1k",)): Cell(60.0, 1.0, 5),
            ("r50x1", ("chexpert", "mimic_cxr")): Cell(61.0, 1.0, 5),
        },
        "covidx": {("r50x1", ("imagenet1k",)): Cell(50.0, 1.0, 5)},
    },
)


def test_differences_to_the_paper_are_shown_and_named() -> None:
    results = seeds("imagenet1k", (0.59, 0.61)) + seeds("mine", (0.60, 0.63), source_sets=["mimic_cxr", "chexpert"])
    table, remarks = paper_table(frame(results), PAPER)
    assert texts(table, "Pets: ImageNet-1k, r50x1") == ["60.00 ± 1.41", "60.00 ± 1.00", "+0.00", "p = 1.000"]
    assert texts(table, "Pets: mine, r50x1")[2] == "+0.50"
    assert table is not None
    assert [entries[2].best for _, entries in table.rows] == [False, True]
    assert remarks == [
        "1 of 2 means are the printed ones to 0.011 points",
        "different: Pets: mine, r50x1 (61.50 ± 2.12 here, 61.00 ± 1.00 in the paper)",
    ]


def test_the_corrected_spread_of_the_paper_is_tested_against() -> None:
    """Values alike but for their mean: by the printed spread, which is too small, p would be smaller."""
    printed = Cell(60.5, 0.1, 5, printed_std=0.05)
    paper = Published("someone", 5, {"pets": "top1"}, {"pets": {("r50x1", ("imagenet1k",)): printed}})
    table, _ = paper_table(frame(seeds("imagenet1k", (0.599, 0.60, 0.601))), paper)
    expected = stats.ttest_ind_from_stats(60, 0.1, 3, 60.5, 0.1, 5, equal_var=False).pvalue
    assert texts(table, "Pets: ImageNet-1k, r50x1") == [
        "60.00 ± 0.10", "60.50 ± 0.05 [0.10]", "-0.50", f"p = {expected:.3f}"
    ]  # fmt: skip
    assert table is not None
    assert PRINTED_SPREADS in table.notes


def test_only_what_the_paper_has_is_compared_with_it() -> None:
    by_area = {"metric": "auc", "test": {"auc": 0.75, "images": 1}}
    results = [
        *seeds("imagenet1k", (0.5, 0.6), "5"),
        *seeds("imagenet1k", (0.5, 0.6), mode="probe"),
        *seeds("imagenet1k", (0.5, 0.6), model="r152x4"),
        *seeds("imagenet1k", (0.5, 0.6), target="digits"),
        *seeds("imagenet1k", (0.5, 0.6), target="covidx", **by_area),
    ]
    table, remarks = paper_table(frame(results), PAPER)
    assert table is None
    assert remarks == [
        "COVIDx is not compared: the paper reports its top-1 accuracy",
        "no full-shot result here has the target, model and source of a published one",
    ]


def test_the_published_values_are_whole() -> None:
    paper = published()
    assert paper.seeds == 5
    assert sum(len(cells) for cells in paper.cells.values()) == 7 * 4 + 3 * 8 - 2
    assert (
        paper.cells["tuberculosis"]["r152x4", ("chexpert", "mimic_cxr", "nih_cxr14", "padchest")].text()
        == "90.91 ± 0.78 [0.83]"
    )
    pets = paper.cells["pets"]["r50x1", ("imagenet1k",)]
    assert (pets.n, pets.std, pets.printed_std) == (4, 0.5780, 0.54)
    corrected = [cell for cells in paper.cells.values() for cell in cells.values() if cell.printed_std is not None]
    assert len(corrected) == 48  # the authors' files have another mean in two cells, whose spread they cannot correct
    assert [cell.n for cell in corrected].count(5) == 47
    for cell in corrected:
        twice, once = cell.std * (2 * (cell.n - 1) / (2 * cell.n - 1)) ** 0.5, cell.std
        assert twice - 0.006 <= cell.printed_std <= once + 0.006
    assert paper.metric["padchest_cl"] == "auc"
    assert {metric for target, metric in paper.metric.items() if target != "padchest_cl"} == {"top1"}


def test_published_files_are_compared_too() -> None:
    theirs = frame(seeds("imagenet1k", (0.59, 0.61))).assign(origin=PUBLISHED)
    table, _ = paper_table(theirs, PAPER)
    assert table is not None
    assert [title for title, _ in table.rows] == ["Pets: ImageNet-1k, r50x1"]
