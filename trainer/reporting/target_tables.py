"""Tables of one target: sources by shots, and gains over training from scratch."""

import pandas as pd

from trainer.document.blocks import Cell, Entry, Heading, Table, p_text
from trainer.reporting.cells import best, cell_of, interval, welch
from trainer.reporting.gains import gains
from trainer.reporting.names import (
    FULL,
    METRIC_TITLE,
    SCRATCH,
    shots_order,
    shots_title,
    target_title,
)
from trainer.reporting.paper import Published
from trainer.reporting.tables import (
    PRINTED_SPREADS,
    Source,
    class_notes,
    fewer_seeds,
    overlap_notes,
    protocol_notes,
    row_keys,
    row_title,
    seeds_text,
    sources_of,
)

_PRINTED_TO = 0.011  # points: the paper prints two places, and rounds means of float32


def few_shot_table(runs: pd.DataFrame) -> Table:
    """A row per source, a column per shot count, of one target; the best of each column marked."""
    order, rows = shots_order(runs["shots"]), []
    mixed = runs["origin"].nunique() > 1
    shown = runs[runs["overlap"] == ""]
    for source in sources_of(runs):
        for key in row_keys(_of(source, runs)):
            mine = key.of(_of(source, shown))
            aside = row_title(key, mixed, with_target=False)
            title = f"{source.title}, {source.model}" + (f", {aside}" if aside else "")
            cells = [cell_of(mine[mine["shots"] == shots]) for shots in order]
            rows.append((title, (key.protocol, key.setting), cells))
    marked = []
    for title, way, cells in rows:
        comparable = [others for _, its_way, others in rows if its_way == way]
        highest = [best(column) for column in zip(*comparable, strict=True)]
        entries = [_marked(cell, high, len(comparable)) for cell, high in zip(cells, highest, strict=True)]
        marked.append((title, tuple(entries)))
    target, metric = runs["target"].iloc[0], runs["metric"].iloc[0]
    caption = (
        f"{target_title(target)}: {METRIC_TITLE.get(metric, metric)} on test, percent; "
        f"mean ± standard deviation over {seeds_text(runs)}."
    )
    columns = tuple(Heading("", shots_title(shots)) for shots in order)
    several = [name for name in ("protocol", "setting") if runs[name].nunique() > 1]
    within = f" within its {' and '.join(several)}" if several else ""
    notes = (f"Bold: the best of a column{within}.",) if len(rows) > 1 else ()
    notes = (*notes, *class_notes(runs), *fewer_seeds(runs), *protocol_notes(runs), *overlap_notes(runs))
    return Table(f"few_shot_{target}", caption, "source", columns, tuple(marked), notes)


def _of(source: Source, runs: pd.DataFrame) -> pd.DataFrame:
    return runs[(runs["model"] == source.model) & (runs["title"] == source.title)]


def _marked(cell: Cell, highest: float, num_rows: int) -> Entry:
    return Entry(cell, best=num_rows > 1 and cell.n > 0 and round(cell.mean, 2) == highest)


def gains_over_scratch(runs: pd.DataFrame) -> Table | None:
    """Pre-trained minus from scratch, in points, paired by seed, with a 95% t interval over the seeds; None without
    both."""
    order, rows = shots_order(runs["shots"]), []
    gained, mixed = gains(runs), runs["origin"].nunique() > 1
    for source in sources_of(gained):
        mine = _of(source, gained)
        for key in row_keys(mine):
            of_row = key.of(mine)
            points = [of_row.loc[of_row["shots"] == shots, "test"] * 100 for shots in order]
            cells = [interval(of_shots.to_numpy(dtype=float)) for of_shots in points]
            aside = row_title(key, mixed, with_target=False)
            title = f"{source.title} minus {SCRATCH}, {source.model}" + (f", {aside}" if aside else "")
            if any(cells):
                rows.append((title, tuple(Entry(words=words) for words in cells)))
    if not rows:
        return None
    target = runs["target"].iloc[0]
    caption = f"{target_title(target)}: points gained by pre-training, paired by seed, with a 95% t interval."
    columns = tuple(Heading("", shots_title(shots)) for shots in order)
    return Table(f"gains_{target}", caption, "", columns, tuple(rows))


def paper_table(runs: pd.DataFrame, paper: Published) -> tuple[Table | None, list[str]]:
    """The full-shot fine-tunings beside the published values, with notes on both; None without any."""
    full = runs[(runs["shots"] == FULL) & (runs["mode"] == "finetune") & (runs["overlap"] == "")]
    mixed, rows, remarks = runs["origin"].nunique() > 1, [], []
    for key in row_keys(full):
        target, of_row = key.target, key.of(full)
        metric = of_row["metric"].iloc[0]
        if paper.metric.get(target, metric) != metric:
            theirs = METRIC_TITLE[paper.metric[target]]
            remarks.append(f"{target_title(target)} is not compared: the paper reports its {theirs}")
            continue
        for source in sources_of(of_row):
            printed = paper.cells.get(target, {}).get((source.model, source.sets))
            if printed:
                title = f"{row_title(key, mixed)}: {source.title}, {source.model}"
                rows.append((title, *_compared(cell_of(_of(source, of_row)), printed)))
    if not rows:
        return None, [*remarks, "no full-shot result here has the target, model and source of a published one"]
    differing = [
        f"{title} ({words[0].text} here, {words[1].text} in the paper)"
        for title, words, difference in rows
        if not abs(difference) <= _PRINTED_TO
    ]
    remarks.append(f"{len(rows) - len(differing)} of {len(rows)} means are the printed ones to {_PRINTED_TO} points")
    remarks += [f"different: {text}" for text in differing]
    columns = tuple(Heading("", title) for title in ("here", "paper", "difference", "Welch's t-test"))
    printed_seeds = sorted({words[1].cell.n for _, words, _ in rows if words[1].cell})
    seeds = f"over {seeds_text(full)} here and {' to '.join(map(str, printed_seeds))} in the paper"
    caption = f"Full-shot results beside the published ones, percent; mean ± standard deviation {seeds}."
    notes = (PRINTED_SPREADS,) if any("[" in words[1].text for _, words, _ in rows) else ()
    notes = (*notes, *fewer_seeds(full), *protocol_notes(full, with_paper=True))
    return Table("paper", caption, "", columns, tuple(row[:2] for row in rows), notes), remarks


def _compared(mine: Cell, printed: Cell) -> tuple[tuple[Entry, ...], float]:
    difference, p = mine.mean - printed.mean, welch(mine, printed)
    words = Entry(words=f"{round(difference, 2) + 0:+.2f}", best=not abs(difference) <= _PRINTED_TO)
    return (Entry(mine), Entry(printed), words, Entry(words="" if p is None else p_text(p))), difference
