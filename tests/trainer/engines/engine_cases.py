"""Training runs of a few updates, and what one plain process makes of each."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_pipelines.loading import torch_loader
from data_pipelines.loading.sampler import BatchRequest
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.training.job import Job, make_job

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
    micro_batch_size: int | None = None
    """In place of what `micro_batches` makes of a rank's share."""
    frozen_stages: int = 0
    heads: bool = False
    """The set twice, with a head for each."""

    def job(self, world_size: int, run_dir: Path) -> Job:
        """The job; val is taken away, because only the weights are looked at."""
        config = Config(
            global_batch_size=self.global_batch_size,
            precision="fp32",
            data=DataConfig(
                sets=(self.data,) * (1 + self.heads),
                join="heads" if self.heads else "intersection",
                image_size=32,
                resize=32,
                mixup_alpha=self.mixup_alpha,
            ),
            model=ModelConfig("r14x0.5"),
            optim=OptimConfig(base_lr=BASE_LR, rescale_lr=False, agc_clipping=self.agc_clipping),
            schedule=ScheduleConfig("cosine", epochs=None, steps=self.updates, warmup_steps=0),
            runtime=RuntimeConfig(
                device="cpu",
                loader="torch",
                threads=1,
                micro_batch_size=self.micro_batch_size
                or -(-self.global_batch_size // world_size // self.micro_batches),
            ),
        )
        return replace(make_job(config, run_dir), val=None)

    def model_and_optimizer(self, num_classes: int) -> tuple[BiTResNet, SGDAGC]:
        """One narrow stage behind those that are frozen, the same weights every time."""
        torch.manual_seed(0)
        model = BiTResNet((1,) * (self.frozen_stages + 1), 0.5, num_classes, "fan_in").to(self.dtype)
        model.freeze(self.frozen_stages)
        groups = param_groups(model, num_classes, self.agc_clipping)
        return model, SGDAGC(groups, lr=0.0, momentum=0.9, weight_decay=1e-4)


def make_cases(phantoms: Path) -> dict[str, Case]:
    """By name; the clippings act on some units but not on all."""
    sets = {"single": ("fashion_mnist", 0.005), "masked": (str(phantoms), 0.0012)}
    cases = {
        f"{name}-{micro_batches}-{'fp32' if dtype == torch.float32 else 'fp64'}": Case(
            data, micro_batches, dtype, updates, clipping
        )
        for name, (data, clipping) in sets.items()
        for micro_batches in (1, 2)
        for dtype, updates in ((torch.float32, 1), (torch.float64, 5))
    }
    mixed = Case(str(phantoms), 2, torch.float64, 5, 0.0007, mixup_alpha=0.5, global_batch_size=24)
    odd = Case("fashion_mnist", 1, torch.float64, 5, 0.006, global_batch_size=7)  # ranks cannot share this equally
    # Shares that make unequal numbers of micro-batches: 3 and 4 images on two ranks, 3, 3 and 4 on three, 3, 3 and 4
    # pairs on three.
    of_two = Case("fashion_mnist", 2, torch.float32, 3, 0.006, global_batch_size=7, micro_batch_size=3)
    of_three = Case("fashion_mnist", 2, torch.float32, 3, 0.006, global_batch_size=10, micro_batch_size=3)
    pairs = replace(mixed, global_batch_size=20, micro_batch_size=6)
    unequal = {"unequal-7-fp32": of_two, "unequal-10-fp32": of_three, "unequal-mixed-20-fp64": pairs}
    frozen = {"frozen-2-fp32": Case("fashion_mnist", 2, torch.float32, 3, 0.012, frozen_stages=1)}
    heads = {"heads-2-fp64": Case(str(phantoms), 2, torch.float64, 5, 0.0012, heads=True)}
    # From a checkpoint: momentum counts.
    resumed = Case("fashion_mnist", 2, torch.float32, 3, 0.005)
    return cases | {"mixed-2-fp64": mixed, "odd-1-fp64": odd} | unequal | frozen | heads | {"resumed-2-fp32": resumed}


RESUMED_AT = 2
CASES = tuple(make_cases(Path()))


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([tensors[name].detach().flatten().double() for name in sorted(tensors)]).numpy()


def reference(case: Case, folder: Path, save_at: int | None = None) -> dict[str, np.ndarray]:
    """The same updates written out plainly: one process, the whole batch, the mean over its labels, and a backward pass
    through everything."""
    job = case.job(1, folder)
    model, optimizer = case.model_and_optimizer(job.train.num_classes)
    model.freeze(0)
    start = flat(dict(model.named_parameters()))
    for step in range(case.updates):
        if step == save_at:
            state = {"model": dict(model.state_dict()), "momentum": momentum_of(model, optimizer), "loss_scaler": {}}
            checkpoint.save(folder / "reference.safetensors", state, {"step": step})
            start = flat(dict(model.named_parameters()))
        request: BatchRequest = job.order.request(step)
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
        if case.heads:
            loss = loss_of_heads(job, request, logits, labels)
        elif job.train.task == "single_label":
            loss = F.cross_entropy(logits, labels)
        else:
            known = ~labels.isnan()
            loss = F.binary_cross_entropy_with_logits(logits[known], labels[known].to(case.dtype))
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = job.schedule(step)
        optimizer.step()
        optimizer.zero_grad()
    weights = flat(dict(model.named_parameters()))
    return {"start": start, "weights": weights, "momentum": flat(momentum_of(model, optimizer))}


def loss_of_heads(job: Job, request: BatchRequest, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each head on the images of its own set, and the sum over all by the number of all labels."""
    count, total = job.train.num_classes // 2, 0
    losses = []
    for first_shard, columns in ((0, slice(None, count)), (len(job.train.shards) // 2, slice(count, None))):
        shards = job.train.shard[request.samples]
        own = (shards >= first_shard) & (shards < first_shard + len(job.train.shards) // 2)
        of_set, wanted = logits[own][:, columns], labels[own][:, columns].to(logits.dtype)
        known = ~wanted.isnan()
        losses.append(F.binary_cross_entropy_with_logits(of_set[known], wanted[known], reduction="sum"))
        total += int(known.sum())
    return sum(losses) / total


def momentum_of(model: BiTResNet, optimizer: SGDAGC) -> dict[str, torch.Tensor]:
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    return {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters() if p in trained}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
