"""Areas of many resamples at once, against scikit-learn and against a plain loop over the same resamples."""

import numpy as np
import pytest
from sklearn.metrics import auc as area_of
from sklearn.metrics import average_precision_score, roc_auc_score

from trainer.evaluation.statistics.bootstrap import Ranking, Resamples, clusters_of
from trainer.evaluation.statistics.curves import observed_areas, roc


def sample(seed: int, count: int, decimals: int) -> tuple[np.ndarray, ...]:
    """Scores with ties, positives, negatives and unlabelled images, and patients of one to many images."""
    draws = np.random.default_rng(seed)
    positive = draws.random(count) < 0.3
    unlabelled = draws.random(count) < 0.15
    scores = np.round(draws.normal(size=count) + positive, decimals)
    return scores, positive & ~unlabelled, ~positive & ~unlabelled, draws.integers(0, count // 3, count)


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_areas_are_those_of_scikit_learn_in_every_resample(decimals: int) -> None:
    scores, positive, negative, patients = sample(decimals, 300, decimals)
    clusters = clusters_of(patients)
    resamples = Resamples(int(clusters.max()) + 1, count=40, seed=3)
    weights = resamples.weights(slice(0, 40))
    auc, ap = Ranking(scores, positive, negative, clusters).areas(weights)
    known = positive | negative
    for row in range(40):
        # A resample as a list of images, patient by patient: no weights, no cumulative sums.
        drawn = [patient for patient, times in enumerate(weights[row]) for _ in range(times)]
        images = np.concatenate([np.flatnonzero((clusters == patient) & known) for patient in drawn])
        assert auc[row] == pytest.approx(roc_auc_score(positive[images], scores[images]), abs=1e-9)
        assert ap[row] == pytest.approx(average_precision_score(positive[images], scores[images]), abs=1e-9)
        weighted = roc_auc_score(positive[known], scores[known], sample_weight=weights[row][clusters][known])
        assert auc[row] == pytest.approx(weighted, abs=1e-9)


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_the_identity_resample_has_the_observed_areas(decimals: int) -> None:
    scores, positive, negative, patients = sample(9, 500, decimals)
    clusters = clusters_of(patients)
    once = np.ones((1, clusters.max() + 1), dtype=np.int32)
    resampled = [float(area[0]) for area in Ranking(scores, positive, negative, clusters).areas(once)]
    assert resampled == pytest.approx(observed_areas(scores, positive, negative), abs=1e-12)
    known = positive | negative
    assert resampled[0] == pytest.approx(roc_auc_score(positive[known], scores[known]), abs=1e-12)


def test_the_roc_curve_has_every_threshold_and_the_observed_area() -> None:
    scores, positive, negative, _ = sample(9, 500, 1)
    false, true = roc(scores, positive, negative)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert len(false) == 1 + len(np.unique(scores[positive | negative]))
    assert area_of(false, true) == pytest.approx(observed_areas(scores, positive, negative)[0], abs=1e-12)
    assert [len(axis) for axis in roc(scores, positive, np.zeros_like(positive))] == [0, 0]


def test_infinite_scores_have_their_rank() -> None:
    positive = np.array([True, True, False, False])
    infinite, finite = np.array([np.inf, 0.0, 1.0, -np.inf]), np.array([9.0, 0.0, 1.0, -9.0])
    for scores in (infinite, finite):
        assert observed_areas(scores, positive, ~positive) == pytest.approx((0.75, 5 / 6))


def test_a_resample_without_positives_has_no_areas() -> None:
    positive = np.array([True, False, False, False])
    ranking = Ranking(np.arange(4.0), positive, ~positive, np.arange(4))
    auc, ap = ranking.areas(np.array([[0, 1, 2, 1], [1, 1, 1, 1], [4, 0, 0, 0]], dtype=np.int32))
    assert np.isnan(auc).tolist() == [True, False, True]
    assert np.isnan(ap).tolist() == [True, False, False]


def test_resamples_draw_all_patients_and_ignore_block_size() -> None:
    resamples = Resamples(clusters=50, count=300, seed=1)
    weights = resamples.weights(slice(0, 300))
    assert (weights.sum(axis=1) == 50).all()
    np.testing.assert_array_equal(weights[120:130], resamples.weights(slice(120, 130)))
    pieces = [part for _, part in resamples.blocks(num_images=1 << 20)]
    assert len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate(pieces), weights)
    # Binomial of 50 draws with probability 1/50.
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(0.98, abs=0.03)
    assert (weights != Resamples(50, 300, seed=2).weights(slice(0, 300))).any()


def test_images_of_unknown_patients_are_clusters_of_their_own() -> None:
    clusters = clusters_of(np.array([4, -1, 4, -1, 0]))
    assert clusters[0] == clusters[2]
    assert len(set(clusters.tolist())) == 4
    assert sorted(set(clusters.tolist())) == [0, 1, 2, 3]
