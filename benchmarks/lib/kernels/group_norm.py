"""GroupNorm + ReLU, ours against torch's: checked against float64, then timed layer by layer."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.lib.device import exact_fp32, measured_device
from benchmarks.lib.results import header, spread_of, spread_text, write_result
from data_pipelines.common.errors import InputError, RunError
from trainer.kernels import group_norm_cpu
from trainer.kernels.group_norm_relu import group_norm_relu, kernel_works
from trainer.models.bit import MODELS, NUM_GROUPS, GroupNormReLU, build_model

_TORCH = f"torch {torch.__version__.partition('+')[0]}"
OURS, NCHW, NHWC, COMPILED = "ours", f"{_TORCH} NCHW", f"{_TORCH} NHWC", f"{_TORCH} NHWC compiled"
CHECKED = [(3, 64, 56, 56), (2, 256, 28, 28), (2, 96, 15, 31), (4, 2048, 7, 7), (3, 1024, 1, 1), (1, 32, 112, 112)]
LARGE = [(2_700, 64, 112, 112), (21_500, 2048, 7, 7)]  # more than 2**31 elements
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
ITERATIONS = 5
_MODES = ("forward", "both")
_LARGE_BYTES = 30 * 2**30
_OVERWRITTEN_BYTES = 2 * 2**30
_HOW = (
    "Activations bf16, weights fp32 (torch's pair: bf16). Each contender in turn, once a round, over each distinct "
    "layer; a time is the mean of 5 passes between events, with 2 GiB overwritten before each: the L2 cache is cold, "
    "the host ahead. both: forward and backward. Per model: the layers' medians, times how often each occurs. The "
    "bound: x read and y written, then x and dy read and dx written, at the speed at which the same GPU copies."
)
Shape = tuple[int, int, int, int]
Step = Callable[[], Any]


@dataclass(frozen=True)
class GroupNormBenchmark:
    """What to measure."""

    out: Path = Path("group_norm.json")
    """JSON file to write; the table goes beside it as .md."""
    rounds: int = 5
    """Times that each contender has its turn."""
    models: tuple[str, ...] = ("r50x1:256", "r152x4:16")
    """Models and batch sizes whose layers are timed."""
    image_size: int = 224
    """Height and width of the images, pixels."""
    compile_s: float = 60
    """Seconds for torch.compile; layers that come later go without that contender."""
    device: str = "cuda"
    """cuda, or cpu, where nothing keeps the cache cold and no time says anything of a GPU's."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"--rounds is {self.rounds}; it must be at least 1")
        for each in self.models:
            name, _, batch = each.partition(":")
            if name not in MODELS or not batch.isdecimal() or int(batch) < 1:
                raise InputError(f"--models {each}: give MODEL:BATCH, the model one of {', '.join(MODELS)}")


