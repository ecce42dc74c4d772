"""From trace events to the time that each part of a training step takes.

Every instant between the first step's begin and the last one's end goes to exactly one category, so that they add up.
On a GPU it goes by what runs there, and where nothing does, by what the host is at; on a CPU by what the training
thread is at. A kernel belongs to the operation that launched it, or the one around that; where there is none, as in a
CUDA graph, its own name tells.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from trainer.profiling.categories import (
    CATEGORIES,
    COMPUTING,
    PAUSES,
    PHASE,
    STEP,
    Category,
    category_of_kernel,
    category_of_operation,
    changes_layout,
    is_exchange,
    is_frame,
)

_ON_GPU = {"kernel", "gpu_memcpy", "gpu_memset"}
_LAUNCHES = {"cuda_runtime", "cuda_driver"}
_ORDER_GPU: tuple[Category, ...] = ("pause", *COMPUTING, "communication", "copies", "data")
_ORDER_CPU: tuple[Category, ...] = ("pause", "data", *COMPUTING, "communication")
Event = dict[str, Any]
Thread = tuple[Any, Any]


@dataclass(frozen=True)
class Breakdown:
    """Of one rank; times are milliseconds of a step, means over the steps.

    ms: what each category takes, which adds up to step_ms; "communication" is what no computing overlaps. other_ms:
    the operations, or kernels, that "other" consists of. layout_copies: how often a step copies a 4-D tensor from
    channels-last to channels-first or back, by operation and direction with the largest size. launches: kernels of a
    step.
    """

    steps: int
    on_gpu: bool
    step_ms: float
    ms: dict[Category, float]
    communication_ms: float
    other_ms: dict[str, float]
    layout_copies: dict[tuple[str, str], float]
    launches: float


class _Span(NamedTuple):
    """Microseconds of the trace's clock."""

    start: float
    end: float
    category: Category
    label: str = ""


class _Owner(NamedTuple):
    """Whose the time inside an operation is: its own category or that of an operation around it, and the outermost
    operation whose name is worth telling."""

    category: Category | None = None
    label: str = ""


_NOBODY = _Owner()


class _Piece(NamedTuple):
    start: float
    end: float
    owner: _Owner


class _ThreadLog:
    """What one thread of the host did: its operations with the owner of each, and the innermost of each instant."""

    def __init__(self, operations: list[Event]) -> None:
        self.owned: list[tuple[Event, _Owner]] = []
        self.pieces: list[_Piece] = []
        self._around: list[tuple[float, _Owner]] = []
        self._at = float("-inf")
        for event in sorted(operations, key=lambda e: (e["ts"], -e["dur"])):
            self._leave_until(event["ts"])
            self._go_on(event["ts"])
            outer_end, outer = self._around[-1] if self._around else (float("inf"), _NOBODY)
            owner = _owner(event, outer)
            self.owned.append((event, owner))
            # Clocks are rounded: what begins inside another operation ends there, too.
            self._around.append((min(event["ts"] + event["dur"], outer_end), owner))
        self._leave_until(float("inf"))
        self._starts = [piece.start for piece in self.pieces]

    def _leave_until(self, time: float) -> None:
        while self._around and self._around[-1][0] <= time:
            self._go_on(self._around[-1][0])
            self._around.pop()

    def _go_on(self, until: float) -> None:
        if self._around and until > self._at:
            self.pieces.append(_Piece(self._at, until, self._around[-1][1]))
        self._at = max(self._at, until)

    def owner_at(self, time: float) -> _Owner:
        """Of what the thread was at."""
        place = bisect_right(self._starts, time) - 1
        return self.pieces[place].owner if place >= 0 and time < self.pieces[place].end else _NOBODY


def break_down(events: Iterable[Event]) -> Breakdown:
    """The events of a Chrome trace that torch.profiler wrote, with its steps and `PHASE` ranges, on CPU and GPU.

    Raises ValueError where no step was recorded.
    """
    timed = [event for event in events if event.get("ph") == "X"]
    steps = [e for e in timed if e.get("cat") == "user_annotation" and e["name"].startswith(STEP)]
    if not steps:
        raise ValueError("no step was recorded")
    start, end = min(e["ts"] for e in steps), max(e["ts"] + e["dur"] for e in steps)
    training = _thread(steps[0])
    threads = _by_thread(timed)
    kernels = [e for e in timed if e.get("cat") in _ON_GPU and e["ts"] < end and e["ts"] + e["dur"] > start]
    spans = _phases(timed, training)
    if kernels:
        spans += _kernel_spans(kernels, timed, threads)
    else:
        spans += _host_spans(threads[training])
        spans += [_span(e, "communication") for e in timed if is_exchange(e["name"])]
    spans = [
        span._replace(start=max(span.start, start), end=min(span.end, end))
        for span in spans
        if span.start < end and span.end > start
    ]
    per_step = 1e-3 / len(steps)
    shares = _partition(spans, _ORDER_GPU if kernels else _ORDER_CPU, start, end)
    exchange = [span for span in spans if span.category == "communication"]
    others: dict[str, float] = defaultdict(float)
    for span in spans:
        if span.category == "other":
            others[span.label] += (span.end - span.start) * per_step
    return Breakdown(
        steps=len(steps),
        on_gpu=bool(kernels),
        step_ms=(end - start) * per_step,
        ms={category: shares[category] * per_step for category in CATEGORIES},
        communication_ms=_partition(exchange, ("communication",), start, end)["communication"] * per_step,
        other_ms=dict(sorted(others.items(), key=lambda item: -item[1])),
        layout_copies=_layout_copies(threads.values(), kernels, len(steps)),
        launches=sum(e["cat"] == "kernel" for e in kernels) / len(steps),
    )


