"""The scalars of throughput, utilisation, memory and energy."""

import resource
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.engine import Update
from trainer.models.flops import training_flops
from trainer.training import throughput_meter
from trainer.training.gpu_energy import EnergyCounter
from trainer.training.gpu_peaks import peak_flops
from trainer.training.step_report import RankSums, StepReport
from trainer.training.throughput_meter import ThroughputMeter

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FULL = torch.full
SUMS = RankSums(torch.tensor([1.0, 2.0]), *(torch.tensor(0.0),) * 3)
REPORT = StepReport(0, 0.1, SUMS, Update(torch.tensor(2.0), torch.tensor(0.5)))


def job() -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(
            global_batch_size=8,
            precision="bf16",
            model=SimpleNamespace(name="r14x0.5", frozen_stages=0),
            data=SimpleNamespace(image_size=32),
            runtime=SimpleNamespace(elastic=False, tf32=False),
        ),
        train=SimpleNamespace(num_classes=10),
    )


class Ranks:
    """An engine of two ranks, of which the other one's GPU used 20 J."""

    rank, world_size = 0, 2

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 20.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=0.0, joules=1000.0)
    monkeypatch.setattr(throughput_meter, "perf_counter", lambda: now.s)
    return now


def on_gpu(monkeypatch: pytest.MonkeyPatch, clock: Any, gpu: str, counts: bool = True) -> ThroughputMeter:
    counter = SimpleNamespace(total=lambda: clock.joules if counts else None)
    monkeypatch.setattr(throughput_meter, "EnergyCounter", lambda _: counter)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: gpu)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3_000_000_000)
    monkeypatch.setattr(torch, "full", lambda *args, device, **kwargs: FULL(*args, **kwargs))
    return ThroughputMeter(job(), Ranks(CUDA))  # type: ignore[arg-type]


def two_steps(clock: Any, counted: ThroughputMeter) -> dict[str, float]:
    """One second and 100 J each, of which half a second waits for data; then an evaluation."""
    for _ in range(2):
        with counted.waiting():
            clock.s += 0.5
        clock.s += 0.5
        clock.joules += 100
        counted.advance()
    scalars = counted.scalars(REPORT)
    with counted.paused():
        clock.s += 60
        clock.joules += 5000
    return scalars


def test_scalars_of_a_gpu(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    counted = on_gpu(monkeypatch, clock, "NVIDIA H200")
    first, second = two_steps(clock, counted), two_steps(clock, counted)
    assert first == second  # the evaluation between them counts for neither
    assert first.pop("train/mfu") == pytest.approx(8 * training_flops("r14x0.5", 10, 32) / (2 * 989.5e12))
    assert first == pytest.approx(
        {
            "train/loss": 3.0,
            "train/lr": 0.1,
            "train/grad_norm": 2.0,
            "train/clipped_share": 0.5,
            "train/images_per_s": 8.0,
            "train/data_wait_share": 0.5,
            "train/peak_memory_gb": 3.0,
            "train/joules_per_image": (200 + 20) / 16,
        }
    )


def test_what_is_not_known_is_left_out_and_said_once(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    throughput_meter._known_peak.cache_clear()
    counted = on_gpu(monkeypatch, clock, "NVIDIA Z9000", counts=False)
    on_gpu(monkeypatch, clock, "NVIDIA Z9000")
    assert two_steps(clock, counted).keys().isdisjoint({"train/mfu", "train/joules_per_image"})
    assert capsys.readouterr().err == "the peak of NVIDIA Z9000 in bf16 is not known, so there is no train/mfu\n"


def test_scalars_of_a_cpu(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    scalars = two_steps(clock, ThroughputMeter(job(), Ranks(CPU)))  # type: ignore[arg-type]
    assert scalars.keys().isdisjoint({"train/mfu", "train/joules_per_image"})
    resident_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * throughput_meter.RSS_BYTES / 1e9
    assert 0.05 < scalars["train/peak_memory_gb"] <= resident_gb  # torch alone takes more
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("gpu", "precision", "tf32", "tera"),
    [
        ("NVIDIA A100-SXM4-40GB", "bf16", False, 312.0),
        ("NVIDIA A100 80GB PCIe", "fp32", False, 19.5),
        ("NVIDIA A100-SXM4-80GB", "fp32", True, 156.0),
        ("NVIDIA H100 PCIe", "fp16", True, 756.0),
        ("NVIDIA H100 80GB HBM3", "bf16", False, 989.5),
        ("NVIDIA H200", "bf16", False, 989.5),
        ("NVIDIA H200 NVL", "bf16", False, 835.5),
        ("NVIDIA GH200 480GB", "fp32", True, 494.5),
        ("Tesla V100-SXM2-16GB", "fp16", False, 125.0),
        ("Tesla V100-SXM2-16GB", "fp32", True, 15.7),  # has no TF32
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "bf16", False, None),
        ("NVIDIA A4000", "bf16", False, None),  # not an A40
        ("NVIDIA H100", "bf16", False, None),  # which of them?
    ],
)
def test_peaks_by_name(gpu: str, precision: Any, tf32: bool, tera: float | None) -> None:
    assert peak_flops(gpu, precision, tf32) == (None if tera is None else pytest.approx(tera * 1e12))


class FakeNVML:
    """NVML with one GPU, whose counter may have to be missing."""

    class NVMLError(Exception):
        pass

    def __init__(self, counts: bool) -> None:
        self.counts, self.millijoules = counts, 5000

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:  # noqa: N802
        assert uuid == b"GPU-12-34"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == "handle"
        if not self.counts:
            raise self.NVMLError
        return self.millijoules


@pytest.mark.parametrize("counts", [True, False])
def test_energy_of_a_gpu(counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNVML(counts)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12-34"))
    counter = EnergyCounter(CUDA)
    assert counter.total() == (5.0 if counts else None)
    counter.start()
    nvml.millijoules += 1500
    assert counter.stop() == (1.5 if counts else None)


def test_no_energy_without_a_gpu_or_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyCounter(CPU).total() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyCounter(CUDA).total() is None
    counter = EnergyCounter(CUDA)
    counter.start()
    assert counter.stop() is None
