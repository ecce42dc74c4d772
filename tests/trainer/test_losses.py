"""Sums of losses equal PyTorch's, unlabelled findings count for nothing, and MixUp mixes neighbours."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.loading.batch import Batch
from trainer.losses import batch_loss, count_labels, loss_sum, model_input, targets

NAN = math.nan


def random_logits(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def batch_of(labels: Tensor, mixup: Tensor | None = None) -> Batch:
    images = torch.randint(
        0, 256, (len(labels), 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Batch(images, labels, mixup, np.arange(len(labels)))


def mixed_by_loop(values: Tensor, shares: Tensor) -> Tensor:
    """Sample i keeps its share and takes the rest from its neighbour in the pair."""
    rows = [shares[i] * values[i] + (1 - shares[i]) * values[i ^ 1] for i in range(len(values))]
    return torch.stack(rows).float()


def test_cross_entropy_is_summed() -> None:
    logits, labels = random_logits(5, 4), torch.tensor([0, 3, 1, 1, 2])
    expected = F.cross_entropy(logits, labels) * 5
    torch.testing.assert_close(loss_sum(logits, labels, "single_label"), expected)


def test_cross_entropy_is_linear_in_mixed_labels() -> None:
    logits, labels = random_logits(4, 3), torch.tensor([0, 2, 1, 1])
    shares = torch.tensor([0.7, 0.7, 0.2, 0.2], dtype=torch.float64)
    one_hot = F.one_hot(labels, 3).double()
    mixture = shares[:, None] * one_hot + (1 - shares[:, None]) * one_hot[[1, 0, 3, 2]]
    own = F.cross_entropy(logits, labels, reduction="none")
    partners = F.cross_entropy(logits, labels[[1, 0, 3, 2]], reduction="none")
    expected = (shares * own + (1 - shares) * partners).sum()
    torch.testing.assert_close(loss_sum(logits, mixture, "single_label"), expected)


def test_unlabelled_findings_have_no_part_in_loss_or_gradient() -> None:
    logits = random_logits(4, 3).requires_grad_()
    labels = torch.tensor([[1, NAN, 0], [NAN, NAN, NAN], [0, 1, NAN], [0.25, 1, 0]])
    labelled = ~labels.isnan()
    loss = loss_sum(logits, labels, "multi_label")
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = F.binary_cross_entropy_with_logits(logits[labelled], labels[labelled].double(), reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert torch.equal(gradient != 0, labelled)


def test_nothing_labelled_is_a_loss_of_zero() -> None:
    logits = random_logits(2, 3).requires_grad_()
    loss = loss_sum(logits, torch.full((2, 3), NAN), "multi_label")
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("logits_dtype", "loss_dtype"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_sums_are_fp32_at_least(logits_dtype: torch.dtype, loss_dtype: torch.dtype) -> None:
    logits = random_logits(4, 3).to(logits_dtype)
    soft = torch.full((4, 3), 1 / 3)
    cases = [(torch.tensor([0, 1, 2, 0]), "single_label"), (soft, "single_label"), (soft, "multi_label")]
    for labels, task in cases:
        loss = loss_sum(logits, labels, task)
        assert loss.dtype == loss_dtype
        wide = labels if labels.ndim == 1 else labels.double()
        expected = loss_sum(logits.double(), wide, task)
        torch.testing.assert_close(loss, expected.to(loss_dtype), rtol=1e-6, atol=0)


def test_labels_are_counted_over_micro_batches() -> None:
    first, second = torch.tensor([[1, NAN], [0, 0]]), torch.tensor([[NAN, 0], [NAN, 1.0]])
    count = count_labels([batch_of(first), batch_of(second)])
    assert (count.item(), count.dtype, count.ndim) == (5, torch.int64, 0)


def test_labels_of_mixtures_are_counted_as_mixed() -> None:
    labels = torch.tensor([[1, NAN, NAN], [0, 0, NAN], [1, 1, 1], [0, NAN, 0]])
    shares = torch.tensor([1.0, 1.0, 0.4, 0.4])
    batch = batch_of(labels, shares)
    found = targets(batch, "multi_label", 3)
    assert found.isfinite().tolist() == [[True, False, False]] * 2 + [[True, False, True]] * 2
    assert count_labels([batch]).item() == 6
    torch.testing.assert_close(found, mixed_by_loop(labels, shares), equal_nan=True)


def test_mixup_mixes_images_and_labels_of_neighbours() -> None:
    labels, shares = torch.tensor([0, 2, 1, 1, 2, 0]), torch.tensor([0.9, 0.9, 0.3, 0.3, 1.0, 0.0])
    batch = batch_of(labels, shares)
    images = model_input(batch)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, mixed_by_loop(batch.images.float(), shares))
    assert torch.equal(images[4], batch.images[4].float())
    assert torch.equal(images[5], batch.images[4].float())
    found = targets(batch, "single_label", 3)
    torch.testing.assert_close(found, mixed_by_loop(F.one_hot(labels, 3), shares))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("mixup", [None, torch.tensor([0.9, 0.9])])
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_a_repeated_batch_weighs_nothing_and_reaches_all_weights(task: str, mixup: Tensor | None) -> None:
    """Not even where its logits are not finite, of which no product with 0 is 0."""
    labels = torch.tensor([0, 1]) if task == "single_label" else torch.tensor([[1, NAN], [0, 1]])
    batch = batch_of(labels, mixup)
    again = replace(batch, is_padding=True)
    for factor in (1.0, math.inf, NAN):
        weight = torch.ones(2, 2, requires_grad=True)
        logits = weight * random_logits(2, 2) * factor
        loss = batch_loss(logits.detach().requires_grad_(), again, task)
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(batch_loss(logits, again, task), logits)
        assert torch.equal(gradient, torch.zeros(2, 2, dtype=gradient.dtype))
    weight = torch.ones(2, 2, requires_grad=True)
    batch_loss(weight * random_logits(2, 2), again, task).backward()
    assert weight.grad is not None  # whose hooks engines wait for
    assert not weight.grad.any()
    logits = random_logits(2, 2)
    assert batch_loss(logits, batch, task) == loss_sum(logits, targets(batch, task, 2), task) > 0


def test_labels_of_repeated_batches_are_not_counted() -> None:
    batch = batch_of(torch.tensor([[1, NAN], [0, 0]]))
    assert count_labels([batch, replace(batch, is_padding=True)]).item() == 3


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_without_mixup_batches_pass_unchanged(task: str) -> None:
    labels = torch.tensor([0, 1]) if task == "single_label" else torch.tensor([[1, NAN], [0, 1]])
    batch = batch_of(labels)
    assert model_input(batch) is batch.images
    assert targets(batch, task, 2) is labels
