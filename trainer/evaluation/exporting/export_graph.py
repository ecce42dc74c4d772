"""Export a run as a graph from uint8 pixels to logits, checked against the run's model, with a model card."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_pipelines.common.cpus import cpu_name
from data_pipelines.common.messages import logger
from data_pipelines.common.progress import Progress
from data_pipelines.common.version import commit
from data_pipelines.common.whole_folder import require_free_folder, write_folder
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.exporting.export_card import export_card, speed_text
from trainer.evaluation.exporting.graph_report import TOLERANCE, images_per_second, largest_difference
from trainer.evaluation.pages.model_card import CARD, former_card
from trainer.evaluation.predicting.predict_images import note_what_is_unfitted
from trainer.evaluation.predictor import load_model
from trainer.evaluation.preprocessing import steps_of
from trainer.evaluation.runs import Run, open_run
from trainer.models import graph as graphs
from trainer.models.export_settings import EXPORTED_FILES, Export


class _Format(NamedTuple):
    """save: writes graph and metadata into a folder. runner: of such a folder, with so many threads. program: that runs
    it, and package: whose version counts."""

    save: Callable[[graphs.Graph, Path, Mapping[str, Any]], None]
    runner: Callable[[Path, int], graphs.Runner]
    program: str
    package: str


_FORMATS = {
    "onnx": _Format(graphs.save_onnx, graphs.onnx_runner, "ONNX Runtime", "onnxruntime"),
    "torch": _Format(graphs.save_torch, lambda folder, _: graphs.torch_runner(folder), "torch.export", "torch"),
}


def export_graph(settings: Export) -> list[str]:
    """Write the folder atomically, and return notes on it. Raises InputError for what is no run with a model, a folder
    that may not be replaced or written, and without the packages of the format; RunError for logits that are not the
    model's."""
    if settings.format == "onnx":
        graphs.require_onnx()
    source = Path(settings.source)
    run = open_run(source, settings.head)
    described, points = run.described(), run.points()
    require_free_folder(settings.out, EXPORTED_FILES, settings.force)
    head = f", head {run.head.name}," if run.head else ""
    logger.info(f"export {run.path}: {described['model']}{head} as {settings.format}, to {settings.out}")
    metadata = graph_metadata(run, points)
    note_what_is_unfitted(run, points, described["classes"])
    former = former_card(run) if source.is_dir() else ""
    report: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        report.update(_write_graph(run, metadata, settings.format, folder))
        graphs.write_config(folder, metadata, report)
        (folder / CARD).write_text(export_card(run, metadata, report, former), encoding="utf-8")

    write_folder(settings.out, EXPORTED_FILES, settings.force, fill)
    return _notes(report)


def graph_metadata(run: Run, points: OperatingPoints) -> dict[str, Any]:
    """What goes with a graph, as plain JSON types: model, data, classes, how pictures become its input, and what was
    fitted on val. Thresholds: in log odds before the temperature, by class or finding; 0 where none was fitted, and
    `unfitted` says why. Raises InputError for a run whose views cannot be told."""
    described = run.described()
    classes = described["classes"]
    return {
        "name": run.name,
        "model": described["model"],
        "weights": described.get("weights"),
        "head": run.head.name if run.head else None,
        "task": described["task"],
        "classes": classes,
        "thresholds": {name: points.threshold(name) for name in classes},
        "unfitted": {name: why for name in classes if (why := points.why_unfitted(name))},
        "temperature": points.temperature,
        "temperature_unfitted": points.why_temperature_unfitted(),
        "preprocessing": steps_of(described),
        "image_size": described["image_size"],
        "channels": described["channels"],
        "mean": list(run.mean),
        "std": list(run.std),
        "sets": dict(run.sets()),
        "trained_on": run.trained_on,
        "data_fingerprint": described.get("data_fingerprint") or run.settings.get("data_fingerprint"),
        "commit": commit(),
    }


def _write_graph(run: Run, metadata: dict[str, Any], format_: str, folder: Path) -> dict[str, Any]:
    """Write the graph, and return what was measured of it, as plain JSON types."""
    assert run.path is not None
    side, channels, own = metadata["image_size"], metadata["channels"], _FORMATS[format_]
    model = load_model(run, run.path, metadata["model"], len(metadata["classes"])).eval()
    with Progress("trace the network"):
        graph = graphs.graph_of(model, side, channels)
    with Progress("write the graph"):
        own.save(graph, folder, metadata)
    del graph  # of a large network there is then room for what reads the file
    threads = torch.get_num_threads()
    graph_runner, runner = own.runner(folder, threads), graphs.model_runner(model)
    with Progress("compare the logits"):
        difference = largest_difference(graphs.exact_runner(model), graph_runner, side, channels)
    with Progress("measure speeds"), model.filter_sharing.unchanged():
        speeds = images_per_second({own.program: graph_runner, "the model in PyTorch": runner}, side, channels)
    return {
        "largest_difference": difference,
        "tolerance": TOLERANCE,
        "images_per_second": speeds,
        "cpu": cpu_name(),
        "threads": threads,
        "packages": {name: import_module(name).__version__ for name in dict.fromkeys((own.package, "torch"))},
    }


def _notes(report: dict[str, Any]) -> list[str]:
    notes = [
        f"Its logits differ from the model's in float64 by at most {report['largest_difference']:.1g} of the largest."
    ]
    for row in report["images_per_second"]:
        speeds = ", ".join(f"{name} {speed_text(value)}" for name, value in row.items() if name != "batch_size")
        notes.append(f"Images per second on this CPU as busy as it was, {row['batch_size']} at a time: {speeds}.")
    return notes
