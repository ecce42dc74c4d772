"""The section on proximity: heat maps of source x target, gain against distance, tables of every measure."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from trainer.document.blocks import Block, BulletList, Entry, Heading, Paragraph, Table, Title
from trainer.domain_distance.proximity_file import DISTANCES, FITS, Distances, Pair
from trainer.reporting.names import target_title
from trainer.reporting.proximity_figures import gains_by_distance, heat_maps
from trainer.reporting.proximity_words import MEASURE_TITLE, title_of, value_text

_ABOUT = (
    "How far the images of each target lie from those of each source: larger is farther. Nothing was trained for it "
    "but the classifier that tells both sets apart, whose chance is 50%. Distances compare with each other in one heat "
    "map or table, not between features of different networks."
)
_FEATURES = {"common": "the features of one network, {}", "random": "the features of {} weights, a control"}
_OWN = (
    "Distances in each source's own features. Rows of different sources do not compare: each has its own features, and "
    "these their own scale. In brackets a 95% interval."
)
_PIXELS = "Distances in pixels, a control: of mean spectra, and of grey levels (0 to 255)."
_LABELS = (
    "How well frozen features fit the labels of a target; higher is better. LEEP depends on the classes of the source, "
    "LogME and H-score on the number of features; the accuracies compare everywhere (of findings: AUC). scratch: "
    "random weights."
)


def proximity_section(found: Distances, folder: Path, runs: pd.DataFrame | None = None) -> list[Block]:
    """The section, whose figures are drawn into `folder`. runs: fine-tunings with titles, for gain against distance."""
    blocks: list[Block] = [Title("Proximity"), Paragraph(_ABOUT), *heat_maps(found, folder)]
    if runs is not None:
        blocks += gains_by_distance(found, runs, folder)
    captions = {kind: f"Distances in {_words(found, kind)}; in brackets a 95% interval." for kind in _FEATURES}
    for kind, caption in {**captions, "pixels": _PIXELS, "own": _OWN}.items():
        blocks += _table(f"proximity_{kind}", caption, _of(found, kind, DISTANCES), DISTANCES)
    labelled = [pair for kind in ("common", "own", "random") for pair in _of(found, kind, FITS)]
    blocks += _table("proximity_labels", _LABELS, labelled, FITS)
    return [*blocks, BulletList(tuple(f"{note}." for note in found.notes))] if found.notes else blocks


def _words(found: Distances, kind: str) -> str:
    return _FEATURES[kind].format(found.network(kind))


def _of(found: Distances, kind: str, measures: Sequence[str]) -> list[Pair]:
    return [pair for pair in found.pairs if pair.features == kind and pair.measure in measures]


def _table(name: str, caption: str, pairs: Sequence[Pair], measures: Sequence[str]) -> list[Block]:
    """A row for each target and source, a column for each measure; nothing without any."""
    if not pairs:
        return []
    shown = [measure for measure in measures if any(pair.measure == measure for pair in pairs)]
    targets = list(dict.fromkeys(pair.target for pair in pairs))
    rows: dict[tuple[int, str], dict[str, Pair]] = {}
    for pair in pairs:
        # The network of the common features may be that of a source, which then has the same values twice.
        rows.setdefault((targets.index(pair.target), pair.source), {})[pair.measure] = pair
    lines = tuple(
        (
            f"{target_title(targets[target])}, {title_of(source)}",
            tuple(Entry(words=value_text(values.get(measure))) for measure in shown),
        )
        for (target, source), values in sorted(rows.items(), key=lambda row: row[0][0])
    )
    columns = tuple(Heading("", MEASURE_TITLE[measure]) for measure in shown)
    return [Table(name, caption, "target, source", columns, lines)]
