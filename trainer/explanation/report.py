"""Maps and what was measured of them, as blocks of a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.common.figure_text import drawable, text_style
from data_pipelines.common.printable import printable, wrapped
from trainer.document.blocks import Block, BulletList, Entry, Heading, Paragraph, Picture, Table
from trainer.document.figure_style import STYLE, plt, save
from trainer.explanation.checks import MARGIN, Checks, Measured, Pointing
from trainer.explanation.faithfulness import BLUR
from trainer.explanation.maps import IG_STEPS, METHODS, SMOOTHING, TITLES, Floats, Method
from trainer.explanation.overlay import Bytes, legend, overlay, peak

_BESIDE = 2  # pictures in a line of the figure, each with its maps
_CAPTION_LINE, _CAPTION_LINES = 34, 2
LIMITS = (
    "A map shows, at best, what raised the score of one class in this network. It does not show where a disease is, "
    "what the network overlooked, nor that the answer is right: wrong answers have maps as convincing as right ones."
)


@dataclass(frozen=True, eq=False)
class Explained:
    """A picture, grey uint8 [H, W], with maps for one of its classes, float32 [H, W]. texts: what it is, and the
    numbers."""

    texts: Sequence[str]
    picture: Bytes
    placed: Mapping[Method, Floats]


def intro(checks: Checks) -> list[Block]:
    """What maps are, what was measured of these, and what speaks against them; to stand before the first map."""
    page: list[Block] = [Paragraph(LIMITS)]
    page += [Paragraph(fault, warning=True) for fault in checks.faults()]
    for one in checks.measured:
        if not one.is_drawn:
            reason = "the last stage sees these pictures as one place, so that it tells none"
            page.append(Paragraph(f"There is no {TITLES[one.method]}: {reason}.", warning=True))
    if checks.no_places:
        page.append(
            Paragraph(f"Not checked for this model: whether maps lie in the findings, because {checks.no_places}.")
        )
    else:
        page.append(_places(checks))
    return [*page, _faithfulness(checks)]


def _places(checks: Checks) -> Table:
    columns, rows = [], []
    drawn = [one for one in checks.measured if one.is_drawn]
    for one in drawn:
        title = TITLES[one.method]
        columns += [
            Heading(title, f"{title}: this map", "this map"),
            Heading(title, f"{title}: other's", "another's"),
        ]
    for number, place in enumerate(drawn[0].places if drawn else []):
        entries = [Entry(words=str(place.maps)), Entry(words=_share(place.area))]
        for one in drawn:
            found = one.places[number]
            entries += [Entry(words=_with_interval(found), best=found.beats_chance()), Entry(words=_share(found.other))]
        rows.append((place.finding, tuple(entries)))
    return Table(
        "places",
        f"Share of maps whose maximum lies in the finding, or within 1/{1 / MARGIN:.0f} of the side of it: on "
        f"{checks.pictures}, for findings that are there and were found.",
        "finding",
        (Heading("", "maps", "maps"), Heading("by chance", "area of the finding", "area"), *columns),
        tuple(rows),
        (
            "In brackets: Wilson's 95% interval. Bold: it lies above chance, which is the finding's share of the "
            "picture, margin included, and how often the maximum of another picture's map would lie in it.",
        ),
    )


def _faithfulness(checks: Checks) -> Table:
    levels = list(checks.measured[0].correlation)
    columns = (
        Heading("deletion, smaller is better", "deletion: this map", "this map"),
        Heading("deletion, smaller is better", "deletion: another's", "another's"),
        Heading("insertion, larger is better", "insertion: this map", "this map"),
        Heading("insertion, larger is better", "insertion: another's", "another's"),
        *(Heading("correlation after shuffling, smaller is better", f"shuffled: {name}", name) for name in levels),
        Heading("correlation after shuffling, smaller is better", "of two pictures", "of two pictures"),
    )
    return Table(
        "faithfulness",
        f"Whether the network goes by the maps, on {checks.tested} maps of {checks.pictures}.",
        "method",
        columns,
        tuple((TITLES[one.method], _numbers(one)) for one in checks.measured if one.is_drawn),
        (
            "Deletion and insertion: mean probability while the pixels with the largest values are blurred, or "
            "restored, first; another's: with the map of another picture of that class. Correlation: of ranks, with "
            "the map of the same picture once these weights are shuffled.",
        ),
    )


def _numbers(one: Measured) -> tuple[Entry, ...]:
    values = (one.deletion, one.other_deletion, one.insertion, one.other_insertion, *one.correlation.values())
    return tuple(Entry(words=_share(value, 3)) for value in (*values, one.other_correlation))


def _share(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _with_interval(place: Pointing) -> str:
    low, high = place.interval()
    return f"{place.inside / place.maps:.2f} [{low:.2f}, {high:.2f}]"


def gallery(shown: Sequence[Explained], folder: Path, name: str, caption: str) -> Picture:
    """Each picture beside its maps; pictures are drawn with the pixels that they have."""
    panels = 1 + len(METHODS)
    lines, columns = -(-len(shown) // _BESIDE), _BESIDE * panels
    texts = [text for one in shown for text in one.texts]
    with plt.rc_context(STYLE | text_style(texts)):
        figure, grid = plt.subplots(lines, columns, figsize=(8.8, 1.85 * lines), layout="constrained", squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for number, one in enumerate(shown):
            line, first = number // _BESIDE, number % _BESIDE * panels
            _draw(grid[line, first : first + panels], one)
        width = save(figure, folder, name)
    return Picture(name, caption, width)


def _draw(row: np.ndarray, one: Explained) -> None:
    row[0].imshow(one.picture, cmap="gray", vmin=0, vmax=255, interpolation="none")
    words = [wrapped(drawable(printable(text)), _CAPTION_LINE, _CAPTION_LINES) for text in one.texts]
    row[0].text(0, -0.05, "\n".join(words), transform=row[0].transAxes, va="top", fontsize=6.2)
    for axes, (method, placed) in zip(row[1:], one.placed.items(), strict=True):
        axes.set_title(TITLES[method], fontsize=6.5)
        if peak(placed) is None:  # a map of nothing would look like one that leaves the picture as it is
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", fontsize=6.5)
            continue
        axes.imshow(overlay(one.picture, placed), interpolation="none")


def scale(folder: Path) -> list[Block]:
    """The legend of all maps, and how they were made."""
    return [
        legend(folder),
        BulletList(
            (
                "Grad-CAM (arXiv:1610.02391) of the last stage: coarse, one value for 32 x 32 pixels that the network "
                "sees, drawn smoothly.",
                f"Integrated gradients (arXiv:1703.01365) from uniform grey in {IG_STEPS} steps, summed over colours, "
                f"smoothed by a Gaussian of 1/{1 / SMOOTHING:.0f} of the side.",
                "Both of the score that AUC is computed from; only what speaks for the class is drawn. The largest "
                "value of each map is 1, so that maps cannot be compared in strength.",
                f"Deletion and insertion: arXiv:1806.07421, blurred by 1/{1 / BLUR:.0f} of the side; shuffled weights: "
                "arXiv:1810.03292.",
            )
        ),
    ]
