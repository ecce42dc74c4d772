"""Notes of a report: what the reader must know about some runs besides their numbers."""

from collections import Counter

import pandas as pd

from data_pipelines.datasets.overlap import shares_images
from trainer.document.text import Bold, Code, Text
from trainer.reporting.names import METRIC_TITLE, listed, target_title
from trainer.reporting.rows import AUTHORS, CELL, DEFAULT, PUBLISHED, sizes_of_sets

_BY_TEXT = "fine-tuned by BiT and the paper's text, the default"
_BY_RECIPE = "pre-trained as the recipe has it"
_BY_AUTHORS = "by the authors' program, here called the authors' protocol"
_SEVERAL_PROTOCOLS = (
    Bold("Different protocols"),
    ": fine-tunings by BiT and the paper's text stand beside numbers by the authors' program, which differs in head, "
    "momentum, precision, augmentation and training images. They do not compare; ",
    Code("bitscale transfer --match-authors"),
    " makes runs by the second protocol.",
)


def mixed_versions(runs: pd.DataFrame) -> list[Text]:
    """Note that the results come from different versions of the code, with the runs of each; [] for a single
    version."""
    own = runs[runs["commit"] != ""]
    counts = Counter(own["commit"])
    if len(counts) < 2:
        return []
    parts = [
        f"{commit} ({count} run{'s' * (count > 1)}: {listed(list(own.loc[own['commit'] == commit, 'run']), 2)})"
        for commit, count in counts.most_common()
    ]
    return [(Bold("Mixed code versions"), f": {len(counts)} commits in one report: {'; '.join(parts)}.")]


def not_numbers(runs: pd.DataFrame) -> list[Text]:
    """The runs whose metric is NaN; the tables leave them out of the means and say how many."""
    failed = runs[runs["not_a_number"]]
    if failed.empty:
        return []
    names = listed(list(failed["run"]), 10)
    return [(Bold("Not a number"), f": the test metric of {len(failed)} of {len(runs)} runs is NaN: {names}.")]


def cells_of_mixed_settings(runs: pd.DataFrame) -> list[Text]:
    """The cells whose seeds were run with different settings."""
    settings = ["total_steps", "image_size", "resize", "base_lr", "balance", "trained_on", "departures", "weights"]
    distinct = runs.groupby(CELL, sort=False)[settings].nunique(dropna=False)
    cells = [
        f"{source}, {model} on {target}, {shots} ({', '.join(row.index[row > 1])})"
        for (*_, source, model, target, shots, _), row in distinct[(distinct > 1).any(axis=1)].iterrows()
    ]
    return [(Bold("Seeds of different settings"), f" in one mean: {listed(cells)}.")] if cells else []


def several_metrics(runs: pd.DataFrame) -> list[Text]:
    """The targets whose runs report different metrics, so that their numbers cannot be compared."""
    metrics = runs.groupby("target", sort=False)["metric"].unique()
    return [
        (
            Bold("Different metrics"),
            f" on {target_title(str(target))}: {', '.join(METRIC_TITLE.get(m, m) for m in found)}.",
        )
        for target, found in metrics.items()
        if len(found) > 1
    ]


def patient_leaks(runs: pd.DataFrame) -> list[Text]:
    """The sets in which the same patients may be in training and test images."""
    leaking = runs[runs["patients"] == "may leak"]["target_sets"]
    names = sorted({name for sets in leaking for name in sets.split("+")})
    if not names:
        return []
    return [
        (
            Bold("Patients may leak"),
            f" in {', '.join(names)}: images of one patient may be among the training and the test images, so the "
            "numbers may be better than those on new patients.",
        )
    ]


def deviations(runs: pd.DataFrame) -> list[str]:
    """Departures of runs from their protocol, one line each."""
    lines = set()
    for kind, source, protocol, departures in runs[["kind", "source", "protocol", "departures"]].itertuples(
        index=False
    ):
        whose = f"pre-training {source}, " if kind == "pretrain" else ""
        whose += "authors' protocol, " if protocol == AUTHORS else ""
        lines |= {f"{whose}{line}" for line in departures.split("; ") if line}
    return sorted(lines)


