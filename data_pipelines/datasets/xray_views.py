"""View positions of chest X-rays: their names, choices on the command line, and sets that differ in them."""

from collections.abc import Sequence
from typing import Literal

from data_pipelines.common.errors import InputError

View = Literal["PA", "AP", "AP Supine", "L", "COSTAL"]
VIEWS: tuple[View, ...] = ("PA", "AP", "AP Supine", "L", "COSTAL")
# A patient who lies is AP Supine in PadChest, and AP in the other sets.
FRONTAL_VIEWS: tuple[View, ...] = ("PA", "AP", "AP Supine")
ViewNames = tuple[Literal["frontal", "all", "PA", "AP", "AP Supine", "L", "COSTAL"], ...]


def views_named(names: ViewNames) -> tuple[View, ...]:
    """The views that `--views` names: "frontal" for the three from the front, "all" for the five. Raises InputError for
    no name."""
    if not names:
        raise InputError("--views names no view; write --views frontal, --views all, or some of them: --views PA AP")
    several = {"frontal": FRONTAL_VIEWS, "all": VIEWS}
    named = {view for name in names for view in several.get(name, (name,))}
    return tuple(view for view in VIEWS if view in named)


def different_views(sets: Sequence[tuple[str, Sequence[str]]]) -> str | None:
    """What to say of sets (name, views) of which some have views from the front, or others, and some have none, or of
    which some views are not known, (); None where all are alike, or no views are known."""
    frontal = set(FRONTAL_VIEWS)
    known = [(name, views) for name, views in sets if views]
    unknown = [name for name, views in sets if not views]
    kinds = {(bool(frontal & set(views)), bool(set(views) - frontal)) for _, views in known}
    listed = "; ".join(f"{name}: {', '.join(views)}" for name, views in known)
    if kinds and unknown:
        return (
            f"the views of {', '.join(unknown)} are not known, those of the other joined sets are ({listed}): the "
            "effect of a set cannot be told from that of its views; to compare the sets, prepare them again with "
            "--views frontal, which the sets that know their views take"
        )
    if len(kinds) < 2:
        return None
    return (
        f"the joined sets differ in their views ({listed}): the effect of a set cannot be told from that of its views; "
        "prepare all of them with --views frontal to compare them"
    )
