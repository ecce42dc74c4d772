"""A discrete-event model of one data-parallel training step, from one rank to thousands.

The backward pass makes gradients ready layer by layer; the engine packs them into messages; the network carries one
after the other while the backward pass goes on; what it has not carried by the end is exposed. Times in seconds.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf, log2
from typing import Literal

import numpy as np
import scipy  # whose parts are loaded when they are used, so that help comes sooner

Algorithm = Literal["auto", "ring", "tree"]
Packing = Literal["buckets", "cycles", "end"]
_MB = 1 << 20
_FIRST_BUCKET_BYTES = 1 << 20  # DDP's first bucket is small, so that the network starts early


@dataclass(frozen=True)
class Layer:
    """Tensors whose gradients are ready together: their sizes in the order in which they become ready, and how long the
    backward pass takes to make them."""

    name: str
    elements: tuple[int, ...]
    backward_s: float


@dataclass(frozen=True)
class StepWork:
    """What one rank does in a step, alone. `layers` come in the order of the backward pass; `update_s` is the
    optimiser's; `image_bytes` are read from storage for each image."""

    layers: tuple[Layer, ...]
    forward_s: float
    update_s: float
    images: int
    image_bytes: float = 0.0

    @property
    def compute_s(self) -> float:
        """Forward, backward and update."""
        return self.forward_s + sum(layer.backward_s for layer in self.layers) + self.update_s


@dataclass(frozen=True)
class Machine:
    """Two levels of network, noise and the file system. Bandwidths in 1e9 bytes/s, latencies in microseconds a hop."""

    ranks_per_node: int
    in_node_gb_s: float  # that each rank of a ring sends at inside a node
    net_gb_s: float  # of a rank's share of the node's adapters
    wire_efficiency: float  # of those bandwidths, for gradients
    tree_efficiency: float  # of a tree against a ring of the same links
    ring_in_us: float
    ring_net_us: float
    tree_in_us: float
    tree_net_us: float
    message_us: float  # of every message, whatever its size and route
    interference: float  # how much longer computing takes while the network carries something, as a share
    step_sigma: float  # standard deviation of a rank's compute time from step to step, as a share of it
    serial_us_per_rank: float  # that every rank adds to every step: coordination, hops that nothing hides
    read_gb_s: float  # of the file system, for all ranks together


@dataclass(frozen=True)
class Sync:
    """How gradients travel. `buckets`: DDP, a message whenever so many bytes are ready; `cycles`: Horovod, every
    `cycle_ms` all that is ready, up to a size; `end`: after the backward pass. Of messages `in_flight` together, one is
    on the wire while the latencies of the others pass: NCCL has one stream for them, PyTorch's Gloo two threads."""

    packing: Packing = "buckets"
    bucket_mb: float = 25.0
    bytes_per_element: int = 4
    algorithm: Algorithm = "auto"
    small_first: bool = True
    cycle_ms: float = 1.0
    small_messages: int = 1  # that each step waits for besides: the sum of losses
    in_flight: int = 1


@dataclass(frozen=True)
class Step:
    """Where the time of a step goes."""

    compute_s: float
    straggler_s: float
    interference_s: float
    exposed_s: float
    serial_s: float
    data_wait_s: float

    @property
    def seconds(self) -> float:
        """Of a step."""
        return float(sum(vars(self).values()))


@lru_cache
def expected_maximum(count: int) -> float:
    """The expected largest of so many independent standard normal draws: the integral of [x > 0] - Phi(x)**count."""
    x, width = np.linspace(-10.0, 10.0, 40000, retstep=True)
    return float(((x > 0) - np.exp(count * scipy.special.log_ndtr(x))).sum() * width)


def all_reduce_s(machine: Machine, ranks: int, num_bytes: float, algorithm: Algorithm = "auto") -> float:
    """Time of one all-reduce. `auto` takes the faster algorithm, as NCCL does."""
    return sum(latency_and_wire_s(machine, ranks, num_bytes, algorithm))


def latency_and_wire_s(
    machine: Machine, ranks: int, num_bytes: float, algorithm: Algorithm = "auto"
) -> tuple[float, float]:
    """What an all-reduce takes for its message and its hops, and for its bytes.

    Latencies as in NCCL's tuning model: a ring has 2 (N - 1) hops of which 2 (nodes - 1) cross the network, a tree goes
    up and down a chain in each node and a binary tree between nodes.
    """
    if ranks == 1:
        return 0.0, 0.0
    nodes, local = ceil(ranks / machine.ranks_per_node), min(ranks, machine.ranks_per_node)
    bandwidth = machine.in_node_gb_s if nodes == 1 else machine.net_gb_s * local
    if nodes > 1 and local > 1:
        bandwidth = min(bandwidth, machine.in_node_gb_s)
    bandwidth *= machine.wire_efficiency * 1e9
    net_hops = 2 * (nodes - 1)
    ring_us = (2 * (ranks - 1) - net_hops) * machine.ring_in_us + net_hops * machine.ring_net_us
    tree_us = 2 * ((local - 1) * machine.tree_in_us + log2(nodes) * machine.tree_net_us)
    message_us = machine.message_us
    times = {
        "ring": ((message_us + ring_us) * 1e-6, 2 * (ranks - 1) / ranks * num_bytes / bandwidth),
        "tree": ((message_us + tree_us) * 1e-6, 2 * num_bytes / (bandwidth * machine.tree_efficiency)),
    }
    return min(times.values(), key=sum) if algorithm == "auto" else times[algorithm]


