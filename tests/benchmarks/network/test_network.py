"""The model of a step: limits that are known in closed form, the plan of PyTorch's DDP, calibration, profiles."""

from dataclasses import replace
from math import isclose
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._C import _distributed_c10d

from benchmarks.lib.network.against_paper import TARGET, against_paper, overlap, straight_line
from benchmarks.lib.network.fit import calibrate, efficiency, predict, uncalibrated
from benchmarks.lib.network.layers import scaled_to, step_work_of, trace_step
from benchmarks.lib.network.model import (
    Layer,
    Machine,
    StepWork,
    Sync,
    all_reduce_s,
    buckets,
    expected_maximum,
    simulate,
)
from benchmarks.lib.network.profile import Profile, Workload, load_profile, profile_names
from data_pipelines.common.errors import InputError
from trainer.models.bit import build_model

MB = 1 << 20
QUIET = Machine(
    ranks_per_node=4,
    in_node_gb_s=100.0,
    net_gb_s=10.0,
    wire_efficiency=1.0,
    tree_efficiency=1.0,
    ring_in_us=0.0,
    ring_net_us=0.0,
    tree_in_us=0.0,
    tree_net_us=0.0,
    message_us=0.0,
    interference=0.0,
    step_sigma=0.0,
    serial_us_per_rank=0.0,
    read_gb_s=1e9,
)
WORK = StepWork(
    tuple(Layer(str(i), (MB,), 0.01) for i in range(10)), forward_s=0.05, update_s=0.01, images=8
)  # 4 MB each
PLAIN = Sync("buckets", 4, small_first=False, small_messages=0, algorithm="ring")


def test_one_rank_waits_for_nobody() -> None:
    step = simulate(WORK, replace(QUIET, step_sigma=1.0, serial_us_per_rank=1e6), PLAIN, 1)
    assert step.seconds == pytest.approx(0.16)


def test_a_ring_moves_twice_all_but_a_share() -> None:
    assert all_reduce_s(QUIET, 4, 100e6, "ring") == pytest.approx(2 * 3 / 4 * 100e6 / 100e9)
    across = 2 * 15 / 16 * 100e6 / 40e9  # four adapters of 10 GB/s a node
    assert all_reduce_s(QUIET, 16, 100e6, "ring") == pytest.approx(across)
    assert all_reduce_s(replace(QUIET, net_gb_s=100.0), 16, 100e6, "ring") == pytest.approx(2 * 15 / 16 * 100e6 / 100e9)


def test_hops_of_ring_and_tree() -> None:
    machine = replace(QUIET, ring_in_us=1.0, ring_net_us=100.0, tree_in_us=1.0, tree_net_us=100.0)
    assert all_reduce_s(machine, 16, 0, "ring") == pytest.approx((24 * 1 + 6 * 100) * 1e-6)
    assert all_reduce_s(machine, 16, 0, "tree") == pytest.approx(2 * (3 * 1 + 2 * 100) * 1e-6)
    assert all_reduce_s(machine, 16, 0) == all_reduce_s(machine, 16, 0, "tree")
    uneven = replace(machine, tree_efficiency=0.5)
    assert all_reduce_s(uneven, 16, 1e9, "ring") < all_reduce_s(uneven, 16, 1e9, "tree")
    assert all_reduce_s(uneven, 16, 1e9) == all_reduce_s(uneven, 16, 1e9, "ring")


def test_what_the_backward_pass_hides_and_what_it_does_not() -> None:
    fast = simulate(WORK, replace(QUIET, net_gb_s=1e6, in_node_gb_s=1e6), PLAIN, 8)
    assert fast.exposed_s == pytest.approx(0.0, abs=1e-6)
    one_s = all_reduce_s(QUIET, 8, 4 * MB, "ring")
    assert one_s < 0.01
    assert simulate(WORK, QUIET, PLAIN, 8).exposed_s == pytest.approx(one_s)  # only the last bucket
    slow = replace(QUIET, net_gb_s=0.01)
    step = simulate(WORK, slow, PLAIN, 8)
    # The network is busy from the first bucket on.
    assert step.exposed_s == pytest.approx(0.01 + 10 * all_reduce_s(slow, 8, 4 * MB, "ring") - 0.1)
    end = simulate(WORK, QUIET, replace(PLAIN, packing="end"), 8)
    assert end.exposed_s == pytest.approx(10 * one_s)


def test_latencies_hide_behind_other_messages() -> None:
    slow = replace(QUIET, net_gb_s=0.01, message_us=20_000.0)
    wire_s = all_reduce_s(slow, 8, 4 * MB, "ring") - 0.02
    end = replace(PLAIN, packing="end")
    assert simulate(WORK, slow, end, 8).exposed_s == pytest.approx(10 * (wire_s + 0.02))
    assert simulate(WORK, slow, replace(end, in_flight=2), 8).exposed_s == pytest.approx(0.02 + 10 * wire_s)
    # With nothing on the wire, half as many latencies: two pass at a time.
    empty = replace(QUIET, net_gb_s=1e9, in_node_gb_s=1e9, message_us=20_000.0)
    assert simulate(WORK, empty, replace(end, in_flight=2), 8).exposed_s == pytest.approx(0.1, rel=1e-3)