def protocols(runs: pd.DataFrame, with_paper: bool) -> tuple[list[Text], list[Text]]:
    """The protocols of the runs, and whether numbers of different ones are in the same report: remarks, warnings."""
    by_authors, is_transfer = runs["protocol"] == AUTHORS, runs["kind"] == "transfer"
    if not by_authors.any() and not with_paper:
        return [], []
    kinds = {_BY_TEXT: ~by_authors & is_transfer, _BY_RECIPE: ~by_authors & ~is_transfer, _BY_AUTHORS: by_authors}
    parts = [f"{which.sum()} {words}" for words, which in kinds.items() if which.any()]
    published = sum(runs["origin"] == PUBLISHED)
    parts[-1] += f", {published} of them published" if published else ""
    parts += ["the paper's own values are by the authors' protocol"] if with_paper else []
    remark = (f"Runs by protocol: {'; '.join(parts)}. ", Code("docs/fidelity.md"), " lists the differences.")
    transfers = runs[runs["kind"] == "transfer"]
    theirs = with_paper or (transfers["protocol"] == AUTHORS).any()
    if not (theirs and (transfers["protocol"] == DEFAULT).any()):
        return [remark], []
    return [remark], [_SEVERAL_PROTOCOLS]


def sizes(runs: pd.DataFrame) -> list[str]:
    """Stored and training image sizes, by target."""
    own = runs[(runs["origin"] != PUBLISHED) & runs["image_size"].notna()]
    lines = []
    for target, of_target in own.assign(prepared=sizes_of_sets(own)).groupby("target", sort=False):
        seen = of_target[["prepared", "resize", "image_size"]].drop_duplicates()
        ways = []
        for prepared, resize, size in seen.itertuples(index=False):
            stored = f"stored at {prepared} pixels (median)" if prepared else "stored size not recorded"
            resized = "" if pd.isna(resize) or resize == size else f"resized to {resize}, "
            ways.append(f"{stored}, {resized}trained at {size} x {size}")
        lines.append(f"{target_title(str(target))}: {'; or '.join(ways)}")
    return lines


def trained_on_val(runs: pd.DataFrame) -> list[str]:
    """The targets whose fine-tunings were trained on val too, with the number of runs."""
    own = runs[(runs["origin"] != PUBLISHED) & (runs["kind"] == "transfer")]
    lines = []
    for target, found in own.groupby("target", sort=False)["trained_on"]:
        count = int((found == "train+val").sum())
        if count:
            some = "all" if count == len(found) else f"{count} of {len(found)}"
            compare = "" if count == len(found) else "; they cannot be compared with the others"
            lines.append(f"{target_title(str(target))}: {some} runs, for which nothing was chosen on val{compare}")
    return lines


def classes_left_out(runs: pd.DataFrame) -> list[str]:
    """The classes that means over classes leave out, lacking positives or negatives in the test split, by target."""
    found = runs[runs["left_out"] != ""].groupby("target", sort=False)["left_out"].unique()
    return [
        f"{target_title(str(target))}: {listed(sorted({name for line in lines for name in line.split('; ')}), 20)}"
        for target, lines in found.items()
    ]


def origins(runs: pd.DataFrame) -> list[str]:
    """The different commits, machines and torch versions that the results come from."""
    lines = sorted(set(runs["made_by"]) - {""})
    published = int((runs["origin"] == PUBLISHED).sum())
    return [*lines, f"{published} rows of the files that the paper's authors published"] if published else lines


def published_overlaps(runs: pd.DataFrame) -> list[Text]:
    """The published results whose source shares images with the target: shown as published, not left blank."""
    published = runs[runs["origin"] == PUBLISHED]
    pairs = published[["title", "source_sets", "target"]].drop_duplicates().itertuples(index=False)
    found = [(title, target, shares_images(sets.split("+"), target)) for title, sets, target in pairs]
    cells = [f"{title} on {target_title(target)} ({reason})" for title, target, reason in found if reason]
    cells = list(dict.fromkeys(cells))
    if not cells:
        return []
    return [(Bold("Shown as published"), f", though source and target share images: {'; '.join(cells)}.")]
