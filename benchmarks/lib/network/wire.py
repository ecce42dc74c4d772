"""The network model against real links: Gloo ranks in network namespaces, connected at a known bandwidth.

What the model is told: the rate that `tc` sets, how many of the bytes are data, how long the ranks' CPUs take for a
bucket on links without a limit, and the time of a backward pass without an all-reduce. CPUs work on what has arrived
while the wire carries the rest, so of their time only what exceeds the wire's counts. Nothing is fitted to the steps
that it predicts. Linux with ip and tc, as root.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.lib.network.model import Layer, Machine, StepWork, Sync, latency_and_wire_s, simulate
from benchmarks.lib.processes import child_environment, module_command
from data_pipelines.common.errors import InputError, RunError

TARGET = 0.07  # relative error of a step's time
# Of Ethernet frames for 1500 bytes, TCP with timestamps. In a ring each link also carries the acknowledgements of what
# its rank receives: a frame without data for every two of data (RFC 1122, 4.2.3.2).
_DATA, _HEADERS = 1448, 66
PAYLOAD_SHARE = 2 * _DATA / (2 * (_DATA + _HEADERS) + _HEADERS)
_GLOO_THREADS = 2
_SUBNET = "10.213.77"
_PORT = 29517
_LIMIT_S = 900


@dataclass(frozen=True)
class Combination:
    """A link of `mbit_s` in each direction, gradients of `gradient_mb` in equal layers, buckets of `bucket_mb`."""

    mbit_s: int
    gradient_mb: float
    bucket_mb: int

    @property
    def bytes_in_bucket(self) -> int:
        return int(min(self.gradient_mb, self.bucket_mb) * (1 << 20))


@dataclass(frozen=True)
class Setting:
    """What the ranks are told: `layers` equal layers whose backward pass takes `layer_ms` each, and `steps` to time."""

    combinations: tuple[Combination, ...]
    layers: int = 16
    layer_ms: float = 20.0
    steps: int = 7


def combinations(ranks: int) -> tuple[Combination, ...]:
    """Some that leave the network idle and some that keep it busy after the backward pass. More ranks get slower links,
    so that it is these that decide, not the two cores that do the work of all ranks."""
    rates = {2: (50, 150), 4: (30, 80), 8: (20, 60)}[ranks]
    return tuple(Combination(rate, gradient, bucket) for rate in rates for gradient in (2, 6) for bucket in (1, 4))


def measure_wire(worlds: tuple[int, ...], setting: Setting | None = None) -> dict[str, Any]:
    """Predicted against measured step times for each number of ranks. Raises InputError without namespaces."""
    rows = []
    for ranks in worlds:
        chosen = setting or Setting(combinations(ranks))
        measured = run_ranks("benchmarks.lib.network.wire_rank", asdict(chosen), ranks)
        rows += [{"ranks": ranks, **row} for row in _compare(chosen, measured, ranks)]
    worst = max(abs(row["error"]) for row in rows)
    return {
        "combinations": rows,
        "worst_error": worst,
        "target": TARGET,
        "met": worst <= TARGET and len(rows) >= 12,
    }


def machine_of(combination: Combination, ranks: int, cpu_s: float) -> Machine:
    """A machine with one rank per node on such links, whose CPUs take so long for a bucket."""
    none = dict.fromkeys(Machine.__dataclass_fields__, 0.0)
    links = Machine(
        **{
            **none,
            "ranks_per_node": 1,
            "in_node_gb_s": 1.0,
            "net_gb_s": combination.mbit_s / 8000,
            "wire_efficiency": PAYLOAD_SHARE,
            "tree_efficiency": 1.0,
            "read_gb_s": 1.0,
        }  # type: ignore[arg-type]
    )
    _, wire_s = latency_and_wire_s(links, ranks, combination.bytes_in_bucket, "ring")
    return replace(links, message_us=max(0.0, cpu_s - wire_s) * 1e6)


def predicted_step_s(
    combination: Combination, ranks: int, bucket_cpu_s: float, layers: Sequence[tuple[str, int, float]], rest_s: float
) -> float:
    """What the model says of a step. layers: name, elements and seconds of each gradient in the order in which they
    were ready; rest_s: all else that a rank computes."""
    made = tuple(Layer(name, (elements,), seconds) for name, elements, seconds in layers)
    sync = Sync(
        bucket_mb=combination.bucket_mb,
        algorithm="ring",
        small_first=False,
        small_messages=0,
        in_flight=_GLOO_THREADS,
    )
    machine = machine_of(combination, ranks, bucket_cpu_s)
    return simulate(StepWork(made, rest_s, 0.0, images=1), machine, sync, ranks).seconds


def _compare(setting: Setting, measured: list[dict[str, Any]], ranks: int) -> list[dict[str, Any]]:
    rows = []
    for combination, row in zip(setting.combinations, measured, strict=True):
        predicted = predicted_step_s(combination, ranks, row["cpu_s"], row["layers"], row["forward_s"])
        rows.append(
            {
                **asdict(combination),
                "measured_s": row["step_s"],
                "measured_min_s": row["step_min_s"],
                "measured_max_s": row["step_max_s"],
                "without_network_s": row["alone_s"],
                "bucket_without_limit_s": row["cpu_s"],
                "predicted_s": predicted,
                "error": predicted / row["step_s"] - 1.0,
            }
        )
    return rows


def run_ranks(module: str, setting: dict[str, Any], ranks: int) -> list[dict[str, Any]]:
    """Run a module on so many ranks, each in a network namespace of its own, with `setting` as JSON on its standard
    input; the JSON list on rank 0's last line of output. Raises InputError without namespaces, RunError where rank 0
    fails."""
    with _namespaces(ranks) as names:
        processes = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *module_command(module)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=child_environment() | _place(rank, ranks),
            )
            for rank, name in enumerate(names)
        ]
        try:
            for process in processes[1:]:
                assert process.stdin
                process.stdin.write(json.dumps(setting))
                process.stdin.close()
                process.stdin = None  # or communicate() would flush it
            output, errors = processes[0].communicate(json.dumps(setting), timeout=_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{ranks} ranks had not ended after {_LIMIT_S} s") from error
        finally:
            for process in processes:
                if process.poll() is None and processes[0].returncode != 0:
                    process.kill()
                process.communicate()
        if processes[0].returncode:
            raise RunError(f"rank 0 of {ranks} failed: {errors.strip()[-2000:]}")
    rows: list[dict[str, Any]] = json.loads(output.strip().splitlines()[-1])
    return rows


def _place(rank: int, ranks: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": _PORT}
    host = {"MASTER_ADDR": f"{_SUBNET}.1", "GLOO_SOCKET_IFNAME": "wire", "OMP_NUM_THREADS": "1"}
    return {name: str(value) for name, value in (place | host).items()}


@contextmanager
def _namespaces(ranks: int) -> Iterator[list[str]]:
    """Namespaces whose interfaces `wire` meet in a bridge; removed at the end, whatever happens."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        raise InputError(
            "network namespaces need root, ip and tc (Debian: iproute2); run this as root on Linux, or leave it out"
        )
    bridge = f"bsw{os.getpid() % 1000000}"
    names = [f"{bridge}-{rank}" for rank in range(ranks)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for rank, name in enumerate(names):
            outside = f"{bridge}x{rank}"
            _ip("netns", "add", name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "wire", "netns", name)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{_SUBNET}.{rank + 1}/24", "dev", "wire")
            _ip("-n", name, "link", "set", "wire", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for rank, name in enumerate(names):
            subprocess.run(["ip", "link", "del", f"{bridge}x{rank}"], capture_output=True)  # or it lives on a while
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise InputError(f"ip {' '.join(arguments)} failed: {done.stderr.strip()}; leave this part out")