def test_compressed_gradients_travel_in_half_the_time() -> None:
    slow = replace(QUIET, net_gb_s=0.01)
    full = simulate(WORK, slow, replace(PLAIN, packing="end"), 8).exposed_s
    half = simulate(WORK, slow, replace(PLAIN, packing="end", bytes_per_element=2), 8).exposed_s
    assert half == pytest.approx(full / 2)


def test_cycles_fuse_what_is_ready() -> None:
    slow = replace(QUIET, message_us=20_000.0)  # only the number of messages counts
    sync = replace(PLAIN, packing="cycles", bucket_mb=64, cycle_ms=0.0)
    step = simulate(WORK, slow, sync, 8)
    # 10 ms: one gradient; 30 ms: two more; then two at a time, the last is sent at 110 ms.
    assert step.exposed_s == pytest.approx(0.03, abs=2e-3)
    apart = simulate(WORK, slow, replace(sync, bucket_mb=4), 8)
    assert apart.exposed_s == pytest.approx(0.01 + 10 * 0.02 - 0.1, abs=2e-3)


def test_interference_stretches_what_overlaps() -> None:
    busy = replace(QUIET, net_gb_s=0.01, interference=0.5)
    step = simulate(WORK, busy, PLAIN, 8)
    assert step.interference_s == pytest.approx(0.5 * 0.09)  # all of the backward pass but its first layer
    assert simulate(WORK, replace(busy, interference=0.0), PLAIN, 8).interference_s == pytest.approx(0.0)
    one_s = all_reduce_s(
        QUIET, 8, 4 * MB, "ring"
    )  # less than a layer takes: the rest of the layer goes on at full pace
    brief = simulate(WORK, replace(QUIET, interference=0.5), PLAIN, 8)
    assert brief.interference_s == pytest.approx(9 * one_s * (1 - 1 / 1.5))


def test_the_slowest_of_many() -> None:
    draws = np.random.default_rng(0).standard_normal((4000, 256)).max(axis=1).mean()
    assert expected_maximum(256) == pytest.approx(draws, abs=0.03)
    assert expected_maximum(1) == pytest.approx(0.0, abs=1e-6)
    step = simulate(WORK, replace(QUIET, step_sigma=0.1), PLAIN, 256)
    assert step.straggler_s == pytest.approx(0.1 * expected_maximum(256) * 0.16)


def test_a_step_waits_for_the_file_system() -> None:
    step = simulate(replace(WORK, image_bytes=1e6), replace(QUIET, read_gb_s=0.1), PLAIN, 8)
    assert step.data_wait_s > 0
    assert step.seconds == pytest.approx(8 * 8 * 1e6 / 0.1e9)


