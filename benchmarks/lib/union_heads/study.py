"""Trains on the three sets in each way to join them, and tests on each of them and on the fourth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib.union_heads.sets import DISPUTED, FOURTH, SHARED, SOURCES, write_set
from data_pipelines.shards.heads import heads_of
from trainer.config import Config, DataConfig, Mode, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.evaluation.statistics.predictions import Predictions, load_predictions
from trainer.metrics import all_metrics
from trainer.training.frozen_features import run_frozen
from trainer.training.launch_options import LaunchOptions
from trainer.training.run import run

JOINS = ("intersection", "union", "heads")
ALONE, SCRATCH = "one set", "random weights"
MODEL = "r14x0.5"


@dataclass(frozen=True)
class Sizes:
    """Of the study. set_images, fourth_images: drawn for each set. images: trained on, in all. steps: of `batch`. few:
    images of the fourth set that a linear probe is fitted to."""

    seeds: int = 5
    set_images: int = 1440
    fourth_images: int = 800
    images: int = 1080
    steps: int = 120
    batch: int = 32
    side: int = 32
    few: tuple[int, ...] = (40, 160)
    one_set: bool = False
    """Also train on as many images of the first set alone."""


class Study:
    """The sets and the engine of all runs."""

    def __init__(self, folder: Path, sizes: Sizes, threads: int) -> None:
        self._folder, self._sizes = folder, sizes
        self._runtime = RuntimeConfig(device="cpu", threads=threads, log_every=1000, save_every=100_000, loader="torch")
        self._engine: Engine = ENGINES["ddp"](self._runtime, "fp32")
        self._sources = [
            write_set(labelling, folder / "sets" / labelling.name, sizes.set_images, sizes.side, seed=1 + number)
            for number, labelling in enumerate(SOURCES)
        ]
        self._fourth = write_set(FOURTH, folder / "sets" / FOURTH.name, sizes.fourth_images, sizes.side, seed=9)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One for each seed and way to train, as they are finished: {"seed", "trained", "train_images", "sources": AUC
        of each set by finding, "fourth": mean AUC by the number of images}."""
        for seed in range(self._sizes.seeds):
            yield {"seed": seed, "trained": SCRATCH, "fourth": self._on_fourth(seed, SCRATCH, None)}
            for join in JOINS:
                yield {"seed": seed, "trained": join} | self._trained(seed, join)
        for seed in range(self._sizes.seeds if self._sizes.one_set else 0):
            yield {"seed": seed, "trained": ALONE} | self._trained(seed, ALONE)

    def _trained(self, seed: int, trained: str) -> dict[str, Any]:
        folder = self._folder / "runs" / f"{trained.replace(' ', '_')}_{seed}"
        sets = self._sources[:1] if trained == ALONE else self._sources
        config = self._config(
            seed,
            DataConfig(
                sets=tuple(map(str, sets)),
                join="intersection" if trained == ALONE else trained,  # type: ignore[arg-type]
                images=self._sizes.images,
                images_per_set="even",
                image_size=self._sizes.side,
                resize=self._sizes.side,
                train_view="squash",
                eval_view="squash",
            ),
        )
        result = run(config, LaunchOptions(folder), self._engine, {"kind": "pretrain"})
        return {
            "train_images": result["train_images"],
            "seconds": round(result["seconds"], 1),
            "sources": areas(load_predictions(folder, "test"), trained),
            "fourth": self._on_fourth(seed, trained, folder),
        }

    def _config(self, seed: int, data: DataConfig, mode: Mode = "finetune", pretrained: Path | None = None) -> Config:
        sizes = self._sizes
        return Config(
            name="union_heads",
            seed=seed,
            global_batch_size=sizes.batch,
            precision="fp32",
            mode=mode,
            data=data,
            model=ModelConfig(MODEL, pretrained=None if pretrained is None else str(pretrained)),
            optim=OptimConfig(base_lr=0.4),
            schedule=ScheduleConfig("cosine", epochs=None, steps=sizes.steps, warmup_steps=sizes.steps // 10),
            runtime=self._runtime,
        )

    def _on_fourth(self, seed: int, trained: str, pretrained: Path | None) -> dict[str, float]:
        """Mean AUC of a linear probe on a few images of the fourth set, by their number."""
        found = {}
        for few in self._sizes.few:
            data = DataConfig(
                sets=(str(self._fourth),),
                images=few,
                image_size=self._sizes.side,
                resize=self._sizes.side,
                eval_view="squash",
            )
            folder = self._folder / "probes" / f"{trained.replace(' ', '_')}_{few}_{seed}"
            config = self._config(seed, data, "probe", pretrained)
            result = run_frozen(config, LaunchOptions(folder), self._engine, {"kind": "transfer", "mode": "probe"})
            found[str(few)] = result["test"]["auc"]
        return found


def areas(predictions: Predictions, trained: str) -> dict[str, dict[str, float]]:
    """The AUC on the test images of each set, by the names of its findings; of those that the run can tell."""
    found: dict[str, dict[str, float]] = {}
    of_image = np.array(predictions.facts.get("set", [SOURCES[0].name] * len(predictions)))
    if trained == "heads":
        for head in heads_of({labelling.name: tuple(labelling.findings) for labelling in SOURCES}):
            found[head.name] = _areas(predictions.of_head(head), head.classes)
        return found
    for labelling in SOURCES:
        of_set = predictions.take(np.flatnonzero(of_image == labelling.name))
        if len(of_set):
            found[labelling.name] = _areas(of_set, tuple(labelling.findings))
    return found


def _areas(predictions: Predictions, findings: tuple[str, ...]) -> dict[str, float]:
    logits, labels = (torch.from_numpy(np.array(values)) for values in (predictions.logits, predictions.labels))
    metrics = all_metrics(logits, labels, predictions.classes)
    return {name: metrics[f"auc/{name}"] for name in findings if f"auc/{name}" in metrics}


def measures(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a row in points: on the findings that all sets label alike, on all that each set labels, and on
    the one that they label in their own ways, means over the sets; and on the fourth."""
    found = {f"fourth, {few} images": 100 * value for few, value in row["fourth"].items()}
    if row["trained"] not in JOINS:
        return found
    sources = row["sources"]
    found["alike"] = 100 * float(np.mean([sources[name][shared] for name in sources for shared in SHARED]))
    if row["trained"] != "intersection":
        found["own"] = 100 * float(np.mean([value for of_set in sources.values() for value in of_set.values()]))
        for name, disputed in DISPUTED.items():
            found[f"{disputed} of {name}"] = 100 * sources[name][disputed]
    return found
