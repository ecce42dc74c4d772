"""The scaling table as CSV, JSON and Markdown."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.lib.network.profile import Profile
from benchmarks.lib.scaling.rows import MEASURED, Row
from data_pipelines.common.advice import quoted
from data_pipelines.common.files import write_json

CSV, JSON, MARKDOWN = "scaling.csv", "scaling.json", "scaling.md"


def write_tables(out: Path, rows: Sequence[Row], about: dict[str, Any], profile: Profile) -> None:
    """Write all three."""
    with (out / CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in asdict(row).items()} for row in rows)
    numbers = vars(profile.machine) | {name: getattr(profile, name) for name in ("tflops", "update_gb_s", "kernel_us")}
    described = {
        name: {"value": value, "error": profile.errors[name], "source": profile.sources[name]}
        for name, value in numbers.items()
    }
    profiled = {"name": profile.name, "title": profile.title, "numbers": described}
    write_json(out / JSON, {**about, "profile": profiled, "rows": [asdict(row) for row in rows]})
    (out / MARKDOWN).write_text(markdown(rows, about, profile), encoding="utf-8")


def markdown(rows: Sequence[Row], about: dict[str, Any], profile: Profile) -> str:
    """The report for people."""
    lines = [
        "# Scaling",
        "",
        f"Commit {about['commit']}, {about['machine']['cpu']}, {about['machine']['gpu'] or 'no GPU'}.",
        "",
    ]
    if about["plan"]:
        lines += [
            f"Counts that do not fit this machine are planned in `{about['plan']}`: `bitscale submit "
            f"{quoted(about['plan'])} --site SITE`, then the same command with `--collect {quoted(about['out'])}`.",
            "",
        ]
    lines += [
        "| kind | engine | model | on | GPUs | images/s | efficiency | data wait | exposed | memory | J/image | note |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_line(row) for row in rows]
    lines += [
        "",
        "Measured: median, least and most of the windows. Predicted: with a 90% interval. Efficiency is "
        "E(N) = 100 T(N) / (N T(1)) unless another base is named. Exposed: the share of a step that gradient "
        "exchange adds; measured by windows without it, so negative where noise is larger.",
        "",
    ]
    for engine, how in about["predictions"].items():
        fitted = ", ".join(f"{name} = {value:.4g}" for name, value in how["fitted"].items())
        residuals = ", ".join(f"{ranks}: {miss:+.2f}" for ranks, miss in how["residuals_points"].items())
        lines += [
            f"Predictions for {engine} on {profile.title}: calibrated on {how['calibrated_on']}"
            + (f"; fitted {fitted}; residuals in points {residuals}" if fitted else "")
            + ".",
            "",
        ]
    if profile.published is not None:
        lines += [f"{profile.published.source}. {profile.published.note}", ""]
    lines += _accuracy_lines(about.get("accuracy", [])) + _advice_lines(about.get("advice", []))
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = [
        row.kind,
        row.engine,
        row.model,
        row.hardware,
        str(row.gpus),
        _range(row.images_per_s, row.images_per_s_low, row.images_per_s_high, _rate_form(row.images_per_s)),
        _range(row.efficiency, row.efficiency_low, row.efficiency_high, ".2f", f" vs {row.base}" * (row.base != 1)),
        _cell(row.data_wait_share, ".1%"),
        _cell(row.exposed_share, ".1%"),
        _cell(row.peak_memory_bytes and row.peak_memory_bytes / 1e9, ".2f", " GB"),
        _cell(row.joules_per_image, ".3g"),
        row.note.replace("|", "/"),
    ]
    name = "**measured**" if row.kind == MEASURED else "*predicted*"
    return "| " + " | ".join([name, *cells[1:]]) + " |"


def _rate_form(images_per_s: float | None) -> str:
    return ",.0f" if images_per_s is not None and images_per_s >= 1000 else ".4g"


def _range(value: float | None, low: float | None, high: float | None, form: str, after: str = "") -> str:
    return "" if value is None else f"{value:{form}} ({low:{form}} to {high:{form}}){after}"


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _accuracy_lines(accuracy: Sequence[dict[str, Any]]) -> list[str]:
    if not accuracy:
        return []
    reached = [one["accuracy"] for one in accuracy if "accuracy" in one]
    lines = [
        "## Accuracy after a short run with the same global batch",
        "",
        "| GPUs | on | val accuracy |",
        "|--:|---|--:|",
    ]
    for one in accuracy:
        lines.append(f"| {one['gpus']} | {one['device']} | {_cell(one.get('accuracy'), '.2%') or one['failed']} |")
    if len(reached) > 1:
        lines += ["", f"Largest difference: {100 * (max(reached) - min(reached)):.2f} points."]
    return [*lines, ""]


def _advice_lines(advice: Sequence[dict[str, Any]]) -> list[str]:
    if not advice:
        return []
    title = "## Settings at the largest count, predicted"
    lines = [title, "", "| bucket MB | compression | images/s |", "|--:|---|--:|"]
    for one in advice:
        lines.append(f"| {one['bucket_mb']} | {one['compression']} | {one['images_per_s']:.0f} |")
    return [*lines, ""]
