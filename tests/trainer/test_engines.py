"""Every engine on any number of ranks gives the weights of one process that sees the whole batch."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from run_ranks import run_ranks

from data_pipelines import torch_loader
from data_pipelines.order import Request
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.job import Job, make_job
from trainer.loop import train
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.tracking import Tracker

GLOBAL_BATCH_SIZE = 12
BASE_LR = 0.2


@dataclass(frozen=True)
class Case:
    """One training run of a few updates."""

    data: str
    micro_batches: int
    dtype: torch.dtype
    updates: int
    agc_clipping: float
    mixup_alpha: float = 0.0
    global_batch_size: int = GLOBAL_BATCH_SIZE

    def job(self, world_size: int, run_dir: Path) -> Job:
        """The job; val is taken away, because only the weights are looked at."""
        config = Config(
            global_batch_size=self.global_batch_size,
            precision="fp32",
            data=DataConfig(sets=(self.data,), image_size=32, resize=32, mixup_alpha=self.mixup_alpha),
            model=ModelConfig("r14x0.5"),
            optim=OptimConfig(base_lr=BASE_LR, rescale_lr=False, agc_clipping=self.agc_clipping),
            schedule=ScheduleConfig("cosine", epochs=None, steps=self.updates, warmup_steps=0),
            runtime=RuntimeConfig(
                device="cpu",
                loader="torch",
                threads=1,
                micro_batch_size=-(-self.global_batch_size // world_size // self.micro_batches),
            ),
        )
        return replace(make_job(config, run_dir), val=None)

    def model_and_optimizer(self, num_classes: int) -> tuple[BiTResNet, SGDAGC]:
        """One narrow stage, the same weights every time."""
        torch.manual_seed(0)
        model = BiTResNet((1,), 0.5, num_classes, "fan_in").to(self.dtype)
        groups = param_groups(model, num_classes, self.agc_clipping)
        return model, SGDAGC(groups, lr=0.0, momentum=0.9, weight_decay=1e-4)


def weights_of(model: torch.nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()]).numpy()


def train_cases(engine_name: str, cases: list[Case], run_dir: Path) -> list[tuple[np.ndarray, float, int]]:
    """Each case by the shipped loop on this rank: weights, clipped share, and labels this rank saw in step 0."""
    engine = ENGINES[engine_name](RuntimeConfig(device="cpu", threads=1), "fp32")
    results = []
    for i, case in enumerate(cases):
        job = case.job(engine.world_size, run_dir / str(i))
        model, optimizer = case.model_and_optimizer(job.train.num_classes)
        example = torch.zeros(2, 32, 32, job.train.channels, dtype=torch.uint8).permute(0, 3, 1, 2)
        engine.prepare(model, optimizer, example)
        train(job, engine, Tracker(job.run_dir, 1, 0, case.updates, "test"), 0, None)
        mine = job.order.step(0, engine.rank, engine.world_size).samples
        labels = int(np.isfinite(job.train.labels[mine].astype(float)).sum())
        results.append((weights_of(model), float(optimizer.clipped_share), labels))
    engine.close()
    return results


def reference(case: Case, run_dir: Path) -> np.ndarray:
    """The same updates written out plainly: one process, the whole batch, the mean over its labels."""
    job = case.job(1, run_dir)
    model, optimizer = case.model_and_optimizer(job.train.num_classes)
    for step in range(case.updates):
        request: Request = job.order.step(step)
        (batch,) = torch_loader.batches(job.train, [request], job.augmentation, torch.device("cpu"), 1)
        images, labels = batch.images.to(case.dtype), batch.labels
        if batch.mixup is not None:
            own = batch.mixup.to(case.dtype)[:, None, None, None]
            swapped = images.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            # The shipped path mixes in fp32.
            images = torch.lerp(swapped.float(), images.float(), own.float()).to(case.dtype)
            swapped_labels = labels.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            labels = torch.lerp(swapped_labels, labels, batch.mixup[:, None])
        logits = model(images)
        if job.train.task == "single_label":
            loss = F.cross_entropy(logits, labels)
        else:
            known = ~labels.isnan()
            loss = F.binary_cross_entropy_with_logits(logits[known], labels[known].to(case.dtype))
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = job.schedule(step)
        optimizer.step()
        optimizer.zero_grad()
    return weights_of(model)


def make_cases(phantoms: Path) -> list[Case]:
    sets = {"fashion_mnist": 0.005, str(phantoms): 0.0012}  # clipping that acts on some units but not on all
    return [
        Case(data, micro_batches, dtype, updates, clipping)
        for data, clipping in sets.items()
        for micro_batches in (1, 2)
        for dtype, updates in ((torch.float32, 1), (torch.float64, 5))
    ] + [
        Case(str(phantoms), 2, torch.float64, 5, 0.0007, mixup_alpha=0.5, global_batch_size=24),
        Case("fashion_mnist", 1, torch.float64, 5, 0.006, global_batch_size=7),  # ranks cannot share this equally
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("engine_name", list(ENGINES))
def test_weights_equal_one_plain_process(engine_name: str, world_size: int, phantoms: Path, tmp_path: Path) -> None:
    cases = make_cases(phantoms)
    by_rank = run_ranks(world_size, train_cases, engine_name, cases, tmp_path / "ranks")
    torch.set_num_threads(1)
    for i, case in enumerate(cases):
        results = [rank[i] for rank in by_rank]
        expected = reference(case, tmp_path / "reference")
        start = weights_of(case.model_and_optimizer(case.job(1, tmp_path).train.num_classes)[0])
        for weights, clipped_share, _ in results:
            tolerance = 1e-6 if case.dtype == torch.float32 else 1e-10
            assert np.linalg.norm(weights - expected) <= tolerance * np.linalg.norm(expected), case
            # The update itself, which is a small part of the weights.
            update_tolerance = 1e-4 if case.dtype == torch.float32 else 1e-9
            assert np.linalg.norm(weights - expected) <= update_tolerance * np.linalg.norm(expected - start), case
            assert 0.3 <= clipped_share <= 0.7, (case, clipped_share)
            assert np.array_equal(weights, results[0][0])
    if world_size > 1:
        masked = [rank[cases.index(next(c for c in cases if c.data == str(phantoms)))][2] for rank in by_rank]
        assert len(set(masked)) > 1, "ranks must have unequal numbers of labels, or the masked loss is not tested"


def sum_and_warn(run_dir: Path) -> tuple[list[float], list[str]]:
    """What sum() gives on this rank, and the warnings of a training step in channels-last."""
    import warnings

    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    total = engine.sum(torch.tensor([1.0, engine.rank]))
    case = Case("fashion_mnist", 1, torch.float32, 2, 0.01)
    job = case.job(engine.world_size, run_dir)
    model, optimizer = case.model_and_optimizer(10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.prepare(model, optimizer, torch.zeros(2, 32, 32, 1, dtype=torch.uint8).permute(0, 3, 1, 2))
        train(job, engine, Tracker(job.run_dir, 1, 0, case.updates, "test"), 0, None)
    engine.close()
    return total.tolist(), [str(warning.message) for warning in caught]


def test_sum_over_ranks_and_no_stride_warnings(tmp_path: Path) -> None:
    for total, warnings in run_ranks(2, sum_and_warn, tmp_path):
        assert total == [2.0, 1.0]
        assert not [message for message in warnings if "strides" in message]
