"""Whether an elastic run, whatever happened to its ranks, came to what one process does by itself."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.faults.elastic_run import EVAL_EVERY, LOG_EVERY, ElasticRun
from tests.faults.run import PROGRESS_S
from trainer.run_folder.metric_logger import read_metrics

MAX_FLOAT64 = 1e-12
_RESTARTED = "resuming "
Row = dict[str, Any]


@dataclass
class References:
    """Undisturbed runs of as many steps, made when first needed: on one rank, whose samples and weights count, and on
    three, whose distance from it is what another order of sums makes in fp32."""

    data: Path
    folder: Path
    steps: int
    device: str = "cpu"
    step_s: float = 0.04
    """Seconds added to each step of a run that is disturbed."""
    _runs: dict[tuple[int, bool], ElasticRun] = field(default_factory=dict)

    def run(self, ranks: int, float64: bool) -> ElasticRun:
        if (ranks, float64) not in self._runs:
            name = f"undisturbed-{ranks}-{'fp64' if float64 else 'fp32'}"
            run = ElasticRun(
                ranks, self.steps, self.data, self.folder / name, float64=float64, step_s=0.0, device=self.device
            )
            run.start()
            try:
                run.await_end(4 * PROGRESS_S)
            finally:
                run.kill()
            if not run.is_finished:
                raise RuntimeError(f"an undisturbed run failed:\n{run.output()}")
            self._runs[ranks, float64] = run
        return self._runs[ranks, float64]


def faults_of(run: ElasticRun, references: References, float64: bool) -> list[str]:
    """What is wrong with a run that has ended; empty if nothing is."""
    if not run.is_finished or run.launcher.poll() != 0:
        return [f"it did not come to its end: {' | '.join(run.output().strip().splitlines()[-3:])[:500]}"]
    status = json.loads((run.run_dir / "status.json").read_text())["state"]
    wrong = [] if status == "finished" else [f"status.json says {status!r} of a finished run"]
    if _RESTARTED in run.output():
        wrong.append("it went on from a checkpoint")
    alone = references.run(1, float64)
    wrong += faults_in_ledger(run.rows(), run.steps, samples_by_step(alone.rows()))
    wrong += faults_in_metrics(read_metrics(run.run_dir), run.steps)
    distance = distance_of(run.run_dir, alone.run_dir, run.steps)
    limit = MAX_FLOAT64 if float64 else 2 * distance_of(references.run(3, False).run_dir, alone.run_dir, run.steps)
    if not distance <= limit:
        wrong.append(f"its weights lie {distance:.1e} from those of one process, more than {limit:.1e}")
    return wrong


def samples_by_step(rows: list[Row]) -> dict[int, list[int]]:
    """The samples of each step of an undisturbed run on one rank."""
    return {row["step"]: row["samples"] for row in rows if row["kind"] == "took"}


def faults_in_ledger(rows: list[Row], steps: int, expected: dict[int, list[int]]) -> list[str]:
    """Whether the weights at the end have learnt from each sample of each step once.

    A round begins at a step; what former rounds took of this and later steps did not count, as nobody had finished it.
    """
    took = [row for row in rows if row["kind"] == "took"]
    begins = {row["round"]: row["first"] for row in took}
    numbers = sorted(begins)
    ends = [begins[number] for number in numbers[1:]] + [steps]
    counted: dict[int, list[Row]] = {}
    for row in took:
        if row["step"] < ends[numbers.index(row["round"])]:
            counted.setdefault(row["step"], []).append(row)
    missing = [step for step in range(steps) if step not in counted]
    if missing or len(counted) != steps:
        return [f"the ledger has {len(counted)} of {steps} steps; without {missing[:5]}"]
    wrong = []
    for step, of_step in counted.items():
        ranks = sorted(row["rank"] for row in of_step)
        samples = [sample for row in sorted(of_step, key=lambda row: row["rank"]) for sample in row["samples"]]
        if ranks != list(range(of_step[0]["world_size"])) or len({row["round"] for row in of_step}) > 1:
            wrong.append(f"step {step} was made by ranks {ranks} of {of_step[0]['world_size']}")
        elif samples != expected[step]:
            wrong.append(f"step {step} was learnt from other samples")
    return wrong[:3]


def faults_in_metrics(rows: list[Row], steps: int) -> list[str]:
    """Whether each row of metrics that is due is there once."""
    wrong = []
    for name, every in (("train/loss", LOG_EVERY), ("val/loss", EVAL_EVERY)):
        found = Counter(row["step"] for row in rows if name in row)
        due = {step for step in range(1, steps + 1) if step % every == 0 or step == steps}
        if found != Counter(due):
            differing = sorted((due - found.keys()) | (found.keys() - due) | {s for s, n in found.items() if n > 1})
            wrong.append(f"rows of {name} twice, never or not due: steps {differing[:5]}")
    return wrong


def distance_of(found: Path, expected: Path, steps: int) -> float:
    """How far weights at the end lie apart: the norm of the difference as a share of a tensor's own, where that is
    largest."""
    ours, theirs = (load_file(folder / f"checkpoints/step_{steps:08d}.safetensors") for folder in (found, expected))
    if ours.keys() != theirs.keys():
        return float("inf")
    return max(_relative(ours[name], theirs[name]) for name in ours if name.startswith("model."))


def _relative(ours: "np.ndarray[Any, Any]", theirs: "np.ndarray[Any, Any]") -> float:
    size, difference = (float(np.linalg.norm(values)) for values in (theirs, ours.astype(np.float64) - theirs))
    return difference / size if size else difference
