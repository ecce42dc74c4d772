"""Report of a training step over all ranks: summed with one collective, copied to the host once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipelines.loading.unreadable import UnreadableSample
from trainer.engine import Engine, Update


@dataclass(frozen=True, eq=False)
class RankSums:
    """A step's figures before the update, summed over ranks. Tensors are on the engine's device, float64."""

    losses: Tensor
    """[world size]: each rank's part of the mean loss of the batch."""
    num_stopping: Tensor
    """Scalar: the ranks that were asked to stop."""
    num_unreadable: Tensor
    """Scalar: the images of all ranks that could not be read."""
    num_overdue: Tensor
    """Scalar: the ranks whose last checkpoint is too old; only rank 0 looks at the clock."""

    @staticmethod
    def over_ranks(
        engine: Engine, losses: Sequence[Tensor], is_stopping: bool, num_unreadable: int, is_overdue: bool
    ) -> "RankSums":
        """This rank's figures, `losses` by micro-batch, summed over ranks. Does not wait for the device. Collective."""
        packed = torch.zeros(engine.world_size + 3, dtype=torch.float64, device=engine.device)
        for loss in losses:
            packed[engine.rank] += loss
        packed[-3], packed[-2], packed[-1] = is_stopping, num_unreadable, is_overdue
        packed = engine.sum(packed)
        return RankSums(packed[:-3], packed[-3], packed[-2], packed[-1])


@dataclass(frozen=True, eq=False)
class StepReport:
    """Report of a finished step: the same on every rank except `unreadable`, this rank's images that could not be
    read."""

    step: int
    lr: float
    sums: RankSums
    update: Update
    unreadable: Sequence[UnreadableSample] = ()

    @property
    def loss(self) -> Tensor:
        """Mean loss of the batch, a scalar on the device."""
        return self.sums.losses.sum()

    def to_host(self) -> "HostCopy":
        """Begin the copy to the host; read it later."""
        return HostCopy(self)


@dataclass(frozen=True)
class StepNumbers:
    """A step's report as plain numbers. `is_bad`: its update was skipped, or its gradient is not finite. Of elastic
    runs: `num_samples` of all ranks, and `num_joining`, ranks that know of others that wait to join."""

    losses: tuple[float, ...]
    is_stopping: bool
    num_unreadable: int
    is_overdue: bool
    is_bad: bool
    num_samples: int | None = None
    num_joining: int = 0


class HostCopy:
    """A step's report while it is copied to the host."""

    def __init__(self, report: StepReport) -> None:
        self.report = report
        sums, update = report.sums, report.update
        is_bad = ~update.grad_norm.isfinite() if update.skipped is None else update.skipped
        scalars = (sums.num_stopping, sums.num_unreadable, sums.num_overdue, is_bad.to(sums.losses))
        counted = [] if update.counted is None else [update.counted]
        packed = torch.cat((sums.losses, *(scalar.view(1) for scalar in scalars), *counted))
        self._copied: torch.cuda.Event | None = None
        if packed.is_cuda:
            on_host = torch.empty_like(packed, device="cpu", pin_memory=True)
            packed = on_host.copy_(packed, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._packed = packed

    def read(self) -> StepNumbers:
        """The numbers, once the copy has arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        num_ranks = len(self.report.sums.losses)
        losses, (num_stopping, num_unreadable, num_overdue, is_bad, *counted) = (
            self._packed[:num_ranks],
            self._packed[num_ranks:],
        )
        return StepNumbers(
            tuple(losses.tolist()),
            bool(num_stopping),
            int(num_unreadable),
            bool(num_overdue),
            bool(is_bad),
            *map(int, counted),
        )
