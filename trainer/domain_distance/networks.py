"""The networks whose features sets are compared in, and these features."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.hashes import digest_of
from data_pipelines.common.progress import Progress
from data_pipelines.loading import torch_loader
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.views import Augmentation, PolicyName
from trainer import checkpoint
from trainer.config import RuntimeConfig
from trainer.domain_distance.compared_sets import ComparedSet
from trainer.domain_distance.feature_cache import cached
from trainer.domain_distance.moments import Features
from trainer.domain_distance.pixel_statistics import pixel_statistics
from trainer.domain_distance.settings import Proximity
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.evaluation.whole_index import outputs_of
from trainer.models.bit import BiTResNet, build_model
from trainer.models.layouts import HEAD
from trainer.models.sources import name_of
from trainer.models.weights import Weights, load_weights
from trainer.normalisation import BIT_MEAN, BIT_STD

Kind = Literal["common", "own", "random", "pixels"]
_FORMAT = "features 1"
_IMAGE_SIZE = 224  # where nothing says it


@dataclass(frozen=True, eq=False)
class Network:
    """model: without its head, which is called `model_name` in `MODELS`. fingerprint: of its weights. views: how images
    are cut. head: weight [Z, D] and bias [Z] of a classifier with one class per image, where it has one."""

    name: str
    kind: Kind
    fingerprint: str
    model_name: str
    model: BiTResNet
    views: Augmentation
    head: tuple[Features, Features] | None = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.model.norm.num_channels)


def open_network(source: str, kind: Kind, image_size: int | None = None) -> Network:
    """The network of some weights. image_size: other than the one they were trained at. Raises InputError for what are
    no weights."""
    weights = load_weights(source)
    weights.require_normalisation("correct them in that file")
    model = build_model(weights.model_name, 1, mean=weights.mean or BIT_MEAN, std=weights.std or BIT_STD)
    model.load_state_dict({name: each for name, each in weights.tensors.items() if name not in HEAD}, strict=False)
    about = (name_of(source), kind, weights.digest, weights.model_name)
    return Network(*about, _headless(model), _views_of(weights, image_size), _head_of(weights))


def random_network(model_name: str, seed: int, views: Augmentation | None, image_size: int | None = None) -> Network:
    """Random weights as a run from scratch begins with. views: those of the network that it is a control of."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _headless(build_model(model_name, 1))
    size = image_size or _IMAGE_SIZE
    fingerprint = checkpoint.fingerprint(model.state_dict())
    name = f"random {model_name}"
    return Network(
        name, "random", fingerprint, model_name, model, views or Augmentation("squash", size, size, flip=False)
    )


def _headless(model: BiTResNet) -> BiTResNet:
    model.head = nn.Identity()  # type: ignore[assignment]
    return model


def _views_of(weights: Weights, image_size: int | None) -> Augmentation:
    policy: PolicyName = "squash"
    if weights.eval_view in get_args(PolicyName):
        policy = weights.eval_view  # type: ignore[assignment]
    trained_at = weights.image_size or _IMAGE_SIZE
    size = image_size or trained_at
    resize = max(size, round((weights.resize or trained_at) * size / trained_at))
    return Augmentation(policy, size, resize, flip=False)


def _head_of(weights: Weights) -> tuple[Features, Features] | None:
    """None without a head, and for one of findings, which do not exclude each other."""
    if HEAD[0] not in weights.tensors:
        return None
    try:
        task = checkpoint.describe(weights.path).get("task")
    except InputError:  # of another program
        task = None
    if task == "multi_label":
        return None
    return weights.tensors[HEAD[0]].numpy(), weights.tensors[HEAD[1]].numpy()


class FeatureReader:
    """Features of sets, computed with evaluation views and no augmentation, or read where they were kept."""

    def __init__(self, settings: Proximity) -> None:
        self._settings = settings
        self._runtime = RuntimeConfig(
            device=settings.device, threads=settings.threads, eval_batch_size=settings.eval_batch_size
        )
        self._prepared: tuple[Network, Engine] | None = None

    def features(self, network: Network, each: ComparedSet) -> Features:
        """float32 [N, D] of a set. Raises RunError where they are not finite."""
        about = (network.fingerprint, self._settings.precision)
        return self._kept(lambda: self._computed(network, each), each, network.views, *about)

    def pixels(self, views: Augmentation, each: ComparedSet) -> Features:
        """Statistics of the pixels of a set, as such views show them; see `pixel_statistics`."""
        return self._kept(lambda: self._pixels(views, each), each, views, "pixels")

    def _kept(self, compute: Callable[[], Features], each: ComparedSet, views: Augmentation, *about: str) -> Features:
        key = digest_of(_FORMAT, *about, each.index.fingerprint, each.index.channels, asdict(views))
        return cached(key, compute) if self._settings.cache else compute()

    def _computed(self, network: Network, each: ComparedSet) -> Features:
        engine = self._engine_of(network)
        _, loader = pick_loader(self._runtime.loader, engine.device.type == "cuda")
        label = f"features of {each.name} by {network.name}"
        outputs = outputs_of(each.index, engine, loader, network.views, self._runtime, network.width, label).cpu()
        if not outputs.isfinite().all():
            raise RunError(f"features of {each.name} by {network.name} are not finite; try --precision fp32")
        return np.ascontiguousarray(outputs.numpy())

    def _engine_of(self, network: Network) -> Engine:
        if self._prepared is None or self._prepared[0] is not network:
            engine = ENGINES["ddp"](self._runtime, self._settings.precision)
            blank = torch.zeros(1, network.views.size, network.views.size, 3, dtype=torch.uint8)
            engine.prepare(network.model, None, blank.permute(0, 3, 1, 2))
            self._prepared = network, engine
        return self._prepared[1]

    def _pixels(self, views: Augmentation, each: ComparedSet) -> Features:
        requests = evaluation_order(len(each.index), 0, 1, self._settings.eval_batch_size)
        threads = self._settings.threads or num_usable_cpus()
        parts = []
        with Progress(f"pixels of {each.name}", len(each.index), "image", leave=False) as progress:
            for batch in torch_loader.batches(each.index, requests, views, torch.device("cpu"), threads):
                parts.append(pixel_statistics(batch.images.permute(0, 2, 3, 1).numpy()))
                progress.update(len(batch.samples))
        return np.concatenate(parts)
