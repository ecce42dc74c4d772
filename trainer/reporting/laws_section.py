"""The section *Laws* of a report: how errors fall with images, what a source is worth in images, and whether proximity
predicts the gain on a target that was not seen."""

from pathlib import Path

import pandas as pd

from data_pipelines.common.file_names import own_file_name_of
from trainer.document.blocks import Block, Paragraph, Title
from trainer.document.text import Text
from trainer.domain_distance.proximity_file import Distances
from trainer.reporting import laws_figures, laws_tables
from trainer.reporting.analysis.effective_data import EffectiveImages, baseline_of, effective_images
from trainer.reporting.analysis.learning_curve import LearningCurve, SeedResamples, curve_of
from trainer.reporting.analysis.power_law import PowerLaw, fit_curve
from trainer.reporting.figures import Styles, styles_of
from trainer.reporting.laws_data import baseline_title, measured, panels_of, source_sizes
from trainer.reporting.laws_joint import joint_blocks
from trainer.reporting.laws_tables import Fit
from trainer.reporting.names import METRIC_TITLE, shots_order, shots_title, target_title
from trainer.reporting.rows import PUBLISHED
from trainer.reporting.tables import sources_of

_ABOUT = (
    "For each source the law error(n) = e∞ + a n^-α is fitted to its mean errors by weighted least squares. n is the "
    "number of training images, e∞ the error that no number of images gets below, and α how fast the rest shrinks. "
    "Intervals and bands are 95%, over resampled seeds. Where the data do not tell the parameters, the report says why "
    "instead, and nothing is extrapolated."
)
_FEWEST_SIZES = 3
_SIZES_ABOUT = (
    "The same law, with n the number of images that a source was pre-trained on, for sources of one kind of images. "
    "Such sources also differ in where their images come from, which the law takes for chance."
)
_NO_SIZES = (
    "No law over the size of the source is fitted: that takes sources of one kind of images in at least "
    f"{_FEWEST_SIZES} sizes on one target. The sizes come from pre-trainings among the results, or from the names of "
    "published sets."
)


def laws_section(
    runs: pd.DataFrame, pretrained: pd.DataFrame, folder: Path, distances: Distances | None
) -> list[Block]:
    """The section, whose figures are drawn into `folder`. runs: the fine-tunings with titles; pretrained: the
    pre-trainings among the results."""
    known = measured(runs)
    blocks: list[Block] = [Title("Laws")]
    if known.empty:
        return [*blocks, Paragraph("No law is fitted: of no fine-tuning is the number of training images known.")]
    blocks.append(Paragraph(_ABOUT))
    blocks += [Paragraph(remark) for remark in _remarks(runs, known)]
    styles = styles_of(sources_of(runs))
    seeds, baseline = SeedResamples(known["seed"]), baseline_title(known)
    for target in dict.fromkeys(panel.key.target for panel in panels_of(known)):
        blocks += _target_blocks(known[known["target"] == target], baseline, seeds, folder, styles)
    blocks += _size_blocks(known, pretrained, seeds, folder)
    return [*blocks, *joint_blocks(known, baseline, folder, distances)]


def _remarks(runs: pd.DataFrame, known: pd.DataFrame) -> list[Text]:
    remarks: list[Text] = []
    left_out = int(((runs["overlap"] == "") & runs["test"].notna()).sum()) - len(known)
    if left_out:
        remarks.append(f"Left out of this section: {left_out} runs whose number of training images is not known.")
    if ((known["origin"] == PUBLISHED) & known["train_images"].isna()).any():
        remarks.append(
            "The authors' files do not say the number of images: it is shots times classes, and at full shot the size "
            "of the published training split (of COVIDx about 16,000)."
        )
    if len(list(panels_of(known))) > known["target"].nunique():
        remarks.append("Models, protocols, modes and settings are fitted apart.")
    return remarks


def _curves(runs: pd.DataFrame) -> dict[str, LearningCurve]:
    """The curve of each source of a panel, by its title."""
    return {source.title: curve_of(runs[runs["title"] == source.title]) for source in sources_of(runs)}


