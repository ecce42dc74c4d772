"""A network as a graph that other programs run: ONNX, or a program of torch.export.

Images go in as they lie in memory; normalisation and standardised filters are part of the graph.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import utf8_path, write_json
from trainer.models.bit import BiTResNet
from trainer.models.export_settings import ONNX, TORCH
from trainer.models.filters import STANDARDISATION_EPS, FoldedFilters
from trainer.models.layouts import standardised
from trainer.models.weight_files import CONFIG, OWN_KEY

IMAGES, LOGITS = "images", "logits"
OPSET = 18
NEEDS = (
    "--format onnx needs onnx, onnxscript and onnxruntime; in the checkout of bitscale: pip install -e '.[onnx]', or "
    "take --format torch"
)
MOST_BYTES_INSIDE = 2**31 - 2**24
"""Of weights in `model.onnx` itself: protobuf ends at 2 GiB, and the graph takes some of it."""
Graph = torch.export.ExportedProgram
Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Runner = Callable[[Pixels], Logits]
"""uint8 [N, H, W, C] -> float32 [N, K]."""


class _OfPictures(nn.Module):
    """uint8 images [N, H, W, C], as Pillow and NumPy hold them -> logits, float32 [N, K]."""

    def __init__(self, network: BiTResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.permute(0, 3, 1, 2))
        return logits


def require_onnx() -> None:
    """Raise InputError unless the packages of the extra are there."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise InputError(NEEDS)


def graph_of(model: BiTResNet, side: int, channels: int) -> Graph:
    """The graph of a model on the CPU, in fp32, for uint8 images [N, side, side, channels] of any N."""
    folded = deepcopy(model).eval().requires_grad_(False)
    folded.load_state_dict(standardised(model.state_dict(), STANDARDISATION_EPS))
    folded.filter_sharing = FoldedFilters()
    pictures = torch.zeros(2, side, side, channels, dtype=torch.uint8)
    with torch.no_grad():
        graph = torch.export.export(
            _OfPictures(folded), (pictures,), dynamic_shapes={IMAGES: {0: torch.export.Dim("batch", min=1)}}
        )
    for node in graph.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine that exported it
    return graph


def save_onnx(graph: Graph, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write `model.onnx` with the metadata as JSON, and the weights beside it where they are too large for one file."""
    program = torch.onnx.export(
        graph,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        input_names=[IMAGES],
        output_names=[LOGITS],
        dynamic_shapes={IMAGES: {0: "batch"}},
    )
    assert program is not None
    model = program.model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    model.metadata_props[OWN_KEY] = json.dumps(metadata)
    is_large = sum(tensor.nbytes for tensor in graph.state_dict.values()) > MOST_BYTES_INSIDE
    with utf8_path(folder / ONNX) as name:
        program.save(name, external_data=is_large)


def save_torch(graph: Graph, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write `model.pt2` for torch.export.load, with the metadata as its extra file."""
    with utf8_path(folder / TORCH) as name:
        torch.export.save(graph, name, extra_files={f"{OWN_KEY}.json": json.dumps(metadata)})


def write_config(folder: Path, metadata: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Write `config.json`: the metadata of the graph, and what was measured of it."""
    write_json(folder / CONFIG, {OWN_KEY: metadata, "report": report})


def onnx_runner(folder: Path, threads: int) -> Runner:
    """The network of a folder with `model.onnx` in ONNX Runtime on the CPU. Raises RunError where it does not load."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with utf8_path(folder / ONNX) as name:
        try:
            session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base class
            raise RunError(
                f"ONNX Runtime {onnxruntime.__version__} does not load what was exported: {error}"
            ) from error

    def run(images: Pixels) -> Logits:
        logits: Logits = session.run([LOGITS], {IMAGES: images})[0]
        return logits

    return run


def torch_runner(folder: Path) -> Runner:
    """The network of a folder with `model.pt2`."""
    with utf8_path(folder / TORCH) as name:
        network = torch.export.load(name).module()
    return lambda images: _logits(network, torch.from_numpy(images))


def model_runner(model: BiTResNet) -> Runner:
    """A model as it is, with filters that are standardised once for a batch."""
    return lambda images: _logits(model, torch.from_numpy(images).permute(0, 3, 1, 2))


def exact_runner(model: BiTResNet) -> Runner:
    """A copy of the model that computes in float64."""
    return model_runner(deepcopy(model).double())


def _logits(network: nn.Module, images: Tensor) -> Logits:
    with torch.no_grad():
        logits: Logits = network(images).numpy()
    return logits
