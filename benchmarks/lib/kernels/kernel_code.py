"""Machine code of every Triton launch of a training step, compiled without a GPU."""

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor, nn

from benchmarks.lib.kernels.fake_gpu import FakePointer, Launch, compile_launch, use_fake_gpu
from benchmarks.lib.results import header, write_result
from data_pipelines.common.errors import InputError, RunError
from trainer.engines.replica import channels_last
from trainer.kernels.group_norm_relu import add_group_norm_relu, group_norm_relu, kernel_works
from trainer.models.bit import MODELS, NUM_GROUPS, BiTResNet, GroupNormReLU, build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SHARED_BYTES = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
MOST_STACK_BYTES = 16
LEAST_BLOCKS = 2
EXCEPTIONS: dict[str, str] = {}
"""Kernels that may run one at a time on a multiprocessor, and why."""
_REGISTERS, _WARPS, _BLOCKS = 65536, 64, 32  # of a multiprocessor
_BLOCK_SHARED_BYTES = 1024  # that the system takes for each block
_SAMPLES = 2  # any number: the last images of a batch end nowhere special
_FILTERS = 4
_BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_HOW = (
    "What a step of each model at 224 pixels launches, noted with tensors of a fake GPU, and compiled by "
    "Triton; registers, stack and shared memory by cuobjdump, widths of global accesses in bits by nvdisasm. "
    "Nothing ran on a GPU."
)
Uses = dict[Launch, list[str]]


@dataclass(frozen=True)
class KernelCode:
    """What to compile."""

    capabilities: tuple[int, ...] = (90,)
    """Compute capabilities of the GPUs, times ten: 80, 90, 100."""
    dtypes: tuple[str, ...] = ("bf16",)
    """Precisions: bf16, fp16, fp32."""
    models: tuple[str, ...] = ("r50x1", "r152x4")
    """Models whose launches are compiled."""
    sample: bool = False
    """Of each kernel and precision only one launch, for one of the GPUs, always the same."""
    out: Path = Path("kernel_code.json")
    """JSON file to write; the table goes beside it as .md."""

    def __post_init__(self) -> None:
        for name, given, known in (
            ("--capabilities", self.capabilities, SHARED_BYTES),
            ("--dtypes", self.dtypes, DTYPES),
            ("--models", self.models, MODELS),
        ):
            if not given or set(given) - set(known):
                raise InputError(f"{name} {' '.join(map(str, given))}: take some of {', '.join(map(str, known))}")


class Code(NamedTuple):
    """What the machine code of a kernel takes and does."""

    registers: int
    stack_bytes: int
    shared_bytes: int
    warps: int
    blocks_per_sm: int
    load_bits: tuple[int, ...]
    store_bits: tuple[int, ...]
    handed_over: int
    """How often a thread says that its whole program's stores, all ended, may be read by others."""


class Layer(NamedTuple):
    """A GroupNorm: its input's channels and height, and whether it adds a residual first."""

    channels: int
    side: int
    adds: bool


