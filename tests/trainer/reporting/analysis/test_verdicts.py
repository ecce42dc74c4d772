"""Claims on made-up results: what is compared with what, the correction, and each verdict."""

import math
from dataclasses import replace

import numpy as np
import pytest
from claim_tables import a_and_b, claim, file_of, table
from scipy import stats

from trainer.reporting.analysis.claim_file import Cells, Claim, Where
from trainer.reporting.analysis.contrasts import measured, strata
from trainer.reporting.analysis.verdicts import (
    CONTRADICTED,
    EQUIVALENT,
    NOT_TESTED,
    SUPPORTED,
    UNDECIDED,
    correct,
    judge,
)

HIGH, LOW = [70.0, 71.0, 70.5, 70.2, 70.8], [60.0, 61.2, 60.1, 60.9, 60.4]


def test_a_clear_difference_supports_or_contradicts() -> None:
    up, down, equal = judge(
        file_of(claim(), claim("lower", id="d"), claim("equal", id="e", margin=2)), a_and_b(HIGH, LOW)
    )
    assert (up.verdict, up.holds, up.text) == (SUPPORTED, True, "supported")
    assert (down.verdict, down.holds) == (CONTRADICTED, False)
    assert (equal.verdict, equal.holds) == (CONTRADICTED, False)
    assert up.effect == pytest.approx(np.mean(HIGH) - np.mean(LOW))
    assert up.p == pytest.approx(stats.ttest_ind(HIGH, LOW, equal_var=False).pvalue * 3, rel=1e-6)


def test_equivalence_within_the_margin_is_no_difference() -> None:
    runs = a_and_b(HIGH, [value + 0.1 for value in reversed(HIGH)])
    equal, higher = judge(file_of(claim("equal", id="e", margin=2), claim(margin=2)), runs)
    assert (equal.verdict, equal.holds) == (EQUIVALENT, True)
    assert (higher.verdict, higher.holds) == (EQUIVALENT, False)
    assert higher.text == "no difference (equivalence shown)"


def test_undecided_tells_the_smallest_effect() -> None:
    runs = a_and_b([70, 74, 66, 71, 69], [69, 72, 66, 71, 70])
    plain, equal = judge(file_of(claim(), claim("equal", id="e", margin=1)), runs)
    assert plain.verdict == equal.verdict == UNDECIDED
    assert plain.holds is None
    error = math.sqrt(np.var([70, 74, 66, 71, 69], ddof=1) / 5 + np.var([69, 72, 66, 71, 70], ddof=1) / 5)
    assert 3 * error < plain.smallest < 4.5 * error
    assert plain.text == f"undecided, smallest effect these seeds could have shown: {plain.smallest:.2f}"
    assert equal.text == f"undecided, smallest margin these seeds could have shown: {equal.smallest:.2f}"


def test_seeds_of_few_shots_are_paired_and_of_all_images_not() -> None:
    subsets = np.array([0, 8, -5, 3, -6])
    a, b = 70 + subsets + [0.1, 0, 0.2, 0, -0.1], 69 + subsets
    few = judge(file_of(claim(shots=("5",))), a_and_b(a.tolist(), b.tolist(), "5"))[0]
    full = judge(file_of(claim()), a_and_b(a.tolist(), b.tolist()))[0]
    assert (few.verdict, few.method) == (SUPPORTED, "paired by seed")
    assert few.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert (full.verdict, full.method) == (UNDECIDED, "Welch")
    told = judge(file_of(claim(shots=("5",), paired=False)), a_and_b(a.tolist(), b.tolist(), "5"))[0]
    assert (told.verdict, told.method) == (UNDECIDED, "Welch")


def test_seeds_that_one_side_lacks_are_left_out_of_pairs() -> None:
    found = judge(file_of(claim(shots=("5",))), a_and_b([None, *HIGH[1:]], LOW, "5"))[0]
    assert found.effect == pytest.approx(np.mean(HIGH[1:]) - np.mean(LOW[1:]))
    assert (found.seeds, found.notes) == ((4, 4), ("On t 4 of 5 seeds, those that all cells have",))


