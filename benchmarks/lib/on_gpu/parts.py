"""The parts of `on_gpu.py`: programs, time limits, and small settings for a rehearsal on a CPU."""

from dataclasses import dataclass, field
from typing import Literal

Run = Literal["first", "second", "later"]


@dataclass(frozen=True)
class Part:
    """A program by its module and its arguments but for --device and --out; `rehearsal`: those for a CPU, and
    `environment`: what they need there. `needs`: a module without which there is nothing to measure."""

    run: Run
    limit_s: float
    module: str
    arguments: tuple[str, ...]
    rehearsal: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    needs: str | None = None


# Compiling for a CPU takes minutes and says nothing of a GPU: the rehearsal goes without.
_UNCOMPILED = {"TORCHDYNAMO_DISABLE": "1"}
_TINY = ("--batch-size", "2", "--image-size", "32", "--rounds", "1", "--steps", "1", "--threads", "1")


def _throughput(
    run: Run, limit_s: float, model: str, batch_size: int, contenders: tuple[str, ...], rehearsed: tuple[str, ...]
) -> Part:
    ends = str(0.7 * limit_s)  # so that what was measured by then is told
    return Part(
        run,
        limit_s,
        "benchmarks.throughput",
        (
            *("--model", model, "--batch-size", str(batch_size), "--rounds", "3", "--steps", "5", "--limit-s", ends),
            *("--contenders", *contenders),
        ),
        ("--model", "r50x1", *_TINY, "--limit-s", ends, "--contenders", *rehearsed),
        _UNCOMPILED,
    )


# The most telling first. The limits of `first` and of `second` add up to less than six minutes each.
PARTS: dict[str, Part] = {
    "group_norm": Part(
        "first",
        110,
        "benchmarks.group_norm",
        ("--models", "r50x1:256", "--rounds", "3", "--compile-s", "20"),
        ("--models", "r14x0.5:1", "--image-size", "32", "--rounds", "1", "--compile-s", "0"),
    ),
    "steps": Part(
        "first",
        70,
        "benchmarks.steps",
        ("--model", "r50x1", "--batch-size", "64", "--steps", "20", "--precisions", "bf16", "fp16", "fp32"),
        (
            *("--model", "r14x0.5", "--batch-size", "2", "--image-size", "32", "--steps", "3", "--threads", "1"),
            *("--precisions", "bf16", "fp32"),
        ),
    ),
    "throughput_r50x1": _throughput(
        "first", 150, "r50x1", 256, ("timm_nhwc", "convolutions_only"), ("timm_nhwc", "convolutions_only")
    ),
    "tile_sweep": Part(
        "second",
        80,
        "benchmarks.tile_sweep",
        ("--model", "r50x1:256", "--limit-s", "60"),
        ("--model", "r14x0.5:1", "--image-size", "32", "--most-layers", "1"),
        {"TRITON_INTERPRET": "1"},
        needs="triton",
    ),
    "throughput_r152x4": _throughput("second", 100, "r152x4", 128, ("ours",), ("ours",)),
    "optimizer_r152x4": Part(
        "second",
        40,
        "benchmarks.optimizer",
        ("--model", "r152x4", "--rounds", "5"),
        ("--model", "r14x0.5", "--rounds", "1", "--threads", "1"),
    ),
    "graphs_r50x1": _throughput(
        "second",
        100,
        "r50x1",
        64,
        ("ours_graphs", "batch_norm_twin_compiled"),
        ("ours_compiled", "batch_norm_twin_compiled"),
    ),
    "compiled_r50x1": _throughput(
        "later",
        300,
        "r50x1",
        256,
        ("ours_compiled", "batch_norm_twin_compiled", "timm_nhwc_compiled", "timm_nchw_compiled"),
        ("ours_compiled", "timm_nhwc_compiled"),
    ),
    "eager_r152x4": _throughput("later", 200, "r152x4", 32, ("timm_nhwc",), ("timm_nhwc",)),
    "group_norm_r152x4": Part(
        "later",
        200,
        "benchmarks.group_norm",
        ("--models", "r152x4:16", "--rounds", "3", "--compile-s", "60"),
        ("--models", "r14x0.5:2", "--image-size", "32", "--rounds", "1", "--compile-s", "0"),
    ),
    "cudnn_benchmark": _throughput("later", 150, "r50x1", 256, ("ours_cudnn_benchmark",), ("ours",)),
    "loading": Part(
        "later",
        300,
        "benchmarks.loading",
        ("--parts", "gpu", "--batch-size", "256"),
        (
            *("--parts", "gpu", "contenders", "--contenders", "ours_torch", "ours_dali", "--rounds", "1"),
            *("--num-images", "16", "--generate", "4", "--batch-size", "4", "--threads", "1"),
        ),
        needs="nvidia.dali",
    ),
}
