"""The linear probe is scikit-learn's logistic regression; neighbours vote as they are told to."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trainer.training.linear_probe import NEIGHBOURS, Standardizer, fit_linear, nearest_neighbours

NAN = math.nan


def features_of(num_images: int, num_features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(num_features, generator=generator) * 5 + 0.1
    return torch.randn(num_images, num_features, generator=generator) * scale + 3


def by_scikit_learn(
    features: Tensor, labels: Tensor, l2: float, weights: np.ndarray | None = None
) -> LogisticRegression:
    total = len(labels) if weights is None else weights.sum()
    solver = LogisticRegression(C=1 / (l2 * total), max_iter=10_000, tol=1e-9)
    return solver.fit(features.numpy(), labels.numpy(), sample_weight=weights)


def test_features_are_standardised_over_training() -> None:
    train, other = features_of(50, 4), features_of(9, 4, seed=1)
    train[:, 2] = other[:, 2] = 0.1
    other[0, 2] = 7
    standardize = Standardizer.fit(train)
    found = standardize(train)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(4, dtype=torch.float64))
    expected = torch.tensor([1, 1, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(found.std(dim=0, correction=0), expected)
    column = (other[:, 1].double() - train[:, 1].double().mean()) / train[:, 1].double().std(correction=0)
    torch.testing.assert_close(standardize(other)[:, 1], column)
    assert not standardize(other)[:, 2].any()  # what never varied in training says nothing


@pytest.mark.parametrize("l2", [1.0, 0.01])
@pytest.mark.parametrize("weighted", [False, True])
def test_single_labels(l2: float, weighted: bool) -> None:
    raw = features_of(200, 12)
    labels = (raw[:, :5] + features_of(200, 5, seed=1)).argmax(dim=1)
    features = Standardizer.fit(raw)(raw)
    weights = np.random.default_rng(0).uniform(0, 3, 200) if weighted else None
    found = fit_linear(features, labels, 5, l2, None if weights is None else torch.from_numpy(weights))
    expected = by_scikit_learn(features, labels, l2, weights).predict_log_proba(features.numpy())
    assert found.converged
    logits = found.logits(features)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.double().log_softmax(dim=1).numpy(), expected, atol=2e-3)
    again = fit_linear(features, labels, 5, l2, None if weights is None else torch.from_numpy(weights), start=found)
    np.testing.assert_allclose(again.logits(features).log_softmax(dim=1), logits.log_softmax(dim=1), atol=2e-3)


def test_findings_over_their_labelled_images() -> None:
    raw = features_of(300, 10)
    labels = (raw[:, :4] > 3).float()
    labels[torch.rand(300, 4, generator=torch.Generator().manual_seed(2)) < 0.4] = NAN
    labels[:, 3] = NAN
    features = Standardizer.fit(raw)(raw)
    logits = fit_linear(features, labels, 4, 0.02).logits(features)
    for i in range(3):
        known = ~labels[:, i].isnan()
        expected = by_scikit_learn(features[known], labels[known, i], 0.02).decision_function(features.numpy())
        np.testing.assert_allclose(logits[:, i].numpy(), expected, atol=2e-3)
    assert not logits[:, 3].any()


def by_loop(train: Tensor, labels: Tensor, image: Tensor, num_classes: int) -> list[float]:
    """The share of votes of each class or finding."""
    cosine = [float(row @ image / row.norm() / image.norm()) for row in train.double()]
    nearest = sorted(range(len(train)), key=lambda i: -cosine[i])[:NEIGHBOURS]
    shares = []
    for c in range(num_classes):
        votes = positive = 0.0
        for i in nearest:
            label = float(labels[i] == c) if labels.ndim == 1 else float(labels[i, c])
            if not math.isnan(label):
                votes += math.exp(cosine[i] / 0.07)
                positive += label * math.exp(cosine[i] / 0.07)
        shares.append(positive / votes if votes else NAN)
    return shares


def test_neighbours_vote_by_their_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.training.linear_probe.CHUNK_ELEMENTS", 500)
    train, images = features_of(90, 6) - 3, features_of(13, 6, seed=5).double() - 3
    labels = torch.arange(90) % 4
    logits = nearest_neighbours(train, labels, images, 4)
    expected = [by_loop(train, labels, image, 4) for image in images]
    np.testing.assert_allclose(logits.exp(), expected, atol=1e-6)

    findings = (torch.rand(90, 3, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    findings[torch.rand(90, 3, generator=torch.Generator().manual_seed(2)) < 0.3] = NAN
    logits = nearest_neighbours(train, findings, images, 3)
    expected = [by_loop(train, findings, image, 3) for image in images]
    np.testing.assert_allclose(logits.sigmoid(), expected, atol=1e-6)


def test_few_images_and_unlabelled_neighbours() -> None:
    train = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    logits = nearest_neighbours(train, torch.tensor([2, 0, 0]), torch.tensor([[3.0, 0.1], [0.1, 2]]), 4)
    assert logits.argmax(dim=1).tolist() == [2, 0]
    assert logits.isfinite().all()
    far = torch.eye(2).repeat_interleave(torch.tensor([30, 4]), dim=0)
    findings = torch.full((34, 2), NAN)
    findings[30:, 0] = torch.tensor([1.0, 1, 0, 1])
    logits = nearest_neighbours(far, findings, torch.tensor([[1.0, 0]]), 2)
    torch.testing.assert_close(logits.sigmoid(), torch.tensor([[0.75, 0.5]]))
