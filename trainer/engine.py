"""The engine interface: the contract between the training loop and whatever moves gradients between ranks."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from data_pipelines.common.errors import RunError

Phase = Literal["starting", "data", "exchange", "forward", "backward", "update", "evaluation", "saving", "finishing"]


class Update(NamedTuple):
    """Figures of an optimiser step: scalar tensors on the engine's device, to be read when the caller chooses."""

    grad_norm: Tensor
    """L2 norm of the averaged, unscaled gradient before clipping."""
    clipped_share: Tensor
    """Share of AGC's units that were clipped, in [0, 1]."""
    skipped: Tensor | None = None
    """Whether nothing was updated, because a loss or a gradient was not finite; None where that was not asked for."""
    counted: Tensor | None = None
    """Of elastic runs, float64 [2]: samples that all ranks have brought together for this update, which is left out
    unless they are the whole batch; and ranks that know of others that wait to join."""


class RankLostError(RunError):
    """Another rank is lost; this one cannot go on, but the run can be resumed."""


class RegroupError(RankLostError):
    """Ranks are lost, or wait to join: this one goes on after `Engine.regroup`. Only of engines that are elastic."""


@dataclass
class Progress:
    """How far a run is on this rank; `loop.train` keeps it up to date."""

    step: int
    """Updates that the weights have had; -1: these are not the run's, so they come from another rank or from a
    checkpoint."""
    best: float | None = None
    """Primary metric of the best checkpoint so far, None without one."""
    is_owed: bool = False
    """Whether the evaluation and the checkpoint due after `step` are still to be done, or were interrupted."""
    rows: dict[str, tuple[int, dict[str, float]]] = field(default_factory=dict)
    """The last rows of metrics by kind, "train" and "val", each with its step: rank 0 may be lost before it writes
    them."""
    trained_s: float | None = None
    """Seconds of training over all starts, once it is over and saved; None before."""
    must_save: bool = False
    """Whether the last checkpoint may be lost with rank 0, which was writing it."""
    source: int = 0
    """The rank that this comes from, after `Engine.regroup`."""


@dataclass(frozen=True)
class Changes:
    """Who left and joined an elastic run with the last round: `name` and `host` of each rank, and `why` it left."""

    round: int = 0
    """Number of the round; 0: none yet."""
    left: Sequence[Mapping[str, str]] = ()
    joined: Sequence[Mapping[str, str]] = ()
    ends: bool = False
    """Whether the ranks have met to save and end: all were asked to stop, or they are too few."""
    too_few: str | None = None
    """Why they end, if they are."""


class Heartbeat(Protocol):
    """Reports this rank's progress to the other ranks, and watches theirs."""

    listener: Callable[[Phase, int | None], None] | None
    """Is told of every phase, and of its step where one begins, by the thread that trains."""

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """Report progress: this rank begins a phase of a step."""

    def slowest(self) -> tuple[dict[str, float], dict[str, str]]:
        """On rank 0, over the steps since the last call: the rank that takes longest for its own work, by how many
        seconds per step it exceeds the median rank; and its phase and host as text."""

    def move(self, store: Any, rank: int, world_size: int) -> None:
        """Go on as another rank, with a store that nobody has used for this. Collective, within `watching`."""

    def watching(self, on_hang: Callable[[str], None]) -> AbstractContextManager[None]:
        """End this process if a rank makes no progress any more. Before that, one rank of the job calls `on_hang` with
        the reason. Collective."""