def norms(model: BiTResNet, side: int = 224) -> Counter[Layer]:
    """The distinct norms of a model on the meta device, and how many there are of each."""
    found: Counter[Layer] = Counter()

    def note(_: nn.Module, inputs: tuple[Tensor | None, ...], __: Any) -> None:
        x = inputs[0]
        assert x is not None
        found[Layer(x.shape[1], x.shape[2], len(inputs) > 1 and inputs[1] is not None)] += 1

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, GroupNormReLU)]
    with torch.no_grad():
        model(torch.empty(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def collect(launches: list[Launch], name: str, model: BiTResNet, layers: Iterable[Layer], dtype: str) -> Uses:
    """What a step launches, and by what. `launches` is where `use_fake_gpu` notes it, `model` on the meta device."""
    uses: Uses = defaultdict(list)

    def noted(by: str) -> None:
        for launch in launches:
            if by not in uses[launch]:
                uses[launch].append(by)
        launches.clear()

    assert kernel_works(torch.empty(0).device)  # launches one itself, once
    launches.clear()
    for layer in layers:
        _norm(layer, DTYPES[dtype])
        noted(f"{name} {dtype} {layer.channels}x{layer.side}x{layer.side}{' + residual' * layer.adds}")
    for module in model.modules():
        for each, parameter in list(module.named_parameters(recurse=False)):
            # How many filters there are changes no code; a program has one of them.
            shape = (min(len(parameter), _FILTERS), *parameter.shape[1:]) if parameter.ndim > 1 else parameter.shape
            setattr(module, each, nn.Parameter(channels_last(torch.empty(shape))))
    _filters(model, DTYPES[dtype])
    noted(f"{name} {dtype} filters")
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer = SGDAGC(param_groups(model, 1000, 0.01), lr=0.1, weight_decay=1e-4)
    if dtype == "fp16":
        optimizer.found_inf = torch.zeros(())  # as a gradient scaler has it
    optimizer.step()
    noted(f"{name} {dtype} optimiser")
    return uses


def _norm(layer: Layer, dtype: torch.dtype) -> None:
    shape = (_SAMPLES, layer.channels, layer.side, layer.side)
    x, residual, dy, dtotal = (torch.empty(shape, dtype=dtype, memory_format=torch.channels_last) for _ in range(4))
    weight, bias = torch.empty(2, layer.channels).unbind()
    inputs = (x, weight, bias) = tuple(t.requires_grad_() for t in (x, weight.clone(), bias.clone()))
    if not layer.adds:
        torch.autograd.grad(group_norm_relu(x, NUM_GROUPS, weight, bias), inputs, dy)
        return
    both = add_group_norm_relu(x, residual, NUM_GROUPS, weight, bias)
    torch.autograd.grad(both, inputs, (dy, dtotal), retain_graph=True)
    torch.autograd.grad(both[0], inputs, dy)


def _filters(model: BiTResNet, dtype: torch.dtype) -> None:
    """Of one micro-batch, and of two: the gradients of the first are then added to those of the second."""
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    torch.set_autocast_dtype("cuda", torch.bfloat16 if dtype == torch.float32 else dtype)
    for passes in (1, 2):
        for last in [False] * (passes - 1) + [True]:
            with model.filter_sharing.micro_batch(last):
                filters = [each for unit in model.filter_sharing.filters(model.convolutions) for each in unit]
                torch.autograd.backward(filters, [torch.empty_like(each) for each in filters])
    torch.set_autocast_enabled("cuda", False)
    model.zero_grad()


def examine(launch: Launch, capability: int) -> Code:
    """Compile for a GPU. Raises what the compiler raises."""
    kernel = compile_launch(launch, capability)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        resources = _output_of(_BINARIES / "cuobjdump", "-res-usage", file.name)
        code = _output_of(_BINARIES / "nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", resources)
    assert found is not None, resources
    registers, stack = map(int, found.groups())
    warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
    blocks = blocks_per_sm(registers, warps, shared, capability)
    loads, stores = _widths(code, "LDG|LDGSTS"), _widths(code, "STG")
    return Code(registers, stack, shared, warps, blocks, loads, stores, handed_over(kernel.asm["ptx"]))


def handed_over(ptx: str) -> int:
    """Releasing atomics, -1 if one of them does not come straight after a barrier of all the program's threads."""
    events = re.findall(r"\b(bar\.sync|st\.global|atom\.global\.gpu\.(?:acq_rel|release))", ptx)
    releases = [i for i, event in enumerate(events) if event.startswith("atom")]
    return len(releases) if all(i and events[i - 1] == "bar.sync" for i in releases) else -1


def _output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout


def _widths(code: str, names: str) -> tuple[int, ...]:
    """Bits of a thread's global accesses, each width once."""
    modifiers = re.findall(rf"\b(?:{names})\.E([.\w]*)", code)
    return tuple(sorted({int((re.findall(r"\.[US]?(8|16|64|128)\b", each) or ["32"])[-1]) for each in modifiers}))


def blocks_per_sm(registers: int, warps: int, shared_bytes: int, capability: int) -> int:
    """How many programs a multiprocessor runs at a time. Registers are given to warps in lots of 8 a thread, and each
    of the four quarters of a multiprocessor has its own."""
    of_warp = -(-max(registers, 1) // 8) * 8 * 32
    by_registers = _REGISTERS // 4 // of_warp * 4 // warps
    by_memory = SHARED_BYTES[capability] // (shared_bytes + _BLOCK_SHARED_BYTES)
    return min(by_registers, by_memory, _WARPS // warps, _BLOCKS)


def faults(launch: Launch, code: Code) -> list[str]:
    """What the code of a kernel should not be like."""
    name = launch.kernel.__name__
    found = []
    if code.stack_bytes > MOST_STACK_BYTES:
        found.append(f"{code.stack_bytes} bytes of stack")
    if code.blocks_per_sm < LEAST_BLOCKS and name not in EXCEPTIONS:
        found.append(f"{code.blocks_per_sm} block on a multiprocessor")
    if name.startswith(("forward_", "backward_")):  # these have activations
        wanted = 2 if name.endswith("_split") else 0  # the end of a first pass, and of its merging
        if code.handed_over != wanted:
            found.append(f"hands stores over {code.handed_over} times in order, not {wanted}")
        for what, widths in (("reads", code.load_bits), ("writes", code.store_bits)):
            if 128 not in widths or min(widths) < 32:
                found.append(f"{what} activations {' or '.join(map(str, widths))} bits at a time")
    return found


def sampled(uses: Uses, capabilities: tuple[int, ...]) -> list[tuple[Launch, int]]:
    """Of each kernel and precision the launch that has most tensors, for one GPU each."""
    kinds: dict[tuple[Any, ...], Launch] = {}
    for launch in uses:
        tensors = _flat(launch.arguments)
        kind = launch.kernel.__name__, frozenset(each.dtype for each in tensors if isinstance(each, FakePointer))
        if kind not in kinds or tensors.count(None) < _flat(kinds[kind].arguments).count(None):
            kinds[kind] = launch
    return [(launch, capabilities[i % len(capabilities)]) for i, launch in enumerate(kinds.values())]


def _flat(arguments: tuple[Any, ...]) -> list[Any]:
    return [each for one in arguments for each in (one if isinstance(one, tuple) else (one,))]


def measure(settings: KernelCode) -> dict[str, Any]:
    """Everything, as plain JSON types."""
    with torch.device("meta"):
        layers = {name: norms(build_model(name, 1000)) for name in settings.models}
    launches, uses = use_fake_gpu(), Uses()
    for name in settings.models:
        for dtype in settings.dtypes:
            with torch.device("meta"):
                model = build_model(name, 1000)
            for launch, by in collect(launches, name, model, layers[name], dtype).items():
                uses.setdefault(launch, []).extend(by)
    every = [(launch, each) for each in settings.capabilities for launch in uses]
    rows = []
    for launch, capability in sampled(uses, settings.capabilities) if settings.sample else every:
        about = {"kernel": launch.kernel.__name__, "capability": capability, "uses": uses[launch]}
        try:
            code = examine(launch, capability)
        except Exception as error:  # of Triton, LLVM or ptxas: they have no common base class
            cause = error.__cause__ or error  # Triton's own error says where, and its cause what
            text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            rows.append(about | {"faults": [f"does not compile: {text}"]})
        else:
            rows.append(about | code._asdict() | {"faults": faults(launch, code)})
    return header("kernel_code", packages=["triton"]) | {"how": _HOW, "kernels": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["kernel", "sm", "registers", "stack", "shared", "warps", "blocks per SM", "loads", "stores", "used by"]
    lines = [result["how"], "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in sorted(result["kernels"], key=lambda row: (row["kernel"], row["capability"], row["uses"])):
        names = ("registers", "stack_bytes", "shared_bytes", "warps", "blocks_per_sm", "load_bits", "store_bits")
        cells = [" ".join(map(str, v)) if isinstance(v := row.get(name, ""), tuple) else str(v) for name in names]
        used = ", ".join(row["uses"][:3]) + (f" and {len(row['uses']) - 3} more" if len(row["uses"]) > 3 else "")
        lines.append(f"| {row['kernel']} | {row['capability']} | {' | '.join(cells)} | {used} |")
    bad = [row for row in result["kernels"] if row["faults"]]
    lines += ["", f"{len(result['kernels'])} compilations, {len(bad)} with faults."]
    lines += [f"- {row['kernel']}, sm_{row['capability']}, {row['uses'][0]}: {', '.join(row['faults'])}" for row in bad]
    return "\n".join(lines) + "\n"


def run(settings: KernelCode) -> None:
    """Compile, write JSON and Markdown, and print the table. Raises RunError where kernels have faults."""
    result = measure(settings)
    write_result(settings.out, result, table(result))
    print(settings.out)
    if any(row["faults"] for row in result["kernels"]):
        raise RunError("some kernels have faults, see the end of the table")
