"""Tile sizes for GroupNorm's Triton kernels: the shipped ones against larger and smaller tiles and other warp
counts."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.lib.device import measured_device, times_ms
from benchmarks.lib.kernels.group_norm import ColdCacheTimer, Shape, copied_bytes_per_ms, layers, tensors
from benchmarks.lib.results import header, write_result
from data_pipelines.common.errors import InputError, RunError
from trainer.kernels import group_norm_relu as kernel
from trainer.kernels import tiling
from trainer.kernels.tiling import Direction, Tile
from trainer.models.bit import MODELS, NUM_GROUPS

SHIPPED = "shipped"
ELEMENTS, WARPS = (2048, 4096, 8192, 16384, 32768), (4, 8, 16)
PASSES: dict[Direction, int] = {"forward": 2, "backward": 3}
_ELEMENTS_PER_THREAD = (8, 64)  # fewer leave threads idle, more do not fit into registers
_TOLERANCE = 0.01  # of the result's norm, against the shipped tile: both round to bf16
_CALLS_MS = 20
_HOW = (
    "bf16, channels-last. A time is the median of triton.testing.do_bench, which overwrites the cache before each "
    "call; TB/s: x read and y written, or x and dy read and dx written, in that time. Layers in the order of their "
    "share of the model's bytes; a tile whose result differs from the shipped one's by over 1% of the norm ends it."
)


@dataclass(frozen=True)
class TileSweep:
    """What to time."""

    model: str = "r50x1:256"
    """Model and batch size."""
    image_size: int = 224
    """Height and width of the images, pixels."""
    limit_s: float = 70
    """Seconds after which no further layer begins."""
    most_layers: int | None = None
    """Distinct layers at most; None: all."""
    out: Path = Path("tile_sweep.json")
    """JSON file to write; the table goes beside it as .md."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        name, _, batch = self.model.partition(":")
        if name not in MODELS or not batch.isdecimal() or int(batch) < 1:
            raise InputError(f"--model {self.model}: give MODEL:BATCH, the model one of {', '.join(MODELS)}")


def tiles(shape: Shape) -> dict[str, Tile]:
    """Tiles that a layer's samples could have, by a name that says elements and warps."""
    _, channels, height, width = shape
    block_s = tiling.power_of_2(height * width)
    pattern = tiling.tile("forward", 1, NUM_GROUPS, 1, 2)
    assert pattern is not None
    found = {}
    for elements in ELEMENTS:
        block = tiling.channel_block(NUM_GROUPS, channels // NUM_GROUPS, max(1, elements // block_s))
        if block is None:
            continue
        for warps in WARPS:
            each = block_s * block.block_c / (32 * warps)
            if _ELEMENTS_PER_THREAD[0] <= each <= _ELEMENTS_PER_THREAD[1]:
                name = f"{block_s}x{block.block_c}, {warps} warps"
                found[name] = pattern._replace(channels=block, block_s=block_s, num_warps=warps)
    return found


def steps(shape: Shape, device: torch.device) -> dict[Direction, Callable[[], Tensor]]:
    """A forward and a backward pass of a layer; the backward's gradient of x is what it returns."""
    x, weight, bias, dy = tensors(shape, torch.bfloat16, device)
    y = kernel.group_norm_relu(x, NUM_GROUPS, weight, bias)
    bare_x, bare_weight, bare_bias = (t.detach() for t in (x, weight, bias))
    return {
        "forward": lambda: kernel.group_norm_relu(bare_x, NUM_GROUPS, bare_weight, bare_bias),
        "backward": lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0],
    }


def time_layer(shape: Shape, device: torch.device) -> Iterator[tuple[Direction, str, float | str]]:
    """ms of each tile in each direction, or why it did not run. Raises RunError where a tile's result is wrong."""
    for direction, step in steps(shape, device).items():
        expected = step()
        yield direction, SHIPPED, _ms(step, device)
        for name, tile in tiles(shape).items():
            with patch.object(kernel, "tile", lambda *_, tile=tile: tile):
                try:
                    result = step()
                except Exception as error:  # out of registers or shared memory: Triton has no common class for them
                    yield direction, name, (str(error).strip() or type(error).__name__).splitlines()[0][:100]
                    continue
                difference = ((result.float() - expected.float()).norm() / expected.float().norm()).item()
                if not difference <= _TOLERANCE:
                    raise RunError(
                        f"{direction} of {shape} with {name} differs by {difference:g} from the shipped tile's"
                    )
                yield direction, name, _ms(step, device)


