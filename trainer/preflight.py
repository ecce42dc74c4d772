"""Checks before a run on several ranks: seconds now instead of hours later."""

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from data_pipelines.errors import InputError
from trainer.config import Config
from trainer.engines.agreement import disagreements, shared_gpus, wrong_clocks
from trainer.engines.base import Engine
from trainer.job import Job
from trainer.models.bit import build_model

SAME = ("engine", "commit", "config", "data", "python", "torch", "bitscale", "world_size")
EXPECTED_GBPS = "BITSCALE_ALLREDUCE_GBPS"  # set by a site's profile
_PROBE_BYTES = 16 << 20
_PROBES = 3
_FAR_UNDER = 0.5


def preflight(engine: Engine, job: Job, settings: dict[str, Any], environment: dict[str, Any]) -> None:
    """Compare all ranks, measure an all-reduce, and look at the disk; rank 0 prints a line. Collective.

    `settings` decide the result of the run, `environment` is this rank's. Raises InputError on every rank, with the
    whole message on rank 0.
    """
    started = time.monotonic()
    run_dir, keep = job.run_dir, job.config.runtime.keep_checkpoints
    by_rank = engine.gather(_facts(engine, job, settings, environment))
    problems = disagreements(by_rank, SAME) + shared_gpus(by_rank) + _wrong_layout(by_rank)
    warnings = wrong_clocks(by_rank)
    gbps = _all_reduce_gbps(engine)
    warnings += _slow(gbps) if engine.world_size > 1 else []
    free = min(facts["free_bytes"] for facts in by_rank)
    needed = checkpoint_bytes(job.config, job.train.num_classes)
    if free < 2 * needed:  # the old one stays until the new one is whole
        problems.append(f"{run_dir} has {free / 1e9:.1f} GB free, two checkpoints take {2 * needed / 1e9:.1f} GB")
    elif free < (keep + 2) * needed:
        warnings.append(
            f"{run_dir} has {free / 1e9:.1f} GB free, {keep + 2} checkpoints take {(keep + 2) * needed / 1e9:.1f} GB"
        )
    if problems:
        whole = "pre-flight found what must not be:\n  " + "\n  ".join(problems)
        raise InputError(whole if engine.rank == 0 else "pre-flight failed, see the message of rank 0")
    if engine.rank == 0:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        hosts = len({facts["host"] for facts in by_rank})
        print(
            f"pre-flight: {engine.world_size} ranks on {hosts} host(s), {by_rank[0]['engine']}, {engine.transport}, "
            f"all-reduce {gbps:.2f} GB/s, {free / 1e9:.0f} GB free, {time.monotonic() - started:.1f} s",
            flush=True,
        )


def checkpoint_bytes(config: Config, num_classes: int) -> int:
    """What a checkpoint takes: fp32 weights and momentum."""
    with torch.device("meta"):
        model = build_model(config.model.name, num_classes)
    return 2 * 4 * sum(p.numel() for p in model.parameters())


def _facts(engine: Engine, job: Job, settings: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    decisive = {name: value for name, value in settings.items() if name != "runtime"}
    facts = {
        **environment["packages"],
        "host": os.environ.get("SLURMD_NODENAME", platform.node()),
        "engine": job.config.runtime.engine,
        "commit": environment["commit"],
        "config": hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12],
        "data": job.train.fingerprint,
        "python": environment["python"],
        "world_size": engine.world_size,
        "local_world_size": engine.local_world_size,
        "clock_s": time.time(),
        "free_bytes": _free_bytes(job.run_dir),
    }
    if engine.device.type == "cuda":
        facts["gpu"] = str(getattr(torch.cuda.get_device_properties(engine.device), "uuid", engine.device))
    return facts


def _free_bytes(folder: Path) -> int:
    folder = folder.absolute()
    return shutil.disk_usage(next(part for part in (folder, *folder.parents) if part.exists())).free


def _wrong_layout(by_rank: list[dict[str, Any]]) -> list[str]:
    """Hosts with more ranks than the launcher says a node has: two launchers at work on one node."""
    counts = Counter(facts["host"] for facts in by_rank)
    most = max(facts["local_world_size"] for facts in by_rank)
    return [f"{host} has {count} ranks, its launcher started {most}" for host, count in counts.items() if count > most]


def _all_reduce_gbps(engine: Engine) -> float:
    """Bus bandwidth of an all-reduce, gigabytes per second: what each rank sends and receives, best of three."""
    probe = torch.zeros(_PROBE_BYTES // 4, device=engine.device)
    seconds = []
    for _ in range(1 + _PROBES):
        started = time.monotonic()
        engine.sum(probe)[0].item()
        seconds.append(time.monotonic() - started)
    # Ranks that agree on the slowest of them.
    slowest = max(engine.gather(min(seconds[1:])))
    return 2 * (engine.world_size - 1) / engine.world_size * _PROBE_BYTES / slowest / 1e9


def _slow(gbps: float) -> list[str]:
    expected = os.environ.get(EXPECTED_GBPS)
    if not expected or gbps >= _FAR_UNDER * float(expected):
        return []
    return [
        f"all-reduce reaches {gbps:.2f} GB/s, this site's profile expects {float(expected):.2f}; look whether the "
        "right network interface is used (NCCL_SOCKET_IFNAME, NCCL_DEBUG=INFO)"
    ]
