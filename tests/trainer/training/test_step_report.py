"""A step's report: one sum over ranks, one copy to the host, and the same numbers at either end."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.engine import Update
from trainer.training.step_report import RankSums, StepNumbers, StepReport

OTHER = torch.tensor([0.0, 0.75, 1.0, 2.0, 0.0], dtype=torch.float64)  # what rank 1 of 2 reports


def engine_of(summed: list[torch.Tensor]) -> Any:
    def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
        summed.append(tensor)
        return tensor + OTHER

    return SimpleNamespace(rank=0, world_size=2, device=torch.device("cpu"), sum=sum_over_ranks)


def report_of(grad_norm: float = 1.0, skipped: bool | None = None) -> StepReport:
    losses = [torch.tensor(0.125), torch.tensor(0.25)]
    sums = RankSums.over_ranks(engine_of([]), losses, is_stopping=True, num_unreadable=3, is_overdue=True)
    flag = None if skipped is None else torch.tensor(skipped)
    return StepReport(4, 0.1, sums, Update(torch.tensor(grad_norm), torch.tensor(0.5), flag))


def test_one_sum_carries_all_that_ranks_report() -> None:
    summed: list[torch.Tensor] = []
    engine = engine_of(summed)
    sums = RankSums.over_ranks(engine, [torch.tensor(0.5)], is_stopping=False, num_unreadable=1, is_overdue=True)
    assert [tensor.tolist() for tensor in summed] == [[0.5, 0.0, 0.0, 1.0, 1.0]]
    counts = (sums.num_stopping.item(), sums.num_unreadable.item(), sums.num_overdue.item())
    assert (sums.losses.tolist(), counts) == ([0.5, 0.75], (1.0, 3.0, 1.0))


def test_the_host_reads_what_was_reported() -> None:
    report = report_of()
    assert report.loss.item() == 1.125
    expected = StepNumbers((0.375, 0.75), is_stopping=True, num_unreadable=5, is_overdue=True, is_bad=False)
    assert report.to_host().read() == expected


@pytest.mark.parametrize(
    ("grad_norm", "skipped", "is_bad"),
    [(math.inf, None, True), (math.nan, None, True), (math.nan, False, False), (1.0, True, True)],
)
def test_bad_is_a_skipped_update_or_an_infinite_gradient(grad_norm: float, skipped: bool | None, is_bad: bool) -> None:
    assert report_of(grad_norm, skipped).to_host().read().is_bad is is_bad