def layers(name: str, batch: int, image_size: int) -> Counter[Shape]:
    """Shapes [N, C, H, W] that the model's norms see, and how many see each; nothing is computed."""
    shapes: Counter[Shape] = Counter()

    def note(_: torch.nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        n, c, h, w = inputs[0].shape
        shapes[n, c, h, w] += 1

    with torch.device("meta"):
        model = build_model(name, 1000)
        for module in model.modules():
            if isinstance(module, GroupNormReLU):
                module.register_forward_hook(note)
        model(torch.empty(batch, 3, image_size, image_size))
    return shapes


def tensors(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight and bias that want gradients, and dy; activations channels-last."""
    generator = torch.Generator(device).manual_seed(0)
    n, c, h, w = shape

    def activation() -> Tensor:
        return torch.randn(n, h, w, c, generator=generator, device=device).to(dtype).permute(0, 3, 1, 2)

    weight = 1 + 0.3 * torch.randn(c, generator=generator, device=device)
    bias = 0.3 * torch.randn(c, generator=generator, device=device)
    return activation().requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), activation()


def torch_pair(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What the kernel stands in for."""
    return F.relu(F.group_norm(x, NUM_GROUPS, weight, bias))


def keeps_channels_last(device: torch.device) -> bool:
    """Whether torch's own pair hands on, and back, the layout that it is given: else other layers pay for it."""
    x, weight, bias, dy = tensors((2, 64, 8, 8), torch.bfloat16, device)
    y = torch_pair(x, weight.to(x.dtype), bias.to(x.dtype))
    (dx,) = torch.autograd.grad(y, x, dy)
    return all(each.is_contiguous(memory_format=torch.channels_last) for each in (y, dx))


@exact_fp32()
def check(device: torch.device, shapes: list[Shape], large: list[Shape]) -> list[dict[str, Any]]:
    """Errors against float64 rounded to the type, as a share of its norm. Raises RunError if one is too large."""
    results = []
    for shape in shapes:
        for dtype, tolerance in TOLERANCES.items():
            if device.type == "cpu" and dtype not in group_norm_cpu.DTYPES:
                continue  # that is torch's own pair
            x, weight, bias, dy = tensors(shape, dtype, device)
            wide = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
            expected = torch_pair(*wide)
            y = group_norm_relu(x, NUM_GROUPS, weight, bias)
            pairs = [(y.detach(), expected.detach())]
            grads = torch.autograd.grad(y, (x, weight, bias), dy)
            pairs += zip(grads, torch.autograd.grad(expected, wide, dy.double()), strict=True)
            errors = [((a.double() - b.to(a.dtype).double()).norm() / b.norm()).item() for a, b in pairs]
            named = dict(zip(("y", "dx", "dweight", "dbias"), errors, strict=True))
            results.append({"shape": shape, "dtype": str(dtype).removeprefix("torch."), "errors": named})
            if not max(errors) <= tolerance:  # so that NaN fails too
                raise RunError(f"the kernel is wrong by more than {tolerance:g}: {results[-1]}")
    results += [_check_large(shape, device) for shape in large]
    return results


def _check_large(shape: Shape, device: torch.device) -> dict[str, Any]:
    # The last sample must be what it is alone, bit for bit: offsets that overflow would read and write elsewhere.
    x, weight, bias, _ = tensors((1, *shape[1:]), torch.bfloat16, device)
    alone = group_norm_relu(x, NUM_GROUPS, weight, bias)
    (dx_alone,) = torch.autograd.grad(alone, x, x.detach())
    batch = torch.empty(shape, dtype=torch.bfloat16, device=device, memory_format=torch.channels_last).zero_()
    batch[-1] = x.detach()[0]
    batch.requires_grad_()
    y = group_norm_relu(batch, NUM_GROUPS, weight, bias)
    (dx,) = torch.autograd.grad(y, batch, batch.detach())
    if not (torch.equal(y[-1], alone[0]) and torch.equal(dx[-1], dx_alone[0])):
        raise RunError(f"the kernel is wrong for large tensors: {shape}")
    return {"shape": shape, "dtype": "bfloat16", "last_sample_as_alone": True}


class ColdCacheTimer:
    """Times a step on a device. Before each pass so much is overwritten that the L2 cache forgets the tensors and the
    host, ahead meanwhile, has queued the whole pass.

    triton.testing.do_bench overwrites 256 MB, which takes a GPU less time than autograd takes the host to queue a
    backward pass: the time of a small layer would be the host's.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._overwritten = torch.empty(_OVERWRITTEN_BYTES if self._on_gpu else 1, dtype=torch.uint8, device=device)

    def ms(self, step: Step) -> float:
        """Mean of some passes."""
        return sum(self._once(step) for _ in range(ITERATIONS)) / ITERATIONS

    def _once(self, step: Step) -> float:
        self._overwritten.zero_()
        if not self._on_gpu:
            start = time.perf_counter()
            step()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def copied_bytes_per_ms(device: torch.device, timer: ColdCacheTimer, size: int) -> float:
    """Bytes read and written per ms by a copy of `size` bytes, the fastest of ten."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(timer.ms(lambda: target.copy_(source)) for _ in range(10))


def contenders(shape: Shape, device: torch.device, compiled: bool) -> dict[str, dict[str, Step]]:
    """What is timed for one layer, for each contender and mode."""
    x, weight, bias, dy = tensors(shape, torch.bfloat16, device)
    theirs = [t.detach().to(x.dtype).requires_grad_() for t in (weight, bias)]
    first = x.detach().contiguous().requires_grad_()
    runs: dict[str, tuple[Callable[..., Tensor], list[Tensor], Tensor]] = {
        OURS: (lambda x, w, b: group_norm_relu(x, NUM_GROUPS, w, b), [x, weight, bias], dy),
        NCHW: (torch_pair, [first, *theirs], dy.contiguous()),
        NHWC: (torch_pair, [x, *theirs], dy),
    }
    if compiled:
        torch.compiler.reset()
        runs[COMPILED] = (torch.compile(torch_pair, fullgraph=True, dynamic=False), [x, *theirs], dy)

    def steps(run: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> dict[str, Step]:
        return {
            "forward": lambda: run(*inputs),
            "both": lambda: torch.autograd.grad(run(*inputs), inputs, grad),
        }

    return {name: steps(*arguments) for name, arguments in runs.items()}


def time_layer(
    shape: Shape, rounds: int, timer: ColdCacheTimer, device: torch.device, compiled: bool
) -> dict[str, Any]:
    """ms of each contender and mode: median, least and most over the rounds."""
    steps = contenders(shape, device, compiled)
    for modes in steps.values():
        modes["both"]()  # compiles
    times: dict[str, dict[str, list[float]]] = {name: {mode: [] for mode in _MODES} for name in steps}
    for _ in range(rounds):
        for name, modes in steps.items():
            for mode in _MODES:
                times[name][mode].append(timer.ms(modes[mode]))
    return {name: {mode: spread_of(t) for mode, t in modes.items()} for name, modes in times.items()}


def measure_model(
    name: str, batch: int, settings: GroupNormBenchmark, device: torch.device, bytes_per_ms: float
) -> dict[str, Any]:
    """Times of every distinct layer of a model, and their sums over the model."""
    timer, started = ColdCacheTimer(device), time.perf_counter()
    rows: list[dict[str, Any]] = []
    budget_s = settings.compile_s / len(settings.models)
    shapes = layers(name, batch, settings.image_size)
    for shape in sorted(shapes, key=lambda shape: -shapes[shape] * torch.Size(shape).numel()):
        compiled = time.perf_counter() - started < budget_s
        times = time_layer(shape, settings.rounds, timer, device, compiled)
        tensor_bytes = 2 * torch.Size(shape).numel()
        bound = {"forward": 2 * tensor_bytes / bytes_per_ms, "both": 5 * tensor_bytes / bytes_per_ms}
        rows.append({"shape": shape, "layers": shapes[shape], "ms": times, "bound_ms": bound})
        print(f"{name} {shape}: {_row_text(rows[-1])}", file=sys.stderr, flush=True)
    everywhere = [each for each in (OURS, NCHW, NHWC, COMPILED) if all(each in row["ms"] for row in rows)]
    total = {
        each: {mode: sum(row["layers"] * row["ms"][each][mode]["median"] for row in rows) for mode in _MODES}
        for each in everywhere
    }
    bound = {mode: sum(row["layers"] * row["bound_ms"][mode] for row in rows) for mode in _MODES}
    return {"model": name, "batch": batch, "layers": rows, "total_ms": total, "bound_ms": bound}


def _row_text(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {modes['both']['median']:.3f} ms" for name, modes in row["ms"].items())


def measure(settings: GroupNormBenchmark, device: torch.device) -> dict[str, Any]:
    """Everything, as plain JSON types. Raises RunError for a kernel that is wrong or does not run."""
    if not kernel_works(device):
        raise RunError("the kernel does not run here (see the warning above), so there is nothing to compare")
    on_gpu = device.type == "cuda"
    large = LARGE if on_gpu and torch.cuda.mem_get_info(device)[0] > _LARGE_BYTES else []
    checked = check(device, CHECKED, large)
    print(f"correct: {len(checked)} checks", file=sys.stderr, flush=True)
    bytes_per_ms = copied_bytes_per_ms(device, ColdCacheTimer(device), 2**30 if on_gpu else 2**20)
    models = [each.partition(":") for each in settings.models]
    return header("group_norm", device) | {
        "arguments": {"rounds": settings.rounds, "models": settings.models, "image_size": settings.image_size},
        "how": _HOW,
        "checked": checked,
        "copy_gb_per_s": bytes_per_ms / 1e6,
        "torch_keeps_channels_last": keeps_channels_last(device),
        "models": [measure_model(name, int(batch), settings, device, bytes_per_ms) for name, _, batch in models],
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine = result["machine"]["gpu"] or result["machine"]["cpu"]
    lines = [f"GroupNorm + ReLU, {machine}, bf16; copying moves {result['copy_gb_per_s']:.0f} GB/s."]
    for model in result["models"]:
        lines += ["", f"{model['model']}, batch {model['batch']}; forward + backward, ms: median (least-most)", ""]
        names = [name for name in (OURS, NCHW, NHWC, COMPILED) if any(name in row["ms"] for row in model["layers"])]
        lines += [f"| layer | times | {' | '.join(names)} | bound |", "|---" * (len(names) + 3) + "|"]
        for row in model["layers"]:
            both = {name: spread_text(modes["both"], ".3f") for name, modes in row["ms"].items()}
            cells = [both.get(name, "not measured") for name in names]
            shape = "x".join(map(str, row["shape"][1:]))
            lines.append(f"| {shape} | {row['layers']} | {' | '.join(cells)} | {row['bound_ms']['both']:.3f} |")
        total = model["total_ms"]
        cells = [f"{total[name]['both']:.2f}" if name in total else "not measured" for name in names]
        lines.append(f"| all | | {' | '.join(cells)} | {model['bound_ms']['both']:.2f} |")
        ratios = [f"{total[name]['both'] / total[OURS]['both']:.2f}x {name}" for name in total if name != OURS]
        share = model["bound_ms"]["both"] / total[OURS]["both"]
        lines += ["", f"Speed against the others: {', '.join(ratios)}; {share:.0%} of the bound."]
    return "\n".join([*lines, "", verdict(result)]) + "\n"


def verdict(result: dict[str, Any]) -> str:
    """Whether torch's own kernels could take the place of ours, by the rule that it names."""
    shares = [model["total_ms"][NHWC]["both"] / model["total_ms"][OURS]["both"] for model in result["models"]]
    keeps = result["torch_keeps_channels_last"]
    needless = keeps and max(shares) <= 1
    return (
        f"Ours would be deleted if {NHWC} kept channels-last and took no longer over any of the models, forward and "
        f"backward: it {'keeps' if keeps else 'loses'} the layout and takes at most {max(shares):.2f} times as long, "
        f"so ours {'is needless' if needless else 'stays'}. Of the residual sum and of what is kept for the backward "
        "pass, which ours saves beside, this says nothing."
    )


def run(settings: GroupNormBenchmark) -> None:
    """Check, measure, write JSON and Markdown, and print the table."""
    result = measure(settings, measured_device(settings.device))
    write_result(settings.out, result, table(result))
    print(settings.out)