def _ms(step: Callable[[], Tensor], device: torch.device) -> float:
    return median(times_ms(step, device, cpu_calls=1, gpu_ms=_CALLS_MS))


def measure(settings: TileSweep, device: torch.device) -> dict[str, Any]:
    """Everything, as plain JSON types. Raises RunError where the Triton kernels do not run."""
    if device.type == "cpu" and not kernel.INTERPRETED:
        raise InputError("on a CPU the Triton kernels run in the interpreter alone; set TRITON_INTERPRET=1")
    if not kernel.kernel_works(device):
        raise RunError("the kernel does not run here (see the warning above), so there is nothing to time")
    on_gpu, started = device.type == "cuda", time.perf_counter()
    name, _, batch = settings.model.partition(":")
    counts = layers(name, int(batch), settings.image_size)
    order = sorted(counts, key=lambda shape: -counts[shape] * torch.Size(shape).numel())[: settings.most_layers]
    rows: list[dict[str, Any]] = []
    for shape in order:
        if rows and time.perf_counter() - started > settings.limit_s:
            break
        times: dict[str, dict[str, float | str]] = {direction: {} for direction in PASSES}
        for direction, tile, found in time_layer(shape, device):
            times[direction][tile] = found
        rows.append({"shape": shape, "layers": counts[shape], "ms": times})
        print(f"{shape}: {_row_text(times)}", file=sys.stderr, flush=True)
    copied = copied_bytes_per_ms(device, ColdCacheTimer(device), 2**30 if on_gpu else 2**20)
    return header("tile_sweep", device) | {
        "arguments": {"model": settings.model, "image_size": settings.image_size},
        "how": _HOW,
        "copy_gb_per_s": copied / 1e6,
        "layers": rows,
        "left_out": [shape for shape in order if shape not in [row["shape"] for row in rows]],
    }


def _timed(of_tiles: dict[str, float | str]) -> dict[str, float]:
    return {name: ms for name, ms in of_tiles.items() if isinstance(ms, float)}


def _row_text(times: dict[str, dict[str, float | str]]) -> str:
    best = {direction: min(_timed(ms), key=_timed(ms).__getitem__) for direction, ms in times.items()}
    return ", ".join(f"{direction} best {name}" for direction, name in best.items())


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine = result["machine"]["gpu"] or result["machine"]["cpu"] + ", interpreted"
    lines = [
        f"GroupNorm + ReLU of {result['arguments']['model']}, {machine}, bf16; "
        f"copying moves {result['copy_gb_per_s']:.0f} GB/s.",
        "",
        "| layer | times | direction | shipped, ms (TB/s) | best, ms (TB/s) | best tile |",
        "|---|---|---|---|---|---|",
    ]
    gained = {direction: [0.0, 0.0] for direction in PASSES}
    for row in result["layers"]:
        size = 2 * torch.Size(row["shape"]).numel()
        for direction, passes in PASSES.items():
            timed = _timed(row["ms"][direction])
            best = min(timed, key=timed.__getitem__)
            cells = [f"{timed[name]:.3f} ({passes * size / timed[name] / 1e9:.2f})" for name in (SHIPPED, best)]
            shape = "x".join(map(str, row["shape"][1:]))
            lines.append(f"| {shape} | {row['layers']} | {direction} | {' | '.join(cells)} | {best} |")
            for place, name in enumerate((SHIPPED, best)):
                gained[direction][place] += row["layers"] * timed[name]
    sums = ", ".join(f"{direction} {ours:.2f} -> {best:.2f} ms" for direction, (ours, best) in gained.items())
    lines += ["", f"Of all these layers, shipped -> best: {sums}."]
    if result["left_out"]:
        lines.append(f"{len(result['left_out'])} layers were left out for lack of time.")
    return "\n".join(lines) + "\n"


def run(settings: TileSweep) -> None:
    """Measure, write JSON and Markdown, and print the table."""
    result = measure(settings, measured_device(settings.device))
    write_result(settings.out, result, table(result))