def _thread(event: Event) -> Thread:
    return event.get("pid"), event.get("tid")


def _span(event: Event, category: Category, label: str = "") -> _Span:
    return _Span(event["ts"], event["ts"] + event["dur"], category, label)


def _by_thread(timed: Iterable[Event]) -> dict[Thread, _ThreadLog]:
    found: dict[Thread, list[Event]] = defaultdict(list)
    for event in timed:
        if event.get("cat") in ("cpu_op", "user_annotation") and not is_exchange(event["name"]):
            found[_thread(event)].append(event)
    return {thread: _ThreadLog(operations) for thread, operations in found.items()}


def _owner(event: Event, outer: _Owner) -> _Owner:
    name = event["name"]
    hidden = event["cat"] == "user_annotation" or is_frame(name)
    return _Owner(category_of_operation(name) or outer.category, outer.label or ("" if hidden else name))


def _phases(timed: Iterable[Event], training: Thread) -> list[_Span]:
    categories: dict[str, Category] = {f"{PHASE}data": "data", **{f"{PHASE}{name}": "pause" for name in PAUSES}}
    return [
        _span(event, categories[event["name"]])
        for event in timed
        if event["name"] in categories and _thread(event) == training
    ]


def _host_spans(log: _ThreadLog) -> list[_Span]:
    return [
        _Span(piece.start, piece.end, piece.owner.category or "other", piece.owner.label)
        for piece in log.pieces
        if piece.owner != _NOBODY
    ]


def _kernel_spans(kernels: Iterable[Event], timed: Iterable[Event], threads: dict[Thread, _ThreadLog]) -> list[_Span]:
    launches = {e.get("args", {}).get("correlation"): e for e in timed if e.get("cat") in _LAUNCHES}
    spans = []
    for kernel in kernels:
        owner, launch = _NOBODY, launches.get(kernel.get("args", {}).get("correlation", -1))
        if launch is not None and (log := threads.get(_thread(launch))):
            owner = log.owner_at(launch["ts"])
        if kernel["cat"] == "kernel":
            category = category_of_kernel(kernel["name"], owner.category, owner.label)
        else:
            category = owner.category or "copies"
        spans.append(_span(kernel, category, owner.label or _short(kernel["name"])))
    return spans


def _short(kernel: str) -> str:
    return kernel.removeprefix("void ").split("<")[0].split("(")[0]


def _partition(spans: Iterable[_Span], order: Sequence[Category], start: float, end: float) -> dict[Category, float]:
    """Microseconds of each category: an instant goes to the first of `order` that has a span there, or is idle."""
    edges = [(span.start, span.category, 1) for span in spans] + [(span.end, span.category, -1) for span in spans]
    running: Counter[Category] = Counter()
    shares: dict[Category, float] = defaultdict(float)
    at = start
    for time, category, change in [*sorted(edges), (end, order[0], 0)]:
        shares[next((one for one in order if running[one]), "idle")] += time - at
        at = time
        running[category] += change
    return shares


def _layout_copies(logs: Iterable[_ThreadLog], kernels: Iterable[Event], steps: int) -> dict[tuple[str, str], float]:
    counts: Counter[tuple[str, str]] = Counter()
    largest: dict[tuple[str, str], list[int]] = {}
    for log in logs:
        for event, owner in log.owned:
            if event["name"] == "aten::copy_" and (direction := _direction(event.get("args", {}))):
                name, size = (owner.label or event["name"], direction), event["args"]["Input Dims"][0]
                counts[name] += 1
                largest[name] = max(largest.get(name, size), size, key=prod)
    counts.update((_short(kernel["name"]), "in cuDNN") for kernel in kernels if changes_layout(kernel["name"]))

    def in_full(name: tuple[str, str]) -> tuple[str, str]:
        size = largest.get(name)
        return name if size is None else (name[0], f"{name[1]}, up to {'x'.join(map(str, size))}")

    return {in_full(name): count / steps for name, count in counts.most_common()}


def _direction(arguments: Event) -> str | None:
    """Of a copy from channels-last to channels-first or back; None for others."""
    sizes, strides = arguments.get("Input Dims", ()), arguments.get("Input Strides", ())
    if len(sizes) < 2 or len(strides) < 2 or sizes[0] != sizes[1] or len(sizes[0]) != 4 or min(sizes[0][1:]) < 2:
        return None
    target, source = (_layout(sizes[0], of_tensor) for of_tensor in strides[:2])
    return None if target is None or source is None or target == source else f"{source} to {target}"


def _layout(size: Sequence[int], strides: Sequence[int]) -> str | None:
    _, channels, height, width = size
    if list(strides[1:]) == [1, width * channels, channels]:
        return "channels-last"
    if list(strides[1:]) == [height * width, width, 1]:
        return "channels-first"
    return None