class Engine(ABC):
    """One rank's view of a data-parallel job.

    Every engine on any number of ranks gives the weights of one process that sees the whole batch.
    """

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    threads: int
    """CPU threads of this rank."""
    local_world_size: int
    """Ranks on this node."""
    transport: str
    """What carries gradients between ranks, as text."""
    heartbeat: Heartbeat
    changes: Changes = Changes()
    """Of the last `regroup`."""
    model: nn.Module
    """The wrapped model, after `prepare`: call it in `accumulate`, and in `evaluation` to predict."""

    @abstractmethod
    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, example: Tensor) -> None:
        """Place the model, wrap it, broadcast its weights from rank 0, and run one forward and backward pass on
        `example`, uint8 [B, C, S, S], whose gradients are dropped. May be called again with another model.

        `optimizer` is an SGDAGC of the model's parameters, None for a model that only predicts.
        """

    def begin_step(self, step: int) -> None:
        """Tell the watchdog that a step begins, in the phase of waiting for data."""
        self.heartbeat.enter("data", step)

    @abstractmethod
    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next update."""

    @abstractmethod
    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Context for the forward and backward pass of a micro-batch; gradients synchronise only if it is the
        `last`."""

    @abstractmethod
    def backward(self, loss_sum: Tensor, num_labels: Tensor | int) -> Tensor:
        """Backward pass of a loss that is summed over the labels of a micro-batch; `num_labels` are those of the whole
        batch, over all ranks and micro-batches. Gradients add up over micro-batches and, after `step` has averaged them
        over ranks, are those of the mean loss. Returns this micro-batch's part of it, without its graph."""

    @abstractmethod
    def step(self, is_nonfinite: Tensor | None = None) -> Update:
        """Reduce, unscale, clip, update, zero. The weights do not change if fp16 gradients overflowed.

        `is_nonfinite` is a scalar on the device with the same value on every rank: if it is true, or a gradient is not
        finite, weights and momentum also stay unchanged, and `skipped` is true. Does not wait for the GPU.
        """

    @abstractmethod
    def evaluation(self) -> AbstractContextManager[None]:
        """Context in which `model` predicts: no gradients, no communication."""

    @abstractmethod
    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, with the tensor's shape, dtype and device. Collective."""

    def exchange(self, tensor: Tensor) -> Tensor:
        """`sum` of the figures that a step needs from all ranks before its forward pass. Collective."""
        self.heartbeat.enter("exchange")
        return self.sum(tensor)

    def barrier(self) -> None:
        """Return once every rank is here. Collective."""
        self.sum(torch.zeros(1))

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, plain JSON types, by rank. Collective; for small values."""
        mine = torch.tensor(list(json.dumps(value).encode()), dtype=torch.int32)
        lengths = torch.zeros(self.world_size, dtype=torch.int32)
        lengths[self.rank] = len(mine)
        lengths = self.sum(lengths)
        texts = torch.zeros(self.world_size, int(lengths.max()), dtype=torch.int32)
        texts[self.rank, : len(mine)] = mine
        rows = zip(self.sum(texts).tolist(), lengths.tolist(), strict=True)
        return [json.loads(bytes(text[:length])) for text, length in rows]

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Canonical, unsharded, the same for every engine and number of ranks: "model" and "momentum" map parameter
        names to tensors, "loss_scaler" maps names to numbers. Collective where state is sharded."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state written by any engine. Raises RuntimeError where names or shapes differ."""

    @property
    def is_joining(self) -> bool:
        """Whether this rank gets ready by itself, as rank -1 of one, to join others that train already: by `regroup`.
        It writes nothing until then."""
        return False

    def introduce(self, facts: dict[str, Any]) -> None:
        """Tell what must be the same on all ranks, plain JSON types, by which ranks that join are compared. Does
        nothing unless the engine is elastic."""
        return

    def expect_samples(self, mine: int, of_all: int) -> None:
        """Before `step`: the samples of this rank in the update, and those of all ranks. Elastic engines leave the
        update out, on the device, unless they add up."""
        return

    def agree_to_stop(self, is_asked: Callable[[], bool]) -> bool:
        """Some rank was asked to stop: whether all of them stop, as they must unless the engine is elastic; there,
        those that were asked leave, and the others regroup. `is_asked`: whether this one was. Collective."""
        return True

    def regroup(self, progress: Progress, is_asked: Callable[[], bool]) -> Progress:
        """Take part in a new group with the ranks that are left and those that wait to join: `rank` and `world_size`
        change, and all go on from the progress that is returned, with the weights, momentum and loss scaler of the rank
        that is furthest. Collective over the new ranks. Raises NotImplementedError unless the engine is elastic."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Leave the job. The engine cannot be used afterwards."""
