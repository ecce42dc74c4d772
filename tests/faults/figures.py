"""What the rounds and the soak found, as figures for people and as JSON."""

import json
import os
import platform
import subprocess
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from tests.faults.elastic_rounds import ElasticRound
from tests.faults.rounds import Round
from tests.faults.run import ROOT, SAVE_EVERY, STEPS

ON_DISK = ("write", "fsync", "rename")


def write_figures(path: Path, rounds: list[Round], seed: int, soaked: dict[str, Any] | None) -> None:
    """Put them into a JSON file."""
    if rounds:
        put(path, "rounds", {str(seed): figures_of(rounds)})
    if soaked:
        put(path, "soak", {f"{soaked['ranks']} ranks": soaked})


def put(path: Path, part: str, figures: dict[str, Any]) -> None:
    """Put figures into a part of a JSON file, each with its commit, machine and versions; what else it holds stays."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"benchmark": "reliability"}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    how = {"commit": _commit(), "machine": _machine(), "versions": versions}
    known[part] = known.get(part, {}) | {name: how | value for name, value in figures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


def figures_of(rounds: list[Round]) -> dict[str, Any]:
    """Injected and survived by fault, where the faults struck, and what they cost."""
    by_fault = {}
    for fault in sorted({each.fault for each in rounds}):
        of_fault = [each for each in rounds if each.fault == fault]
        by_fault[fault] = {
            "injected": len(of_fault),
            "survived": sum(each.survived for each in of_fault),
            "steps_lost": _spread([each.facts["steps_lost"] for each in of_fault if "steps_lost" in each.facts]),
            "s_to_next_step": _spread(
                [each.facts["next_step_after_s"] for each in of_fault if "next_step_after_s" in each.facts]
            ),
        }
    phases = Counter(each.phase for each in rounds)
    return {
        "injected": len(rounds),
        "survived": sum(each.survived for each in rounds),
        "inside_write_fsync_rename": sum(phases[phase] for phase in ON_DISK),
        "phases": dict(phases.most_common()),
        "layouts": dict(Counter(each.layout for each in rounds).most_common()),
        "steps": STEPS,
        "save_every": SAVE_EVERY,
        "by_fault": by_fault,
        "lost": [{"fault": r.fault, "layout": r.layout, "wrong": r.wrong} for r in rounds if not r.survived],
    }


def write_elastic_figures(path: Path, rounds: list[ElasticRound], seed: int, soaked: dict[str, Any] | None) -> None:
    """Put those of elastic runs into a JSON file."""
    if rounds:
        put(path, "elastic", {str(seed): elastic_figures_of(rounds)})
    if soaked:
        put(path, "elastic_soak", {f"{soaked['ranks']} ranks": soaked})


def elastic_figures_of(rounds: list[ElasticRound]) -> dict[str, Any]:
    """Injected and survived by fault, and what they cost."""
    by_fault = {}
    for fault in sorted({each.fault for each in rounds}):
        of_fault = [each for each in rounds if each.fault == fault]
        by_fault[fault] = {
            "injected": len(of_fault),
            "survived": sum(each.survived for each in of_fault),
            "steps_lost": sum(each.steps_lost or 0 for each in of_fault),
            "s_to_next_step": _spread([each.next_step_s for each in of_fault if each.next_step_s is not None]),
            "s_paused_to_rejoin": _spread(
                [each.rejoin_pause_s for each in of_fault if each.rejoin_pause_s is not None]
            ),
        }
    return {
        "injected": len(rounds),
        "survived": sum(each.survived for each in rounds),
        "of_rank_0": sum(each.rank == 0 for each in rounds),
        "phases": dict(Counter(each.phase for each in rounds).most_common()),
        "ranks": dict(Counter(str(each.ranks) for each in rounds)),
        "by_fault": by_fault,
        "lost": [{"fault": each.fault, "ranks": each.ranks, "wrong": each.wrong} for each in rounds if each.wrong],
    }


def show_elastic(rounds: list[ElasticRound]) -> None:
    """A table of the faults of elastic runs."""
    figures = elastic_figures_of(rounds)
    print(
        "fault              injected  survived  steps lost  s to the next step: median  max  s to take in: median  max"
    )
    for fault, row in figures["by_fault"].items():
        next_step, rejoin = (row[name] or {"median": 0, "max": 0} for name in ("s_to_next_step", "s_paused_to_rejoin"))
        costs = f"{next_step['median']:27.1f}  {next_step['max']:4.1f}  {rejoin['median']:20.1f}  {rejoin['max']:4.1f}"
        print(f"{fault:17s}  {row['injected']:8d}  {row['survived']:8d}  {row['steps_lost']:10d}  {costs}")
    print(f"where they struck: {figures['phases']}; rank 0 {figures['of_rank_0']} times")


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": round(mean(values), 2), "median": median(values), "max": max(values), "of": len(values)}


def show(rounds: list[Round]) -> None:
    """A table of the faults and a histogram of where they struck."""
    figures = figures_of(rounds)
    print(f"{'fault':20s}  injected  survived  steps lost: mean  max  s to the next step: median  max")
    for fault, row in figures["by_fault"].items():
        lost, seconds = row["steps_lost"], row["s_to_next_step"]
        costs = f"{lost['mean']:16.1f}  {lost['max']:3d}" if lost else " " * 21
        waits = f"{seconds['median']:27.1f}  {seconds['max']:4.1f}" if seconds else ""
        print(f"{fault:20s}  {row['injected']:8d}  {row['survived']:8d}  {costs}  {waits}".rstrip())
    print("where they struck")
    for phase, count in figures["phases"].items():
        print(f"{phase:20s}  {count:8d}  {'#' * count}")
    print(f"inside a write, an fsync or a rename: {figures['inside_write_fsync_rename']} of {len(rounds)}")


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _machine() -> dict[str, Any]:
    cpu = platform.processor()
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {"cpu": cpu, "cores": os.cpu_count()}
