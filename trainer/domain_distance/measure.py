"""Measure all sources against all targets, in the features of every network and in pixels."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import some_of
from data_pipelines.common.messages import logger
from data_pipelines.common.progress import Progress
from trainer.domain_distance.compared_sets import ComparedSet, apart, open_sources, open_targets
from trainer.domain_distance.labelled import Problem, fits, problems_of
from trainer.domain_distance.moments import Features, Moments, frechet_distance
from trainer.domain_distance.networks import FeatureReader, Network, open_network, random_network
from trainer.domain_distance.pixel_statistics import grey_level_distance, spectrum_distance
from trainer.domain_distance.proximity_file import Distances, Pair
from trainer.domain_distance.settings import RANDOM, Proximity
from trainer.domain_distance.two_samples import Value, classifier_accuracy, kernel_distance
from trainer.models.sources import SCRATCH


class _Sample:
    """Features of a set, with their moments once they are asked for."""

    def __init__(self, compared: ComparedSet, features: Features) -> None:
        self.compared, self.features = compared, features

    @property
    def is_short(self) -> bool:
        return bool(len(self.features) < self.features.shape[1])

    @cached_property
    def moments(self) -> Moments:
        return Moments.of(self.features)


Comparison = Callable[[_Sample, _Sample, int], dict[str, Value]]


def _in_features(source: _Sample, target: _Sample, seed: int) -> dict[str, Value]:
    return {
        "frechet": Value(frechet_distance(source.moments, target.moments)),
        "kernel": kernel_distance(source.features, target.features, seed),
        "classifier": Value(classifier_accuracy(source.features, target.features, seed)),
    }


def _in_pixels(source: _Sample, target: _Sample, _: int) -> dict[str, Value]:
    return {
        "spectrum": Value(spectrum_distance(source.features, target.features)),
        "grey-levels": Value(grey_level_distance(source.features, target.features)),
    }


class _Measurement:
    """What has been measured so far."""

    def __init__(self, settings: Proximity) -> None:
        self.settings, self.reader = settings, FeatureReader(settings)
        self.sources, self.targets = open_sources(settings), open_targets(settings)
        self.problems: dict[str, list[Problem]] = {}
        self.pairs: list[Pair] = []
        self.networks: list[dict[str, str]] = []
        self.notes: list[str] = []
        self.short: dict[int, dict[str, int]] = {}  # sets with fewer images than features, by the number of features

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def compare(self, kind: str, sources: Sequence[_Sample], targets: Sequence[_Sample], by: Comparison) -> None:
        """Every source with every target."""
        with Progress(f"distances, {kind}", len(sources) * len(targets), "pair", leave=False) as progress:
            for source in sources:
                for target in targets:
                    values = by(*self._apart(source, target), self.settings.seed)
                    self._add(source.compared.name, target.compared.name, kind, values)
                    progress.update()

    def in_network(self, network: Network, sources: Sequence[ComparedSet]) -> None:
        """Distances in the features of a network, and how well these fit the labels of the targets."""
        self.networks.append({"name": network.name, "fingerprint": network.fingerprint, "kind": network.kind})
        targets = [_Sample(each, self.reader.features(network, each)) for each in self.targets]
        samples = [_Sample(each, self.reader.features(network, each)) for each in sources]
        few = {each.compared.name: len(each.features) for each in (*samples, *targets) if each.is_short}
        self.short.setdefault(network.width, {}).update(few)
        self.compare(network.kind, samples, targets, _in_features)
        fitted = SCRATCH if network.kind == "random" else sources[0].name if network.kind == "own" else network.name
        head = network.head if network.kind == "own" else None
        with Progress(f"measures with labels, {network.kind}", len(targets), "target", leave=False) as progress:
            for target in targets:
                name = target.compared.name
                values = fits(target.features, self.problems[name], head, self.settings.seed)
                self._add(fitted, name, network.kind, {measure: Value(each) for measure, each in values.items()})
                progress.update()

    def _add(self, source: str, target: str, kind: str, values: dict[str, Value]) -> None:
        self.pairs += [Pair(source, target, kind, measure, *value) for measure, value in values.items()]

    def _apart(self, source: _Sample, target: _Sample) -> tuple[_Sample, _Sample]:
        rows, columns = apart(source.compared.index, target.compared.index)
        shared = len(source.features) - len(rows) + len(target.features) - len(columns)
        if not shared:
            return source, target
        names = source.compared.name, target.compared.name
        self.note(f"{names[0]} and {names[1]} share {shared:,} images: each counts as of one of them only")
        return tuple(  # type: ignore[return-value]
            _Sample(each.compared, each.features[kept]) for each, kept in ((source, rows), (target, columns))
        )


def measure(settings: Proximity) -> Distances:
    """Every measure of every pair. Raises InputError for sources, targets or a network that cannot be compared."""
    found = _Measurement(settings)
    common = None if settings.network == RANDOM else open_network(settings.network, "common", settings.image_size)
    control = None
    if common is None or settings.control:
        model = settings.model or (common.model_name if common else _model_of_sources(found.sources))
        control = random_network(model, settings.seed, common.views if common else None, settings.image_size)
    _look_at_sets(found)
    views = (common or control).views  # type: ignore[union-attr]
    sources, targets = (
        [_Sample(each, found.reader.pixels(views, each)) for each in sets] for sets in (found.sources, found.targets)
    )
    found.compare("pixels", sources, targets, _in_pixels)
    for network in filter(None, (common, control)):
        found.in_network(network, found.sources)
    for source in found.sources if settings.own else ():
        if source.weights is None:
            found.note(f"{source.name} is a set of images without weights: it has no features of its own")
            continue
        network = open_network(source.weights, "own")
        if network.head is None:
            found.note(f"{source.name} has no head with one class per image, so there is no LEEP of it")
        found.in_network(network, [source])
    for width, few in found.short.items():
        if few:
            named = some_of([f"{name} ({count:,})" for name, count in few.items()])
            found.note(
                f"fewer images than the {width:,} features: {named}; their Fréchet distances use shrunk covariances"
            )
    return Distances(found.networks, _described(found.sources), _described(found.targets), found.pairs, found.notes)


def _model_of_sources(sources: Sequence[ComparedSet]) -> str:
    known = next((each.model for each in sources if each.model), None)
    if known is None:
        raise InputError("no source says what model the random weights are of; name one with --model, such as r50x1")
    return known


def _look_at_sets(found: _Measurement) -> None:
    """Note what the images and labels of the sets do not allow, and say what will be compared."""
    for each in (*found.sources, *found.targets):
        if each.whole > len(each.index):
            found.note(f"{len(each.index):,} of the {each.whole:,} training images of {each.name} were drawn")
    for target in found.targets:
        problems, left_out = problems_of(target.index)
        found.problems[target.name] = problems
        if not problems:
            found.note(f"{target.name} has no two classes with two images each: no measure with labels")
        elif left_out:
            words = "1 class or finding" if left_out == 1 else f"{left_out} classes or findings"
            found.note(f"{words} of {target.name} with fewer than two images left out of measures with labels")
    logger.info(
        f"proximity of {', '.join(each.name for each in found.targets)} to "
        f"{', '.join(each.name for each in found.sources)}"
    )


def _described(sets: Sequence[ComparedSet]) -> dict[str, dict[str, Any]]:
    return {each.name: {"images": len(each.index), "fingerprint": each.index.fingerprint} for each in sets}
