"""The time breakdown of a training step as a Markdown table."""

from trainer.profiling.breakdown import Breakdown
from trainer.profiling.categories import Category

_MOST_NAMED = 6
_NAMES: dict[Category, str] = {
    "convolutions": "convolutions",
    "norms": "norms: GroupNorm with ReLU and the residual addition",
    "standardisation": "weight standardisation",
    "optimizer": "optimiser: clipping and update",
    "other": "everything else that is computed",
    "communication": "communication that nothing overlaps",
    "copies": "copies between host and GPU that nothing overlaps",
    "data": "data wait",
    "idle": "host-bound: nothing runs, the host prepares the next operation",
    "pause": "evaluation and saving",
}
_ONLY_IF_THERE: tuple[Category, ...] = ("copies", "pause")
_HOW_GPU = (
    "Each instant counts once: by what runs on the GPU, computing before communication before copies; where nothing "
    "runs, as data wait if the host waits for data then, else as host-bound. The GPU is waited for before the first of "
    "these steps and after the last one, and nowhere else."
)
_HOW_CPU = (
    "Each instant counts once: by what the training thread is at, or as communication where it is at no operation and "
    "an exchange is under way. On a CPU an exchange and computing share the cores, so each slows the other down."
)
_BEYOND = (
    "Communication includes waiting for slower ranks. Recording costs the host some time for each operation, which "
    "shows where the device does not hide it."
)


def table(found: Breakdown, title: str, unrecorded_ms: float | None) -> str:
    """Markdown table. title: one line on what was recorded. unrecorded_ms: time of a step just before, without the
    profiler."""
    lines = [
        "# Where the time of a training step goes",
        "",
        f"{title}. {headline(found)}{_without(unrecorded_ms)}",
        "",
        "| | ms per step | share |",
        "|---|---:|---:|",
    ]
    for category, name in _NAMES.items():
        if found.ms[category] or category not in _ONLY_IF_THERE:
            lines.append(f"| {name} | {found.ms[category]:.2f} | {_share(found.ms[category], found)} |")
    lines += [f"| the step | {found.step_ms:.2f} | 100.0% |", "", _communication(found)]
    if found.on_gpu:
        lines.append(f"\nA step launches {found.launches:.0f} kernels.")
    lines += ["", _others(found), "", _layouts(found), "", f"{_HOW_GPU if found.on_gpu else _HOW_CPU} {_BEYOND}"]
    return "\n".join(lines) + "\n"


def headline(found: Breakdown) -> str:
    """One sentence on the step and its largest parts."""
    largest = sorted(found.ms, key=lambda category: -found.ms[category])[:3]
    parts = ", ".join(f"{_share(found.ms[category], found)} {_NAMES[category].split(':')[0]}" for category in largest)
    return f"A step takes {found.step_ms:.1f} ms: {parts}."


def _without(unrecorded_ms: float | None) -> str:
    return "" if unrecorded_ms is None else f" Just before, without the profiler, it took {unrecorded_ms:.1f} ms."


def _share(part_ms: float, found: Breakdown) -> str:
    return f"{part_ms / found.step_ms:.1%}" if found.step_ms else "-"


def _communication(found: Breakdown) -> str:
    whole, exposed = found.communication_ms, found.ms["communication"]
    if not whole:
        return "No communication was seen."
    return (
        f"Communication takes {whole:.2f} ms in all, of which {exposed:.2f} ms ({exposed / whole:.0%}) are exposed: "
        "no computing overlaps them."
    )


def _others(found: Breakdown) -> str:
    named = list(found.other_ms.items())[:_MOST_NAMED]
    if not named:
        return "There is nothing else."
    return "Most of everything else: " + ", ".join(f"`{name}` {ms:.2f} ms" for name, ms in named) + "."


def _layouts(found: Breakdown) -> str:
    if not found.layout_copies:
        return "No operation copies a tensor from channels-last to channels-first or back."
    lines = ["| copies a 4-D tensor, activations or filters, into the other layout | times per step |", "|---|---:|"]
    lines += [f"| `{name}`, {direction} | {count:.4g} |" for (name, direction), count in found.layout_copies.items()]
    return "\n".join(lines)
