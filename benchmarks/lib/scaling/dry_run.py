"""One rank of a large job, without the others: does anything grow with the world size that should not?

Started with a rank and a world size, this is such a rank: the real loop over PyTorch's fake process group.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.lib.processes import child_environment, module_command, resident_mb
from data_pipelines.common.errors import InputError, RunError

if TYPE_CHECKING:
    from trainer.config import Config

_COMPARED = (1, 64)
_IMAGES_PER_RANK = 2
_STEPS = 4
_MOST_MB, _MOST_S = 16.0, 1.0  # that the largest world may take beyond one of 64
_HOW = (
    "Each row is one process that trains r14x0.5 for a few steps on two embedded images per step as one of "
    "`world_size` ranks over a fake process group. `start_seconds`: from the imports to the samples of the first step; "
    "`peak_mb`: the most resident memory above that after the imports. The samples of a step, the share of an "
    "evaluation and who writes checkpoints are compared with what all ranks together must give."
)


def measure_dry_worlds(world_size: int) -> dict[str, Any]:
    """The first and the last rank of worlds of 1, 64 and `world_size`. Raises InputError for less than two ranks,
    RunError if a rank fails."""
    if world_size < 2:
        raise InputError(f"--dry-world is {world_size}; it must be at least 2")
    worlds = sorted({*(world for world in _COMPARED if world < world_size), world_size})
    rows = []
    for world in worlds:
        with tempfile.TemporaryDirectory(prefix="bitscale-dry-") as folder:
            # Rank 0 first: at its end the last rank reads the checkpoint that rank 0 has written.
            rows += [run_rank(rank, world, folder) for rank in sorted({0, world - 1})]
    # A world of one has no buckets for gradients; what grows is seen between worlds that have.
    more = {
        name: max(row[name] for row in rows if row["world_size"] == worlds[-1])
        - max(row[name] for row in rows if row["world_size"] == worlds[1 if len(worlds) > 2 else -1])
        for name in ("peak_mb", "start_seconds")
    }
    return {
        "benchmark": "dry world",
        "how": _HOW,
        "ranks": rows,
        "more": more,
        "targets": {"peak_mb": _MOST_MB, "start_seconds": _MOST_S},
        "met": more["peak_mb"] <= _MOST_MB and more["start_seconds"] <= _MOST_S,
    }


def run_rank(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    """What one rank found, in a process of its own. Raises RunError where it fails."""
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    environment = child_environment() | {name: str(value) for name, value in place.items()}
    command = [*module_command("benchmarks.lib.scaling.dry_run"), folder]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    if done.returncode:
        raise RunError(f"rank {rank} of {world_size} failed: {done.stderr.strip()[-1000:]}")
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def be_one_rank(folder: Path) -> dict[str, Any]:
    """Train a few steps in a run folder as the rank that the environment names; what was seen."""
    from data_pipelines.loading.sampler import evaluation_order
    from trainer.engines.fake import FakeEngine
    from trainer.recipes import RECIPES
    from trainer.training.fit import train_and_predict
    from trainer.training.job import make_job

    before_mb = resident_mb().get("peak_mb", 0.0)
    started = time.perf_counter()
    recipe = _few_steps_of(RECIPES["embedded"]())
    engine = FakeEngine(recipe.runtime, "fp32")
    config = replace(recipe, global_batch_size=_IMAGES_PER_RANK * engine.world_size)
    job = replace(make_job(config, folder), test=None)
    share = job.order.request(0, engine.rank, engine.world_size).samples
    start_seconds = time.perf_counter() - started
    written = _checkpoints(folder)
    train_and_predict(job, engine)
    engine.close()
    peak_mb = resident_mb().get("peak_mb", 0.0) - before_mb
    # What all ranks together must give, looked at when nothing is measured any more.
    first = engine.rank * _IMAGES_PER_RANK
    images = len(job.val) if job.val is not None else 0
    shares = [
        sum(len(request.samples) for request in evaluation_order(images, rank, engine.world_size, _IMAGES_PER_RANK))
        for rank in range(engine.world_size)
    ]
    return {
        "world_size": engine.world_size,
        "rank": engine.rank,
        "start_seconds": start_seconds,
        "peak_mb": peak_mb,
        "samples_right": share.tolist() == job.order.request(0).samples[first : first + _IMAGES_PER_RANK].tolist(),
        "evaluation_share": shares[engine.rank],
        "evaluation_complete": sum(shares) == images,
        "wrote_checkpoints": _checkpoints(folder) != written,
    }


def _few_steps_of(recipe: "Config") -> "Config":
    """A run on a CPU that evaluates and saves at its end alone."""
    runtime = replace(
        recipe.runtime,
        device="cpu",
        threads=1,
        loader="torch",
        eval_batch_size=_IMAGES_PER_RANK,
        log_every=1,
        save_every=_STEPS,
    )
    return replace(
        recipe,
        eval_every=None,
        optim=replace(recipe.optim, base_lr=1e-3, rescale_lr=False),
        schedule=replace(recipe.schedule, steps=_STEPS, warmup_steps=1),
        runtime=runtime,
    )


def _checkpoints(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


if __name__ == "__main__":
    print(json.dumps(be_one_rank(Path(sys.argv[1]))))
