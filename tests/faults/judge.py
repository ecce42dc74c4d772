"""Whether a disturbed run came to what an undisturbed one does, and learnt from each sample as often."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tests.faults.run import BATCH_SIZE, STEPS, Run, steps_taken
from trainer.run_folder.metric_logger import read_metrics


def faults_of(run: Run, undisturbed: Run, num_samples: int) -> list[str]:
    """What is wrong with a run that was brought to its end; empty if nothing is."""
    if not run.is_finished:
        return ["it is not finished"]
    state = run.status().get("state")
    wrong = [] if state == "finished" else [f"status.json says {state!r} of a finished run"]
    wrong += differing_weights(last_checkpoint(run.folder), last_checkpoint(undisturbed.folder))
    wrong += differing_results(run.folder, undisturbed.folder)
    ledger = kept_steps([(start, rank, row) for start, rank, row in steps_taken(run)])
    return wrong + faults_in_ledger(ledger, run.layout.ranks, num_samples)


def last_checkpoint(folder: Path) -> Path:
    """Of the last step."""
    return folder / "checkpoints" / f"step_{STEPS:08d}.safetensors"


def differing_weights(found: Path, expected: Path) -> list[str]:
    """Weights and momentum whose bits differ."""
    if not found.is_file():
        return [f"{found.name} is missing"]
    try:
        ours, theirs = load_file(found), load_file(expected)
    except SafetensorError as error:
        return [f"{found.name} cannot be read: {error}"]
    if ours.keys() != theirs.keys():
        return ["its checkpoint holds other tensors"]
    names = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    return [f"{len(names)} of {len(ours)} tensors differ, the first is {names[0]}"] if names else []


def differing_results(found: Path, expected: Path) -> list[str]:
    """What was found on val and test, and the losses on the way, each step once."""
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (found, expected))
    names = ("val", "test", "checkpoint_step", "total_steps")
    wrong = [f"another {name} in result.json" for name in names if ours.get(name) != theirs.get(name)]
    if _losses(found) != _losses(expected):
        wrong.append("other losses in metrics.jsonl, or a step twice or never")
    return wrong


def _losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["train/loss"]) for row in read_metrics(folder) if "train/loss" in row]


def kept_steps(rows: list[tuple[int, int, dict[str, Any]]]) -> dict[int, dict[int, list[int]]]:
    """What the weights at the end have learnt from: the samples of each rank at each step.

    `rows` are (start, rank, line of the ledger). A start that begins at a step takes back every step of earlier starts
    from there on, whether it comes as far or not.
    """
    kept: dict[int, dict[int, list[int]]] = {}
    latest = -1
    for start, rank, row in sorted(rows, key=lambda item: item[0]):
        if start != latest:
            kept = {step: of_rank for step, of_rank in kept.items() if step < row["first"]}
            latest = start
        kept.setdefault(row["step"], {})[rank] = row["samples"]
    return kept


def faults_in_ledger(kept: dict[int, dict[int, list[int]]], ranks: int, num_samples: int) -> list[str]:
    """Each step made once by every rank, each sample once per epoch."""
    missing = [step for step in range(STEPS) if set(kept.get(step, ())) != set(range(ranks))]
    if missing or len(kept) != STEPS:
        return [f"the ledger has {len(kept)} of {STEPS} steps; not by every rank: {missing[:5]}"]
    stream = np.concatenate([kept[step][rank] for step in range(STEPS) for rank in range(ranks)])
    if len(stream) != STEPS * BATCH_SIZE:
        return [f"{len(stream)} samples were learnt from, not {STEPS * BATCH_SIZE}"]
    wrong = []
    for epoch, first in enumerate(range(0, len(stream), num_samples)):
        seen = np.bincount(stream[first : first + num_samples], minlength=num_samples)
        whole = first + num_samples <= len(stream)
        if seen.max() > 1 or (whole and seen.min() < 1) or len(seen) > num_samples:
            wrong.append(f"epoch {epoch}: {int((seen > 1).sum())} samples twice, {int((seen == 0).sum())} never")
    return wrong
