"""The section on claims of a report: each with its effect and verdict, a figure, and a mixed model as a summary."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, isnan
from pathlib import Path
from typing import Any

import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_atomically
from data_pipelines.common.message_parts import some_of
from data_pipelines.datasets.overlap import shares_images
from trainer.document.blocks import Block, BulletList, Entry, Heading, Paragraph, Picture, Table, Title, p_text
from trainer.document.markdown import as_markdown
from trainer.document.text import Bold, Code, Text
from trainer.reporting.analysis.claim_file import Claim, ClaimFile
from trainer.reporting.analysis.mixed_model import MixedModel, fit_mixed_model
from trainer.reporting.analysis.verdicts import (
    CONTRADICTED,
    EQUIVALENT,
    NOT_TESTED,
    SUPPORTED,
    UNDECIDED,
    Judged,
    judge,
)
from trainer.reporting.claims_figure import draw_claims
from trainer.reporting.names import sets_in, split_source, target_title
from trainer.reporting.tables import row_keys, row_title, with_titles

_KIND = ["origin", "mode", "protocol", "setting"]
_VERDICTS = (SUPPORTED, CONTRADICTED, EQUIVALENT, UNDECIDED, NOT_TESTED)
_SIGN = {"higher": "higher", "lower": "lower", "inconsistent": "up and down"}
_HOW = (
    "An effect is a difference of two means over seeds, averaged over the cells of a claim: each combination of "
    "target, model, source and shots that it lists. Runs of one target with the same seed are trained on the same"
    " images where not all are used: there seeds are paired; elsewhere it is Welch's test. p is corrected over "
    "all claims by Holm's method. “No difference” is by two one-sided tests (TOST) within the margin. What seeds "
    "could have shown, they would show in 80% of repetitions, at the level that the correction leaves. Intervals "
    "are 95%, each by itself, and not corrected."
)
_SUMMARY = (
    "Summary by linear mixed models: source and model as fixed effects, from the smallest to the largest, also as"
    " they change from the fewest to the most shots (×); a level for each target and number of shots; what runs "
    "of one seed share as a random effect. Points with 95% intervals; p is not corrected, and no verdict uses it."
)


@dataclass(frozen=True)
class ClaimsOfKind:
    """Claims judged by runs that may be averaged. title: which runs; empty if there are no others. unknown: which names
    of the claims these runs do not have, and which they have; empty if they have all."""

    title: str
    judged: list[Judged]
    models: list[MixedModel]
    without: str = ""
    unknown: str = ""


def claims_section(runs: pd.DataFrame, files: Sequence[ClaimFile], folder: Path) -> list[Block]:
    """Judge the claims of some files by fine-tunings; draws figures into `folder` and writes claims.md, this section by
    itself, and claims.json there. Runs of different protocols are judged apart. Raises InputError, before it writes,
    for a file of which no claim can be tested as the results have none of its names."""
    transfers = with_titles(runs[runs["kind"] == "transfer"])
    if transfers.empty:
        raise InputError("claims are tested on fine-tunings, and there is none among these results")
    blocks: list[Block] = []
    records = []
    for number, (file, kinds) in enumerate([(file, _kinds(file, transfers)) for file in files]):
        prefix = "claims" if number == 0 else f"claims_{number + 1}"
        blocks += _blocks(file, kinds, folder, prefix)
        records += [_record(file, kind) for kind in kinds]
    write_atomically(folder / "claims.json", lambda path: path.write_text(_json(records), encoding="utf-8"))
    write_atomically(folder / "claims.md", lambda path: path.write_text(as_markdown(blocks), encoding="utf-8"))
    return blocks


def _kinds(file: ClaimFile, transfers: pd.DataFrame) -> list[ClaimsOfKind]:
    """The kinds of runs that the claims of a file are about. Raises InputError where none can be tested."""
    kinds = [kind for kind in _judged_by_kind(file, transfers) if kind.judged]
    if not kinds:
        raise InputError(f"no run is of the protocol and mode that the claims of {file.title} name")
    if all(kind.unknown and all(one.verdict == NOT_TESTED for one in kind.judged) for kind in kinds):
        raise InputError(f"no claim of {file.title} can be tested: {kinds[0].unknown}; name what was run")
    return kinds


def _judged_by_kind(file: ClaimFile, runs: pd.DataFrame) -> list[ClaimsOfKind]:
    """The claims judged by the runs of each kind apart."""
    keys = list(dict.fromkeys(key._replace(target="") for key in row_keys(runs)))
    found = []
    for key in keys:
        mine = runs[(runs[_KIND] == [getattr(key, name) for name in _KIND]).all(axis=1)]
        table, renamed = _by_title(mine, file)
        claims = tuple(claim for claim in renamed.claim if _is_about(claim, key.mode, key.protocol))
        title = row_title(key, True, with_target=False) or "fine-tuning by the default protocol"
        judged = judge(ClaimFile(file.title, claims, source_images=renamed.source_images), table) if claims else []
        models, without = _models(renamed, table)
        found.append(ClaimsOfKind(title if len(keys) > 1 else "", judged, models, without, _unknown(claims, table)))
    return found


def _unknown(claims: Sequence[Claim], table: pd.DataFrame) -> str:
    absent, present = [], []
    for key in ("source", "model", "target", "shots"):
        known = list(dict.fromkeys(map(str, table[key])))
        sides = [side for claim in claims for side in (claim.cells, claim.first, claim.second)]
        named = dict.fromkeys(name for side in sides for name in getattr(side, key))
        if gone := [repr(name) for name in named if name not in known]:
            absent.append(f"no {key} {some_of(gone)}")
            present.append(f"{key} {some_of([repr(name) for name in known])}")
    return f"the results have {', '.join(absent)}; they have {', '.join(present)}" if absent else ""


def _is_about(claim: Claim, mode: str, protocol: str) -> bool:
    where = claim.cells
    return (not where.mode or mode in where.mode) and (not where.protocol or protocol in where.protocol)


def _models(file: ClaimFile, table: pd.DataFrame) -> tuple[list[MixedModel], str]:
    try:
        return [fit_mixed_model(summary, table) for summary in file.summary], ""
    except InputError as error:
        return [], str(error)


def _by_title(runs: pd.DataFrame, file: ClaimFile) -> tuple[pd.DataFrame, ClaimFile]:
    """The runs and the claims with sources and targets called alike: by their titles in the report."""
    rows = runs[["source", "title", "source_sets"]].drop_duplicates().itertuples(index=False)
    called: dict[str, set[str]] = {}
    for source, title, sets in rows:
        for name in (source, split_source(source)[0], title, sets, _sets(source)):
            called.setdefault(name, set()).add(title)

    def source_name(source: str) -> str:
        titles = called.get(source) or called.get(_sets(source)) or {source}
        if len(titles) > 1:
            raise InputError(
                f"{file.title}: {source!r} may be any of {', '.join(sorted(titles))}; name it as the report does"
            )
        return next(iter(titles))

    shares = [
        bool(shares_images(sets.split("+"), target))
        for sets, target in zip(runs["source_sets"], runs["target"], strict=True)
    ]
    named = runs.assign(source=runs["title"], target=runs["target"].map(target_title), shares_images=shares)
    return named, file.renamed(source_name, target_title)


def _sets(source: str) -> str:
    """The known sets in a source's name, such as "chexpert+mimic_cxr" of "chexpert_mimic_bit50x1"; or else the name."""
    stem = split_source(source)[0]
    return "+".join(sets_in(stem)) or stem


