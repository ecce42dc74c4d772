"""How far the logits of ONNX Runtime are from those of the model in float64, for several sizes, with random weights:
python benchmarks/exported_logits.py [--models r26x1 r50x1]
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.lib.results import header, write_result
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.progress import Progress
from trainer.evaluation.exporting.graph_report import TOLERANCE, largest_difference
from trainer.models import graph as graphs
from trainer.models.bit import MODELS, BiTResNet, build_model

_OUTPUTS, _CHANNELS = 14, 1  # as of chest X-rays
_SPREAD = 0.2  # of scale and shift of the norms, which else would be 1 and 0


@dataclass(frozen=True)
class ExportedLogits:
    """Which models, and where the result goes."""

    models: tuple[str, ...] = ("r14x0.5", "r26x1", "r50x1", "r101x1", "r50x3")
    """In this order."""
    image_size: int = 64
    """Side of the generated images, in pixels."""
    seed: int = 0
    """Decides the weights."""
    out: Path = Path("exported_logits.json")
    """JSON file to write; a table of the same name with .md goes beside it."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.models if name not in MODELS]:
            raise InputError(f"--models has {', '.join(unknown)}; there are {', '.join(MODELS)}")
        if not self.models or self.image_size < 1:
            raise InputError("--models needs at least one model, --image-size must be at least 1")


def drawn_model(name: str, seed: int) -> BiTResNet:
    """A model for evaluation in which no weight, scale or shift could be left out unnoticed."""
    torch.manual_seed(seed)
    model = build_model(name, _OUTPUTS, "fan_in").eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter), alpha=_SPREAD)
    return model


def measure(name: str, settings: ExportedLogits) -> dict[str, Any]:
    """Export a model and compare. Raises RunError where the logits differ by more than an export may."""
    model = drawn_model(name, settings.seed)
    with TemporaryDirectory() as folder, Progress(name):
        graphs.save_onnx(graphs.graph_of(model, settings.image_size, _CHANNELS), Path(folder), {})
        runner = graphs.onnx_runner(Path(folder), torch.get_num_threads())
        difference = largest_difference(graphs.exact_runner(model), runner, settings.image_size, _CHANNELS)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"model": name, "parameters": parameters, "largest_difference": difference}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The differences as Markdown."""
    lines = ["| model | millions of parameters | difference, as a share of the largest logit |", "|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['model']} | {row['parameters'] / 1e6:.1f} | {row['largest_difference']:.1e} |")
    return "\n".join(lines) + "\n"


@entry_point
def main() -> None:
    """Parse the command line, measure, and write JSON and Markdown."""
    settings = parse(ExportedLogits, __doc__)
    graphs.require_onnx()
    rows: list[dict[str, Any]] = []
    about = {"image_size": settings.image_size, "seed": settings.seed, "tolerance": TOLERANCE}
    for name in settings.models:
        rows.append(measure(name, settings))
        # After each: the next one may not fit into the memory.
        write_result(
            settings.out, header("exported_logits", packages=("onnxruntime",)) | about | {"models": rows}, table(rows)
        )


if __name__ == "__main__":
    main()