def test_different_seeds_are_compared_by_welchs_test() -> None:
    found = judge(file_of(claim(shots=("5",))), a_and_b([*HIGH, *[None] * 5], [*[None] * 5, *LOW], "5"))[0]
    assert (found.verdict, found.method) == (SUPPORTED, "Welch")


def test_a_missing_cell_is_named_and_not_tested() -> None:
    found = judge(file_of(claim(), claim(id="d", shots=("5",))), a_and_b(HIGH, LOW))
    assert [one.verdict for one in found] == [SUPPORTED, NOT_TESTED]
    assert found[1].text == "not tested: no results for a, m on t, 5-shot; b, m on t, 5-shot"
    assert found[0].p == pytest.approx(stats.ttest_ind(HIGH, LOW, equal_var=False).pvalue, rel=1e-6)


def test_a_name_near_one_of_the_results_is_offered() -> None:
    runs = table({(source, "r50x1", "pets", "full"): HIGH for source in ("cifar10", "scratch")})
    wrong = claim(
        cells=Where(target=("pets",), model=("r50x1",), shots=("full",)),
        first=Cells(source=("cifar",)),
        second=Cells(source=("scratch",)),
    )
    reason = (
        "no results for cifar, r50x1 on pets, full; no source of the results is called 'cifar'; did you mean 'cifar10'?"
    )
    assert judge(file_of(wrong), runs)[0].text == f"not tested: {reason}"


def test_a_source_that_has_seen_the_target_is_not_tested() -> None:
    runs = a_and_b(HIGH, LOW)
    runs.loc[runs["source"] == "a", "overlap"] = "it was pre-trained on t"
    text = judge(file_of(claim()), runs)[0].text
    assert text == "not tested: the source has seen images of the target: a, m on t, full"


def test_one_seed_decides_nothing_and_says_why() -> None:
    found = judge(file_of(claim()), a_and_b(HIGH[:1], LOW))[0]
    assert found.text == "undecided: one seed only in a, m on t, full; a test needs two"
    assert found.effect == pytest.approx(70 - np.mean(LOW))


def test_seeds_without_any_spread_decide_nothing() -> None:
    text = judge(file_of(claim()), a_and_b([70, 70], [60, 60]))[0].text
    assert text == "undecided: the seeds all give the same value, so that there is no spread to judge by"


def test_runs_that_failed_are_left_out_and_counted() -> None:
    found = judge(file_of(claim()), a_and_b([*HIGH, math.nan], LOW))[0]
    assert (found.verdict, found.notes) == (SUPPORTED, ("NaN, left out: a, m on t, full (1)",))
    failed = judge(file_of(claim()), a_and_b([math.nan, math.nan], LOW))[0]
    assert failed.text == "not tested: only NaN for a, m on t, full"


def test_different_metrics_are_not_compared() -> None:
    runs = a_and_b(HIGH, LOW)
    runs.loc[runs["source"] == "a", "metric"] = "auc"
    assert judge(file_of(claim()), runs)[0].text == "not tested: runs of different metrics on t"


def test_effects_are_averaged_over_the_cells_of_a_claim() -> None:
    cells = {(source, m, t, "full"): HIGH for source in "ab" for m in "mn" for t in "tu"}
    runs = table(cells | {("b", "m", "t", "full"): LOW})
    whole = claim(cells=Where(model=("m", "n"), target=("t", "u"), shots=("full",)))
    found = judge(file_of(whole), runs)[0]
    assert found.effect == pytest.approx((np.mean(HIGH) - np.mean(LOW)) / 4)
    assert sorted(found.cells) == pytest.approx([0, 0, 0, np.mean(HIGH) - np.mean(LOW)])


def test_without_a_model_each_that_was_run_is_compared() -> None:
    runs = table({(source, m, "t", "full"): HIGH for source in "ab" for m in "mnk"})
    every = claim(cells=Where(target=("t",), shots=("full",)))
    assert len(strata(every, measured(runs), {})) == 3


