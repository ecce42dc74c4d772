"""Step time, memory and bytes sent of each engine on two ranks of this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.lib.checks import require_known, require_models
from benchmarks.lib.processes import child_environment, module_command
from benchmarks.lib.results import header, write_result
from data_pipelines.common.errors import RunError
from trainer.config import Precision

VARIANTS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp, bf16 gradients": {"gradient_compression": "bf16"},
    "ddp, ZeRO 1": {"zero_stage": 1},
    "horovod": {"engine": "horovod"},
    "horovod, fp16 gradients": {"engine": "horovod", "gradient_compression": "fp16"},
    "deepspeed": {"engine": "deepspeed"},
    "deepspeed, ZeRO 1": {"engine": "deepspeed", "zero_stage": 1},
    "deepspeed, ZeRO 2": {"engine": "deepspeed", "zero_stage": 2},
}
_RANKS = 2
_LIMIT_S = 900


@dataclass(frozen=True)
class EnginesBenchmark:
    """What is trained."""

    model: str = "r26x1"
    """Depth and width, as in the BiT paper."""
    image_size: int = 64
    """Height and width, pixels."""
    batch_size: int = 8
    """Images per rank."""
    steps: int = 20
    """Steps that are timed."""
    precision: Precision = "fp32"
    """Of the forward and backward pass."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the ranks train."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which engines, and with which settings."""
    out: Path = Path("engines.json")
    """JSON file to write; the table goes beside it as .md."""

    def __post_init__(self) -> None:
        require_models("--model", self.model)
        require_known("--variants", self.variants, list(VARIANTS))


def run_variant(name: str, settings: EnginesBenchmark) -> dict[str, Any]:
    """The row of one variant: means over ranks, the largest peak, and all bytes sent. Raises RunError with what a rank
    said if it failed."""
    runtime = {"device": settings.device, "threads": 1, "loader": "torch", **VARIANTS[name]}
    task = {key: getattr(settings, key) for key in ("model", "image_size", "batch_size", "steps", "precision")}
    isolated = os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip")
    up = "ip link set lo up && " if isolated else ""
    ranks = " & ".join(f'RANK={i} LOCAL_RANK={i} "$@"' for i in range(_RANKS))
    command = ["unshare", "--net"] if isolated else []
    command += ["sh", "-c", f"{up}{{ {ranks} & wait; }}", "sh", *module_command("benchmarks.lib.engines.rank")]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    job = {"WORLD_SIZE": _RANKS, "LOCAL_WORLD_SIZE": _RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    job |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": 1}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, json.dumps({**task, "runtime": runtime}), folder],
            env=child_environment() | {key: str(value) for key, value in job.items()},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
        results = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).iterdir()]
    if len(results) < _RANKS:
        raise RunError(f"{name}: {done.stderr[-2000:]}")
    mean = {key: sum(result[key] for result in results) / _RANKS for key in results[0]}
    return {
        "variant": name,
        **mean,
        "peak_mb": max(result["peak_mb"] for result in results),
        "isolated": bool(isolated),
    }


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown."""
    settings = result["settings"]
    lines = [
        f"{_RANKS} ranks on {result['machine']['cpu']}, {settings['model']} "
        f"({result['rows'][0]['weights_mb']:.0f} MB of weights), {settings['batch_size']} images "
        f"of {settings['image_size']} pixels per rank, {settings['precision']}, commit {result['commit']}.",
        "",
        "| engine | step, ms | update, ms | clipping alone, ms | peak memory of a rank, MB | sent by both, MB a step |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['variant']} | {row['step_ms']:.0f} | {row['update_ms']:.0f} | {row['clipping_ms']:.1f} | "
        f"{row['peak_mb']:.0f} | {row['sent_mb']:.1f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines) + "\n"


def run(settings: EnginesBenchmark) -> None:
    """Measure every variant, one after the other, and write JSON and Markdown."""
    rows = []
    for name in settings.variants:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows.append(run_variant(name, settings))
        print(f"{name}: {rows[-1]['step_ms']:.0f} ms a step", file=sys.stderr, flush=True)
    arguments = {key: value for key, value in asdict(settings).items() if key != "out"}
    result = header("engines") | {"settings": arguments, "rows": rows}
    write_result(settings.out, result, table(result))