def _blocks(file: ClaimFile, kinds: Sequence[ClaimsOfKind], folder: Path, prefix: str) -> list[Block]:
    blocks: list[Block] = [Title("Claims"), Paragraph(f"Claims of {file.title}, tested on the results of this report.")]
    if len(kinds) > 1:
        words = "Runs of several kinds are judged apart, each with its own correction: they do not compare."
        blocks.append(Paragraph((Bold("Different protocols"), f" among the results. {words}")))
    blocks.append(Paragraph(_HOW))
    for number, kind in enumerate(kinds):
        name = prefix if number == 0 else f"{prefix}_{chr(ord('a') + number)}"
        blocks += [Title(f"Claims by {kind.title}", 3)] if kind.title else []
        blocks.append(Paragraph(_counts(kind.judged)))
        blocks += [Paragraph(f"{kind.unknown[0].upper()}{kind.unknown[1:]}.")] if kind.unknown else []
        picture: Picture | None = draw_claims(kind.judged, folder, name)
        blocks += [picture] if picture else []
        blocks += [BulletList(tuple(_sentence(one) for one in kind.judged)), _table(kind.judged, name)]
        blocks += _summary(kind, name)
    return blocks


def _counts(judged: Sequence[Judged]) -> Text:
    counts = Counter(one.verdict for one in judged)
    numbers_by_verdict = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict])
    as_claimed, otherwise, left_open = (sum(one.holds is wanted for one in judged) for wanted in (True, False, None))
    numbers = f", {otherwise} do not, {left_open} open: {numbers_by_verdict}."
    return (Bold(f"{as_claimed} of {len(judged)} claims hold"), numbers)