def _target_blocks(
    runs: pd.DataFrame, baseline: str, seeds: SeedResamples, folder: Path, styles: Styles
) -> list[Block]:
    """The laws over training images of one target, and the effective data of its sources."""
    target, mixed = str(runs["target"].iloc[0]), runs["origin"].nunique() > 1
    order, fits, panels, worth = shots_order(runs["shots"]), [], {}, []
    for panel in panels_of(runs):
        mine = panel.of(runs)
        curves = _curves(mine)
        laws = {title: fit_curve(curve, seeds) for title, curve in curves.items()}
        panels[panel.title(mixed)] = [(title, styles[title], law) for title, law in laws.items()]
        fits += [Fit(f"{title}, {panel.title(mixed)}", law) for title, law in laws.items()]
        worth += [
            (f"{title}, {panel.title(mixed)}", found)
            for title, found in _effective(mine, curves, baseline, seeds).items()
        ]
    metric = METRIC_TITLE.get(runs["metric"].iloc[0], runs["metric"].iloc[0])
    caption = f"{target_title(target)}: error (100% minus {metric}) on test by training images"
    figure = laws_figures.law_figure(
        f"laws_{own_file_name_of(target)}",
        f"{caption}, mean ± standard deviation over seeds, with the fitted law and its 95% band. Dashed: extrapolated "
        "to ten times the images. Dotted: points joined, where no law is drawn.",
        panels,
        "training images",
        folder,
        [*runs["title"], target],
    )
    laws_told = laws_tables.law_blocks(
        f"laws_{target}", f"{caption}: the fitted law, with 95% intervals.", "source", fits
    )
    return [
        Title(target_title(target), 3),
        figure,
        *laws_told,
        *([laws_tables.effective_table(target, baseline, order, worth)] if worth else []),
    ]


def _effective(
    runs: pd.DataFrame, curves: dict[str, LearningCurve], baseline: str, seeds: SeedResamples
) -> dict[str, dict[str, EffectiveImages]]:
    """The effective images of each source but the baseline, by shots; {} where the panel lacks the baseline."""
    if baseline not in curves:
        return {}
    found: dict[str, dict[str, EffectiveImages]] = {}
    of_baseline = baseline_of(curves[baseline], seeds)
    for title, curve in curves.items():
        if title != baseline and (matched := effective_images(curve, of_baseline, seeds)):
            by_images = {each.images: each for each in matched}
            places = runs[runs["title"] == title].groupby("shots")["images"].first()
            found[title] = {str(shots): by_images[images] for shots, images in places.items()}
    return found


def _size_blocks(runs: pd.DataFrame, pretrained: pd.DataFrame, seeds: SeedResamples, folder: Path) -> list[Block]:
    """The laws over images of the source, for targets with sources of one kind in at least three sizes."""
    sizes = source_sizes(runs, pretrained)
    sized = runs.merge(sizes, on=["title", "model"])
    blocks: list[Block] = []
    for target in dict.fromkeys(panel.key.target for panel in panels_of(sized)):
        blocks += _sizes_of_target(sized[sized["target"] == target], seeds, folder)
    return [
        Title("Images of the source", 3),
        Paragraph(_SIZES_ABOUT if blocks else _NO_SIZES),
        *blocks,
    ]


def _sizes_of_target(runs: pd.DataFrame, seeds: SeedResamples, folder: Path) -> list[Block]:
    target, mixed = str(runs["target"].iloc[0]), runs["origin"].nunique() > 1
    fits, panels = [], {}
    order = shots_order(runs["shots"])
    for panel in panels_of(runs):
        mine = panel.of(runs)
        for kind, of_kind in mine.groupby("image_kind", sort=False):
            if of_kind["source_images"].nunique() < _FEWEST_SIZES:
                continue
            title = f"{kind}, {panel.title(mixed)}"
            laws = _laws_over_sizes(of_kind, seeds)
            panels[title] = [
                (shots_title(shots), laws_figures.look(order.index(shots)), law) for shots, law in laws.items()
            ]
            fits += [Fit(f"{title}, {shots_title(shots)}", law) for shots, law in laws.items()]
    if not fits:
        return []
    caption = f"{target_title(target)}: error on test by images of the source"
    figure = laws_figures.law_figure(
        f"laws_source_{own_file_name_of(target)}",
        f"{caption}, a curve for each number of training images per class; as the figures above.",
        panels,
        "images of the source",
        folder,
        [*panels, target],
    )
    laws_told = laws_tables.law_blocks(
        f"laws_source_{target}", f"{caption}: the fitted law, with 95% intervals.", "sources", fits
    )
    return [figure, *laws_told]


def _laws_over_sizes(runs: pd.DataFrame, seeds: SeedResamples) -> dict[str, PowerLaw]:
    laws = {}
    for shots in shots_order(runs["shots"]):
        mine = runs[runs["shots"] == shots].drop(columns="images").rename(columns={"source_images": "images"})
        laws[shots] = fit_curve(curve_of(mine), seeds)
    return laws