def test_the_largest_source_is_the_largest_with_results() -> None:
    sized = claim(
        cells=Where(source=("a", "b", "c"), model=("m",), target=("t",), shots=("full",)),
        first=Cells(source_size="largest"),
        second=Cells(source_size="smallest"),
    )
    images = {"a": 10.0, "b": 1.0, "c": 99.0}
    weights = strata(sized, measured(a_and_b(HIGH, LOW)), images)
    assert weights == [{("a", "m", "t", "full"): 1.0, ("b", "m", "t", "full"): -1.0}]


def test_up_here_and_down_there_is_inconsistent() -> None:
    both = Where(model=("m",), target=("t", "u"), shots=("full",))
    up, down = zip("ab", (HIGH, LOW), strict=True), zip("ab", (LOW, HIGH), strict=True)
    mixed = table({(source, "m", t, "full"): values for t, side in (("t", up), ("u", down)) for source, values in side})
    same = table({("a", "m", t, "full"): HIGH for t in "tu"} | {("b", "m", t, "full"): LOW for t in "tu"})
    one = claim("inconsistent", cells=both)
    assert judge(file_of(one), mixed)[0].verdict == SUPPORTED
    assert judge(file_of(one), same)[0].verdict == CONTRADICTED
    alike = table({(source, "m", t, "full"): HIGH for source in "ab" for t in "tu"})
    assert "in a single cell" in judge(file_of(one), alike)[0].text


def spread_claim() -> Claim:
    return claim(
        cells=Where(source=("a",), model=("m",), target=("t",)),
        first=Cells(shots=("1",)),
        second=Cells(shots=("full",)),
        statistic="spread",
    )


def test_a_spread_is_compared_as_a_ratio() -> None:
    values = np.random.default_rng(0).normal(70, 1, 12)
    runs = table({("a", "m", "t", "1"): (70 + 8 * (values - 70)).tolist(), ("a", "m", "t", "full"): values.tolist()})
    wide = judge(file_of(spread_claim()), runs)[0]
    few = judge(file_of(spread_claim()), runs[runs["seed"] < 2])[0]
    assert (wide.verdict, wide.unit) == (SUPPORTED, "times")
    assert wide.effect == pytest.approx(8)
    assert few.text.startswith("undecided: fewer than three seeds in a, m on t")


def test_equal_spreads_are_seldom_called_different() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(40):
        one, other = rng.normal(70, 3, (2, 5))
        runs = table({("a", "m", "t", "1"): one.tolist(), ("a", "m", "t", "full"): other.tolist()})
        found.append(judge(file_of(spread_claim()), runs)[0].verdict)
    assert sum(verdict != UNDECIDED for verdict in found) <= 6


def test_p_values_of_single_tests_are_holms() -> None:
    ps = [0.001, 0.04, 0.03, 0.012, 0.6]
    ordered, largest, expected = sorted(ps), 0.0, {}
    for rank, p in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ps) - rank)))
        expected[p] = largest
    corrected, _ = correct([[p] for p in ps])
    assert [one[0] for one in corrected] == pytest.approx([expected[p] for p in ps])


def test_two_tests_of_a_claim_count_as_one_hypothesis() -> None:
    corrected, left = correct([[0.001, 0.9], [0.02, 0.5], [0.3]])
    assert corrected[0][0] == pytest.approx(0.001 * 3)
    assert corrected[1][0] == pytest.approx(0.02 * 3)
    assert left == 3


@pytest.mark.slow
def test_false_verdicts_over_a_family_are_held_at_5_percent() -> None:
    rng = np.random.default_rng(5)
    family = [replace(claim(cells=Where(model=("m",), target=(t,), shots=("full",))), id=t) for t in "tuvw"]
    wrong = 0
    for _ in range(40):
        cells = {(source, "m", t, "full"): rng.normal(70, 1, 5).tolist() for source in "ab" for t in "tuvw"}
        wrong += any(one.verdict != UNDECIDED for one in judge(file_of(*family), table(cells)))
    assert wrong <= 7
