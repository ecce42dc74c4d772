"""What was measured of maps: whether they lie in findings of known place, and whether the network goes by them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainer.explanation.faithfulness import areas, correlations, mean_correlation, others
from trainer.explanation.maps import METHODS, TITLES, Floats, Method, Scored
from trainer.explanation.overlay import peak

Bools = npt.NDArray[np.bool_]

MOST_TESTED = 16
"""Maps whose pixels are taken away, and that are compared with those of shuffled weights: evenly spaced ones."""
ALIKE = 0.5
"""Correlation with the maps of random weights from which on a method fails."""
MARGIN = 1 / 32
"""Of the side: a maximum so near to a finding counts as in it, by about as much as in arXiv:1608.00507."""


@dataclass(frozen=True)
class Pointing:
    """The maps of a finding. inside: those whose maximum lies in it. By chance: area, mean share of the picture that it
    takes, margin included; other, share of maps of another picture whose maximum would lie in it, NaN if none."""

    finding: str
    maps: int
    inside: int
    area: float
    other: float

    def interval(self) -> tuple[float, float]:
        """Wilson's, of the share inside, 95%."""
        from scipy.stats import binomtest

        limits = binomtest(self.inside, self.maps).proportion_ci(method="wilson")
        return float(limits.low), float(limits.high)

    def beats_chance(self) -> bool:
        """Whether the interval lies above both."""
        return self.interval()[0] > max(self.area, 0.0 if np.isnan(self.other) else self.other)


@dataclass(frozen=True)
class Measured:
    """What was measured of a method. deletion, insertion: areas, and `other_` those with the map of another picture.
    correlation: with the maps after shuffling, by level; other_correlation: with those of other pictures. NaN where it
    draws no maps, or there is no other picture. places: by finding, then over all."""

    method: Method
    deletion: float
    other_deletion: float
    insertion: float
    other_insertion: float
    correlation: dict[str, float]
    other_correlation: float
    places: list[Pointing] = field(default_factory=list)

    @property
    def is_drawn(self) -> bool:
        """Whether the method has maps for this network."""
        return not np.isnan(self.deletion)

    def faults(self) -> list[str]:
        """What speaks against its maps, a sentence each."""
        name, found = TITLES[self.method], []
        if not self.is_drawn:
            return []
        if missed := [one.finding for one in self.places[:-1] if not one.beats_chance()]:
            found.append(f"{name}: not shown to lie in these more often than by chance: {', '.join(missed)}.")
        if self.deletion >= self.other_deletion or self.insertion <= self.other_insertion:  # neither, without another
            found.append(
                f"{name}: taking its pixels away, or putting them in, changes the answer no more than with the map of "
                "another picture."
            )
        if max(self.correlation.values()) > ALIKE:
            worst = max(self.correlation, key=lambda level: self.correlation[level])
            found.append(f"{name}: hardly changed by random weights ({worst}); it shows the picture, not the network.")
        return found


@dataclass(frozen=True)
class Checks:
    """pictures: on which, in words. maps: their number for each method. no_places: why nothing is known of places; ""
    where it is. tested: maps of `deletion` to `correlation`."""

    pictures: str
    maps: int
    tested: int
    no_places: str
    measured: list[Measured]

    def faults(self) -> list[str]:
        """What speaks against the maps, a sentence each."""
        return [fault for one in self.measured for fault in one.faults()]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; what has no value is null."""
        content = asdict(self)
        for one in content["measured"]:
            one["correlation"] = {level: _number(value) for level, value in one["correlation"].items()}
            one["places"] = [{name: _number(value) for name, value in place.items()} for place in one["places"]]
        content["measured"] = [{name: _number(value) for name, value in one.items()} for one in content["measured"]]
        return content | {"faults": self.faults()}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def check(
    scored: Scored,
    images: Tensor,
    classes: Tensor,
    maps: Mapping[Method, Floats],
    pictures: str,
    no_places: str,
    pointing: Mapping[Method, list[Pointing]] | None = None,
) -> Checks:
    """Measure maps, float32 [N, S, S] by method, of N > 0 images, uint8 [N, 1 or 3, S, S], and classes, int64 [N]."""
    rows = np.unique(np.linspace(0, len(images) - 1, MOST_TESTED).round().astype(int))
    some, own = images[rows], classes[rows]
    few = {method: maps[method][rows] for method in METHODS}
    changed = correlations(scored, some, own, few)
    partner = others(own.tolist())
    measured = []
    for method in METHODS:
        of_areas = partial(_areas, scored, some, own)
        deletion, insertion = of_areas(few[method])
        swapped = None if partner is None else few[method][partner]
        other_deletion, other_insertion = of_areas(swapped)
        alike = float("nan") if swapped is None else mean_correlation(few[method], swapped)
        measured.append(
            Measured(
                method, deletion, other_deletion, insertion, other_insertion, changed[method], alike,
                list((pointing or {}).get(method, ())),
            )
        )  # fmt: skip
    return Checks(pictures, len(images), len(rows), no_places, measured)


def _areas(scored: Scored, images: Tensor, classes: Tensor, maps: Floats | None) -> tuple[float, float]:
    if maps is None or np.isnan(maps).any():
        return float("nan"), float("nan")
    deletion, insertion = areas(scored, images, classes, maps)
    return float(deletion.mean()), float(insertion.mean())


def _with_margin(place: Bools) -> Bools:
    from scipy.ndimage import distance_transform_edt

    near: Bools = distance_transform_edt(~place) <= MARGIN * place.shape[0]
    return near


def point(placed: Sequence[Floats], places: Sequence[Bools], names: Sequence[str]) -> list[Pointing]:
    """How often the maximum of each map, [H, W], lies in its finding, bool [H, W], or within `MARGIN` of it, by the
    finding's name; then over all. Maps without a maximum lie in none. The pictures have one size.

    Source: the pointing game of Zhang et al., arXiv:1608.00507, sec. 4.1.
    """
    places = [_with_margin(place) for place in places]
    partner = others([sorted(set(names)).index(name) for name in names])
    peaks = [peak(one) for one in placed]

    def lies(which: int, where: int) -> bool:
        found = peaks[which]
        return found is not None and bool(places[where][found.y, found.x])

    inside = np.array([lies(row, row) for row in range(len(names))])
    swapped = np.array([np.nan if partner is None else lies(int(partner[row]), row) for row in range(len(names))])
    area = np.array([place.mean() for place in places])

    def of(finding: str, rows: npt.NDArray[np.int64]) -> Pointing:
        return Pointing(
            finding, len(rows), int(inside[rows].sum()), float(area[rows].mean()), float(swapped[rows].mean())
        )

    rows_of = {name: np.flatnonzero(np.asarray(names) == name) for name in dict.fromkeys(names)}
    return [*(of(name, rows) for name, rows in rows_of.items()), of("all", np.arange(len(names)))]
