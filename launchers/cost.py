"""What a run will take: what the trainer says of it beforehand, and the rate of what has run."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers import script
from launchers.profiles import UsageError, counted, seconds
from launchers.request import Request

_PLAN_S = 300
_GPU_MAKERS = ("NVIDIA", "Tesla", "GeForce", "Quadro", "AMD Instinct")


@dataclass(frozen=True)
class Cost:
    """What a run will take; `plan` is what `pretrain.py --plan` says."""

    plan: dict[str, Any]
    ranks: int
    request: Request
    rate: float | None
    """Images per second on these ranks."""
    source: str
    """How the rate is known, or why none is."""
    chain: int = 1
    """Jobs that are submitted."""
    is_trial: bool = False
    """Of --smoke: only 20 steps of the run."""

    @property
    def hours(self) -> float | None:
        """Of training, without queueing."""
        if self.rate is None:
            return None
        return float(self.plan["total_steps"] * self.plan["global_batch_size"] / self.rate / 3600)

    @property
    def jobs(self) -> int | None:
        """How many jobs of this length it takes."""
        if self.hours is None:
            return None
        useful_s = seconds(self.request.time) - self.request.site.grace_s
        return max(1, math.ceil(self.hours * 3600 / useful_s))

    def lines(self) -> list[str]:
        """For people."""
        plan, job_hours = self.plan, seconds(self.request.time) / 3600
        device = "GPU" if self.request.site.gpus_per_node else "rank"
        at_most = _device_hours(self.ranks * job_hours * self.chain, device)
        all_jobs = f", all {self.chain} jobs {at_most}" if self.chain > 1 else ""
        lines = [
            f"run       {plan['run_dir']}: {counted(plan['total_steps'], 'step')} of "
            f"{counted(plan['global_batch_size'], 'image')}, {counted(plan['train_images'], 'image')} in an epoch",
            f"model     {plan['parameters'] / 1e6:.1f} M parameters, "
            f"{plan['checkpoint_bytes'] / 1e9:.2f} GB a checkpoint",
            f"job       {counted(self.ranks, device)} for at most {self.request.time}: "
            f"{_device_hours(self.ranks * job_hours, device)}{all_jobs}",
        ]
        if self.is_trial:
            lines.append("trial     20 steps of this run; a later --dry-run estimates hours and jobs by their rate")
        elif self.rate is None or self.hours is None or self.jobs is None:
            lines.append(f"in all    {self.source}")
        else:
            lines.append(
                f"in all    about {_duration(self.hours)}, {_device_hours(self.hours * self.ranks, device)}, "
                f"{counted(self.jobs, 'job')} ({self.rate:,.0f} images/s, {self.source})"
            )
        return lines


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 0.1 else f"{max(1, round(hours * 60))} min"


def _device_hours(hours: float, device: str) -> str:
    return f"{hours:,.0f} {device}-hours" if hours >= 10 else f"{hours:.1f} {device}-hours"


def ask_plan(python: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What the trainer says of a run; what `own` chose is printed. Raises UsageError with its message when it
    refuses."""
    front = Path(sys.argv[0])
    # By the name that was typed, so that commands in its messages have it too.
    trainer = [str(front), "pretrain"] if front.name == "bitscale" else [str(script.TRAINER)]
    command = [python, *trainer, *arguments, "--plan"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PLAN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"the trainer does not say what the run would be: {error}") from error
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        raise UsageError("the trainer refuses this run: " + "\n".join(lines[-15:]).removeprefix("error: "))
    chosen = [line for line in lines if line.startswith("own: ")]
    if chosen:
        chosen.append("note: own chose by this machine; it chooses anew on the job's node, so that the job may differ")
        print("\n".join(chosen), file=sys.stderr)
    plan: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return plan


def measured_rate(run_dir: Path, ranks: int, on_gpus: bool) -> tuple[float | None, str]:
    """Images per second on this many ranks, by the newest measurement on such devices, of the run so far or else of its
    smoke tests, and where it was made. Without any: None, and what to do."""
    smokes = sorted(run_dir.parent.glob(f"{run_dir.name}-smoke-*"), key=lambda path: path.stat().st_mtime)
    other = None
    for folder in [run_dir, *reversed(smokes)]:
        rate, on, gpus = _rate_of(folder)
        if rate is None:
            continue
        if gpus is not None and gpus != on_gpus:
            other = other or folder
            continue
        source = f"measured in {folder}"
        if on in (None, ranks):
            return rate, source
        return rate * ranks / on, f"{source} on {counted(on, 'rank')}, and assumed to grow with them"
    if other is None:
        return None, "not known before a first measurement: submit the same with --smoke"
    device, wanted = ("a CPU", "GPUs") if on_gpus else ("GPUs", "CPUs")
    return None, f"not known: {other} was measured on {device}, which tells nothing of {wanted}; --smoke measures it"


def _rate_of(folder: Path) -> tuple[float | None, int | None, bool | None]:
    """Images per second of a run since its ranks and device last changed, how many ranks, and whether they are GPUs;
    None for what is not known."""
    on, gpus, before, steps, step_s = None, _had_gpus(folder), 0, 0, 0.0
    for row in _rows(folder / "metrics.jsonl"):
        step = row.get("step", before)
        rate = row.get("train/images_per_s")
        if "world_size" in row:
            start = (row["world_size"], row["device"] == "cuda" if "device" in row else gpus)
            if start != (on, gpus):
                (on, gpus), steps, step_s = start, 0, 0.0
        elif rate:
            steps += step - before
            step_s += (step - before) / rate
        before = step if rate or "world_size" in row else before
    return steps / step_s if step_s > 0 else None, on, gpus


def _had_gpus(folder: Path) -> bool | None:
    """By the name of the device, for runs whose rows do not say it."""
    try:
        name = str(json.loads((folder / "environment.json").read_text(encoding="utf-8"))["device"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return any(maker in name for maker in _GPU_MAKERS)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    # The trainer's own reader is not for this program: it runs on login nodes where no packages are installed.
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a kill left the last line unfinished
        if isinstance(row, dict):
            yield row