def buckets(sizes: Sequence[int], bucket_bytes: float, small_first: bool = True) -> list[list[int]]:
    """DDP's plan: which tensors, by their place in `sizes` (bytes, in the order of readiness), travel together.

    A bucket is closed by the tensor that fills it, so it may be larger than its limit; the first one's is 1 MB.
    """
    plan: list[list[int]] = [[]]
    filled = 0
    for place, size in enumerate(sizes):
        plan[-1].append(place)
        filled += size
        limit = min(bucket_bytes, _FIRST_BUCKET_BYTES) if small_first and len(plan) == 1 else bucket_bytes
        if filled >= limit:
            plan.append([])
            filled = 0
    return [bucket for bucket in plan if bucket]


def simulate(step_work: StepWork, machine: Machine, sync: Sync, ranks: int) -> Step:
    """One step of the slowest of `ranks` ranks, which all others wait for; its parts add up to its time."""
    noise = machine.step_sigma * expected_maximum(ranks) if ranks > 1 else 0.0
    slower = 1.0 + noise
    alone_s = slower * (step_work.compute_s - step_work.update_s)
    backward_s = carried_s = alone_s
    if ranks > 1:
        backward_s, carried_s = _Pass(step_work, machine, sync, ranks, slower).run()
    losses_s = sync.small_messages * all_reduce_s(machine, ranks, 8 * ranks)
    serial_s = machine.serial_us_per_rank * 1e-6 * (ranks - 1)
    busy_s = carried_s + step_work.update_s * slower + losses_s + serial_s
    input_s = ranks * step_work.images * step_work.image_bytes / (machine.read_gb_s * 1e9)
    return Step(
        compute_s=step_work.compute_s,
        straggler_s=noise * step_work.compute_s,
        interference_s=backward_s - alone_s,
        exposed_s=carried_s - backward_s + losses_s,
        serial_s=serial_s,
        data_wait_s=max(0.0, input_s - busy_s),
    )


class _Pass:
    """Forward and backward pass beside the network, event by event: a layer is done, or a message starts."""

    def __init__(self, step_work: StepWork, machine: Machine, sync: Sync, ranks: int, slower: float) -> None:
        self._machine, self._sync, self._ranks = machine, sync, ranks
        self._work = deque((layer.backward_s * slower, layer.elements) for layer in step_work.layers)
        self._sizes = [elements * sync.bytes_per_element for layer in step_work.layers for elements in layer.elements]
        plan = buckets(self._sizes, sync.bucket_mb * _MB, sync.small_first)
        self._ends = deque(bucket[-1] + 1 for bucket in plan)
        self._ready_s: list[float] = []
        self._sent = 0
        self._now_s = step_work.forward_s * slower
        self._free_s = 0.0  # when the network has carried all that it was given
        self._carried_s = deque([0.0] * sync.in_flight, sync.in_flight)  # when it has carried each of the last messages

    def run(self) -> tuple[float, float]:
        """When the backward pass ends, and when all gradients have been carried, counted from the step's begin."""
        backward_s = self._now_s
        while self._work or self._sent < len(self._sizes):
            done_s = self._now_s + self._stretched(self._work[0][0]) if self._work else inf
            starts_s = self._next_start()
            if starts_s <= done_s:
                self._compute_until(starts_s)
                latency_s, wire_s = self._send()
                self._free_s = max(starts_s + latency_s, self._free_s) + wire_s
                self._carried_s.append(self._free_s)
            else:
                _, elements = self._work.popleft()
                self._now_s = backward_s = done_s
                self._ready_s += [done_s] * len(elements)
        return backward_s, self._free_s

    def _stretched(self, work_s: float) -> float:
        """How long some work takes from now on: more of it while the network is busy."""
        pace = 1.0 + self._machine.interference
        busy_s = max(0.0, self._free_s - self._now_s)
        return work_s * pace if work_s * pace <= busy_s else work_s + busy_s * (1.0 - 1.0 / pace)

    def _compute_until(self, when_s: float) -> None:
        """Some of the next layer's work is done until a message starts."""
        if self._work and when_s > self._now_s:
            work_s, elements = self._work[0]
            share = (when_s - self._now_s) / self._stretched(work_s)
            self._work[0] = (work_s * (1.0 - min(1.0, share)), elements)
        self._now_s = max(self._now_s, when_s)

    def _next_start(self) -> float:
        """When the next message starts, as far as the gradients that are ready now tell."""
        ready = len(self._ready_s)
        if ready == self._sent or (self._sync.packing == "end" and self._work):
            return inf
        if self._sync.packing == "cycles":
            # The next cycle begins half a cycle later on average.
            return max(self._ready_s[self._sent], self._carried_s[0]) + self._sync.cycle_ms * 0.5e-3
        if self._ends[0] > ready:
            return inf
        last = -1 if self._sync.packing == "end" else self._ends[0] - 1
        return max(self._ready_s[last], self._carried_s[0])

    def _send(self) -> tuple[float, float]:
        """Send a message; returns its latency, and how long it is on the wire."""
        end = self._sent + 1
        if self._sync.packing == "cycles":
            room = self._sync.bucket_mb * _MB - self._sizes[self._sent]
            while end < len(self._ready_s) and self._sizes[end] <= room:
                room -= self._sizes[end]
                end += 1
        else:
            end = self._ends.popleft()
        num_bytes = sum(self._sizes[self._sent : end])
        self._sent = end
        return latency_and_wire_s(self._machine, self._ranks, num_bytes, self._sync.algorithm)