def _sentence(one: Judged) -> Text:
    claim = one.claim
    place = f", {claim.place}" if claim.place else ""
    margin = f" Margin: {claim.margin:g} point{'s' * (claim.margin != 1)}." if claim.margin is not None else ""
    notes = f" {'. '.join(one.notes)}." if one.notes else ""
    return (Bold(_as_sentence(one.text)), " ", Code(claim.id), f"{place}: {claim.text}{margin}{notes}")


def _as_sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _table(judged: Sequence[Judged], name: str) -> Table:
    """The numbers of the claims."""
    rows = tuple((one.claim.id, tuple(Entry(words=words) for words in _numbers(one))) for one in judged)
    titles = ("claimed", "effect", "p", "verdict", "could have shown", "cells up", "seeds")
    caption = (
        "Effects of the claims in points, or as ratios (×) of standard deviations, with 95% intervals; p corrected "
        "over all claims."
    )
    return Table(name, caption, "claim", tuple(Heading("", title) for title in titles), rows)


def _numbers(one: Judged) -> tuple[str, ...]:
    claim = one.claim
    claimed = f"equal ± {claim.margin:g}" if claim.direction == "equal" else _SIGN[claim.direction]
    if one.verdict == NOT_TESTED:
        return claimed, "", "", one.verdict, "", "", ""
    low, high = one.seeds
    neutral = 1 if one.unit == "times" else 0
    up = f"{sum(cell > neutral for cell in one.cells)} of {len(one.cells)}"
    smallest = "" if isnan(one.smallest) else f"{one.smallest:.2f}"
    seeds = ", ".join(filter(None, (str(high) if low == high else f"{low} to {high}", one.method)))
    return claimed, _effect(one), _p(one.p), one.verdict, smallest, up, seeds


def _effect(one: Judged) -> str:
    if isnan(one.effect):
        return ""
    show: Callable[[float], str] = (lambda x: f"×{x:.2f}") if one.unit == "times" else (lambda x: f"{x:+.2f}")
    limits = f" [{show(one.low).lstrip('×')}, {show(one.high).lstrip('×')}]" if isfinite(one.low) else ""
    return f"{show(one.effect)}{limits}"


def _p(p: float) -> str:
    return "" if isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _summary(kind: ClaimsOfKind, name: str) -> list[Block]:
    """The mixed models as one table, or why there is none."""
    if kind.without:
        return [Paragraph(f"The summary by a mixed model is left out: {kind.without}.")]
    fitted = [model for model in kind.models if model.terms]
    left_out = [f"{model.title}: {model.reason}" for model in kind.models if not model.terms]
    blocks: list[Block] = []
    if fitted:
        titles = list(dict.fromkeys(term.title for model in fitted for term in model.terms))
        rows = tuple((title, tuple(_term(model, title) for model in fitted)) for title in titles)
        columns = tuple(Heading("", model.title) for model in fitted)
        notes = tuple(
            f"{model.title}: {model.runs} runs; standard deviation of seeds {model.seed_std:.2f}, of what is left "
            f"{model.residual_std:.2f}."
            for model in fitted
        )
        blocks.append(Table(f"{name}_summary", _SUMMARY, "effect", columns, rows, notes))
    return [*blocks, BulletList(tuple(f"No mixed model of {text}." for text in left_out))] if left_out else blocks


def _term(model: MixedModel, title: str) -> Entry:
    term = next((term for term in model.terms if term.title == title), None)
    if term is None:
        return Entry()
    return Entry(words=f"{term.effect:+.2f} ({p_text(term.p)}) [{term.low:+.2f}, {term.high:+.2f}]")


def _record(file: ClaimFile, kind: ClaimsOfKind) -> dict[str, Any]:
    """What claims.json has of the runs of one kind."""
    judged = [
        asdict(one)
        | {"claim": one.claim.id, "text": one.text, "unit": one.unit, "holds": one.holds, "place": one.claim.place}
        for one in kind.judged
    ]
    return {
        "claims_of": file.title,
        "runs": kind.title,
        "claims": judged,
        "mixed_models": [asdict(m) for m in kind.models],
    }


def _json(records: list[dict[str, Any]]) -> str:
    """As JSON, with null for what is no number."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and not isfinite(value) else value

    return json.dumps({"format": 1, "results": plain(records)}, indent=1, ensure_ascii=False) + "\n"
