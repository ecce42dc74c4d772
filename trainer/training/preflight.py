"""Checks before a run on several ranks, in seconds, for what would otherwise fail hours later."""

import hashlib
import json
import os
import platform
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import number
from data_pipelines.common.messages import logger
from trainer import checkpoint
from trainer.engine import Engine
from trainer.engines.consistency import disagreements, shared_gpus, wrong_clocks
from trainer.run_files import CHECKPOINTS
from trainer.training.job import Job
from trainer.training.model import checkpoint_bytes

SAME = (
    "engine",
    "commit",
    "config",
    "data",
    "python",
    "torch",
    "bitscale",
    "world_size",
    "zero_stage",
    "micro_batches",
)
EXPECTED_GBPS = "BITSCALE_ALLREDUCE_GBPS"  # set by a site's profile
_PROBE_BYTES = 16 << 20
_PROBES = 3
_FAR_UNDER = 0.5


def preflight(engine: Engine, job: Job, settings: dict[str, Any], environment: dict[str, Any]) -> None:
    """Compare all ranks, measure an all-reduce, and check the disk; rank 0 prints a line. Collective.

    `settings` determine the result of the run, `environment` is this rank's. Raises InputError on every rank, with the
    whole message on rank 0.
    """
    started = time.monotonic()
    by_rank = engine.gather(_facts(engine, job, settings, environment))
    problems = disagreements(by_rank, SAME) + shared_gpus(by_rank) + _wrong_layout(by_rank)
    warnings = wrong_clocks(by_rank)
    gbps = _all_reduce_gbps(engine)
    warnings += _slow(gbps) if engine.world_size > 1 else []
    free = min(facts["free_bytes"] for facts in by_rank)
    refused, tight = _room(job, free, *by_rank[0]["checkpoints"])
    problems, warnings = problems + refused, warnings + tight
    if problems:
        whole = "pre-flight found what must not be:\n  " + "\n  ".join(problems)
        raise InputError(whole if engine.rank == 0 else "pre-flight failed, see the message of rank 0")
    if engine.rank == 0:
        for warning in warnings:
            logger.warning(warning)
        hosts = len({facts["host"] for facts in by_rank})
        print(
            f"pre-flight: {number(engine.world_size, 'rank')} on {number(hosts, 'host')}, {by_rank[0]['engine']}, "
            f"{engine.transport}, all-reduce {gbps:.2f} GB/s, {free / 1e9:.0f} GB free, "
            f"{time.monotonic() - started:.1f} s",
            flush=True,
        )


def decisive_facts(job: Job, settings: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """What must be the same on every rank, whatever their number."""
    decisive = {name: value for name, value in settings.items() if name != "runtime"}
    return {
        **environment["packages"],
        "engine": job.config.runtime.engine,
        "commit": environment["commit"],
        "config": hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12],
        "data": job.train.fingerprint,
        "python": environment["python"],
        "zero_stage": job.config.runtime.zero_stage,
    }


def _facts(engine: Engine, job: Job, settings: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    facts = {
        **decisive_facts(job, settings, environment),
        "host": os.environ.get("SLURMD_NODENAME", platform.node()),
        "world_size": engine.world_size,
        "micro_batches": job.num_micro_batches(engine),  # in each of which some engines exchange gradients
        "local_world_size": engine.local_world_size,
        "clock_s": time.time(),
        "free_bytes": _free_bytes(job.run_dir),
        "checkpoints": (len(checkpoint.numbered(job.run_dir)), checkpoint.best_path(job.run_dir).is_file()),
    }
    if engine.device.type == "cuda":
        facts["gpu"] = str(getattr(torch.cuda.get_device_properties(engine.device), "uuid", engine.device))
    return facts


def _free_bytes(run_dir: Path) -> int:
    """Free space for checkpoints, including leftovers of a killed start, which the next save deletes."""
    folder = run_dir.absolute()
    free = shutil.disk_usage(next(part for part in (folder, *folder.parents) if part.exists())).free
    for path in checkpoint.unfinished(run_dir / CHECKPOINTS):
        with suppress(FileNotFoundError):  # ranks whose launcher died may still be saving
            free += path.stat().st_size
    return free


def _room(job: Job, free: int, numbered: int, has_best: bool) -> tuple[list[str], list[str]]:
    """Errors if not even the next save fits beside the existing checkpoints, and warnings if not all that the run keeps
    will fit."""
    each, keep = checkpoint_bytes(job.config, job.train.num_classes), job.config.runtime.keep_checkpoints
    least = 1 if numbered else 2  # the old one stays until the new one is whole
    most = max(keep - numbered, 0) + (not has_best) + 1
    count = next((count for count in (least, most) if free < count * each), None)
    if count is None:
        return [], []
    needed = f"{count * each / 1e9:.2f} GB for {count} more checkpoint{'s' if count > 1 else ''}"
    message = f"{job.run_dir} has {free / 1e9:.2f} GB free, and needs {needed}"
    if count > least:
        return [], [message]
    aside = checkpoint.damaged(job.run_dir)
    return [message + (f"; the damaged ones may be deleted: {', '.join(map(str, aside))}" if aside else "")], []


def _wrong_layout(by_rank: list[dict[str, Any]]) -> list[str]:
    """Hosts with more ranks than the launcher reports per node: two launchers at work on one node."""
    counts = Counter(facts["host"] for facts in by_rank)
    most = max(facts["local_world_size"] for facts in by_rank)
    return [f"{host} has {count} ranks, its launcher started {most}" for host, count in counts.items() if count > most]


def _all_reduce_gbps(engine: Engine) -> float:
    """Bus bandwidth of an all-reduce in gigabytes per second, sent and received by each rank; best of three."""
    probe = torch.zeros(_PROBE_BYTES // 4, device=engine.device)
    seconds = []
    for _ in range(1 + _PROBES):
        started = time.monotonic()
        engine.sum(probe)[0].item()
        seconds.append(time.monotonic() - started)
    # Ranks that agree on the slowest of them.
    slowest: float = max(engine.gather(min(seconds[1:])))
    return 2 * (engine.world_size - 1) / engine.world_size * _PROBE_BYTES / slowest / 1e9


def _slow(gbps: float) -> list[str]:
    expected = os.environ.get(EXPECTED_GBPS)
    if not expected or gbps >= _FAR_UNDER * float(expected):
        return []
    return [
        f"all-reduce reaches {gbps:.2f} GB/s, this site's profile expects {float(expected):.2f}; look whether the "
        "right network interface is used (NCCL_SOCKET_IFNAME, NCCL_DEBUG=INFO)"
    ]