@pytest.mark.parametrize("limits", [(1.0, 25.0), (4.0, 4.0), (1.0, 1.0)])
def test_buckets_are_those_of_ddp(limits: tuple[float, float]) -> None:
    sizes = [4 * number for number in (2048, 900_000, 12, 512, 3_000_000, 64, 7_000_000, 1, 300_000, 12_000_000, 5)]
    tensors = [torch.empty(size // 4, device="meta") for size in sizes]
    limits_bytes = [int(limit * MB) for limit in dict.fromkeys(limits)]
    expected, _ = _distributed_c10d._compute_bucket_assignment_by_size(
        [torch.empty(0).expand(0) if tensor.numel() == 0 else torch.empty(tensor.shape) for tensor in tensors],
        limits_bytes,
    )
    assert buckets(sizes, limits[1] * MB, small_first=limits[0] == 1.0) == [list(bucket) for bucket in expected]


def computing_at(tflops: float, update_gb_s: float) -> Profile:
    return replace(load_profile("juwels-booster"), tflops=tflops, update_gb_s=update_gb_s, kernel_us=0.0)


def test_layers_follow_the_model_and_hold_every_parameter() -> None:
    step_work = step_work_of(Workload("r50x1", 1000, 224, 8), computing_at(10.0, 1000.0))
    assert step_work.layers[0].name == "head.bias"
    assert step_work.layers[-1].name == "stem.conv.weight"
    # The filters of a unit come together, with its first norm, which the pass meets last in it.
    unit = next(layer for layer in step_work.layers if layer.name == "stages.3.blocks.2.norm1.weight")
    assert unit.elements == (2048, 2048, 2048 * 512, 512 * 512 * 9, 512 * 2048)
    # A convolution takes two operations of its size backward, the stem one; the head's bias none.
    multiply_adds = sum(trace_step("r50x1", 1000, 224).forward) // 2
    assert multiply_adds == pytest.approx(4.1e9, rel=0.05)
    convolutions = multiply_adds - 2048 * 1000
    stem = 9408 * 112 * 112
    assert sum(layer.backward_s for layer in step_work.layers) == pytest.approx(
        2 * 8 * (2 * convolutions - stem + 2 * 2048 * 1000) / 10e12, rel=1e-6
    )
    assert sum(sum(layer.elements) for layer in step_work.layers) == 25_549_352
    stretched = scaled_to(step_work, 2.0)
    assert stretched.compute_s == pytest.approx(2.0)
    assert isclose(stretched.forward_s / step_work.forward_s, 2.0 / step_work.compute_s)


def test_the_order_is_that_of_a_real_backward_pass() -> None:
    ready: list[str] = []
    model = build_model("r14x0.5", 10)
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: ready.append(name))
    with model.filter_sharing.micro_batch(last=True):
        model(torch.zeros(1, 3, 32, 32)).sum().backward()
    assert [gradient.name for gradient in trace_step("r14x0.5", 10, 32).backward] == ready


def test_what_overlap_is_worth_at_1024_gpus() -> None:
    work = Workload("r50x1", 1000, 224, 16)
    shipped, last = (step_work_of(work, computing_at(20.0, 1000.0), filters_last=at_end) for at_end in (False, True))
    assert last.compute_s == pytest.approx(shipped.compute_s)
    assert sum(last.layers[-1].elements) > 0.9 * sum(sum(layer.elements) for layer in shipped.layers)
    for engine in ("horovod", "ddp"):
        found = overlap(load_profile("juwels-booster"), work, engine)
        shares = [found[name]["exposed_share"] for name in ("unit_by_unit", "filters_last", "after_the_pass")]
        assert shares[0] < 0.3 * min(shares[1:])
        assert found["unit_by_unit"]["efficiency"] > found["filters_last"]["efficiency"]


def test_calibration_finds_what_made_the_points() -> None:
    profile = load_profile("juwels-booster")
    sync, step_work = PLAIN, scaled_to(WORK, 1.0)
    truth = replace(profile.machine, step_sigma=0.02, serial_us_per_rank=50.0)
    points = [(count, efficiency(lambda _: step_work, truth, sync, count)) for count in (8, 64, 256)]
    fit = calibrate(profile, step_work, sync, points, 0.1)
    assert fit.profile.machine.step_sigma == pytest.approx(0.02, rel=0.02)
    assert fit.profile.machine.serial_us_per_rank == pytest.approx(50.0, rel=0.05)
    assert max(map(abs, fit.residuals.values())) < 0.01
    found = predict(fit, lambda _: step_work, sync, [1, 256, 1024])
    widths = [point.efficiency_high - point.efficiency_low for point in found]
    assert widths[0] == 0.0
    assert 0.0 < widths[1] < widths[2]  # less sure where nothing was measured
    assert all(point.efficiency_low <= point.efficiency <= point.efficiency_high for point in found)
    narrow = predict(replace(fit, noise_points=0.0), lambda _: step_work, sync, [1, 256])[1]
    assert narrow.efficiency_high - narrow.efficiency_low < widths[1]
    loose = predict(uncalibrated(profile), lambda _: step_work, sync, [1, 256])
    assert loose[1].efficiency_high - loose[1].efficiency_low > widths[1]


def test_nothing_to_calibrate_on_is_said() -> None:
    with pytest.raises(InputError, match="more than one rank"):
        calibrate(load_profile("juwels-booster"), WORK, PLAIN, [(1, 100.0)], 0.1)


@pytest.mark.slow
def test_the_paper_is_predicted_from_its_smaller_counts() -> None:
    found = against_paper()
    assert [row["ranks"] for row in found["held_out"]] == [512, 1024]
    assert max(ranks for ranks, _ in found["calibrated_on"]) == 256
    for row in found["held_out"]:
        assert abs(row["miss"]) <= TARGET < abs(row["straight_line_miss"])
        assert row["interval"][0] < row["measured"] < row["interval"][1]


def test_straight_line() -> None:
    assert straight_line([(1, 100.0), (4, 98.0)], [16, 64]) == pytest.approx([96.0, 94.0])


@pytest.mark.parametrize("name", profile_names())
def test_every_number_of_a_profile_has_a_source(name: str) -> None:
    profile = load_profile(name)
    assert all(len(source) > 8 for source in profile.sources.values())
    assert simulate(WORK, profile.machine, Sync(), 16).seconds > WORK.compute_s


def test_profiles_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="juwels-booster"):
        load_profile("juwels-boster")
    own = tmp_path / "own.toml"
    own.write_text("nodes = 3\n")
    with pytest.raises(InputError, match="ranks_per_node"):
        load_profile(str(own))
    for content in (b"nodes = \n", b"nodes = \xff", b"nodes = " + b"[" * 20_000):
        own.write_bytes(content)
        with pytest.raises(InputError, match="no TOML"):
            load_profile(str(own))
