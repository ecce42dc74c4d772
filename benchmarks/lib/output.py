"""What benchmarks of one program share: the device that is measured, and the files that they leave."""

from pathlib import Path
from typing import Any

import torch

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json


def measured_device(asked: str) -> torch.device:
    """The device for auto, cpu or cuda. Raises InputError where a GPU is asked for and there is none."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("no GPU: GPU figures are not measured here; take --device cpu")
    on_gpu = asked != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def leave(out: Path, result: dict[str, Any], table: str) -> None:
    """Write the result as JSON, its table as Markdown beside it, and print that."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
