"""The comparison with a wire: the plan of its combinations, and real ranks on real links where that is allowed."""

import os
import shutil

import pytest

from benchmarks.lib.network import wire
from benchmarks.lib.network.wire import Combination, Setting, combinations, machine_of, measure_wire
from data_pipelines.common.errors import InputError

ALLOWED = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc")


def test_there_are_enough_combinations_of_all_three() -> None:
    for ranks in (2, 4, 8):
        found = combinations(ranks)
        assert len({*found}) == 8
        assert all(len({getattr(one, name) for one in found}) == 2 for name in ("mbit_s", "gradient_mb", "bucket_mb"))


def test_frames_carry_less_than_the_rate() -> None:
    machine = machine_of(Combination(800, 8, 4), ranks=2, cpu_s=0.002)
    assert machine.net_gb_s * machine.wire_efficiency == pytest.approx(0.1 * 1448 / (1514 + 33))
    assert machine.interference == machine.step_sigma == machine.serial_us_per_rank == 0.0


def test_cpus_count_for_what_the_wire_does_not_hide() -> None:
    wire_s = 2 * 3 / 4 * (2 << 20) / (0.1e9 * 1448 / (1514 + 33))  # four ranks, and no bucket is larger than all
    hidden, longer = (machine_of(Combination(800, 2, 4), 4, wire_s + extra_s) for extra_s in (-1e-3, 2e-3))
    assert hidden.message_us == 0.0
    assert longer.message_us == pytest.approx(2000.0)


def test_without_namespaces_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match="root"):
        measure_wire((2,))


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.skipif(not ALLOWED, reason="network namespaces need root, ip and tc")
def test_a_slow_link_is_felt() -> None:
    chosen = Setting((Combination(100, 2, 1), Combination(400, 2, 1)), layers=4, layer_ms=5.0, steps=2)
    try:
        found = measure_wire((2,), chosen)
    except InputError as error:  # a container whose root may not make namespaces
        pytest.skip(str(error))
    slow, fast = found["combinations"]
    least_s = 2 * (1 << 20) / 12.5e6  # each rank sends as many bytes as the gradients have; 100 Mbit/s carry no more
    assert slow["measured_s"] > 0.8 * least_s
    assert slow["measured_s"] > fast["measured_s"]
    assert slow["without_network_s"] >= 0.02
    assert slow["predicted_s"] > 0.8 * least_s
    assert not found["met"]  # two are not twelve
    assert not any(name.startswith(f"bsw{os.getpid()}") for name in os.listdir("/sys/class/net"))
