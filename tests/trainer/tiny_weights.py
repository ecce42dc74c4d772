"""Small models and the files that other programs would make of them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from trainer import checkpoint
from trainer.models.bit import build_model
from trainer.models.layouts import BIT_NPZ, BIT_PYTORCH, TIMM
from trainer.run_files import CHECKPOINTS

SMALL = "r14x0.5"
CLASSES = ("cat", "dog", "fish")
Tensors = dict[str, Tensor]


def tensors_of(name: str = SMALL, num_classes: int = len(CLASSES), seed: int = 0) -> Tensors:
    """A model's tensors, none of them constant."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes, "fan_in")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(mean=float("norm" in key and key.endswith("weight")), std=0.2)
    return {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}


def save_run(folder: Path, tensors: Tensors, name: str = SMALL, **about: Any) -> Path:
    """A run folder with one checkpoint."""
    state = {"model": tensors, "momentum": {"head.bias": torch.zeros(3)}, "loss_scaler": {}}
    known = {"model": name, "classes": list(CLASSES), "sets": ["digits"], "image_size": 32, "step": 7}
    checkpoint.save(folder / CHECKPOINTS / checkpoint.BEST, state, known | about)
    return folder


def save_npz(path: Path, tensors: Tensors) -> Path:
    np.savez(path, **{name: tensor.numpy() for name, tensor in BIT_NPZ.to_external(tensors).items()})
    return path


def save_timm(path: Path, tensors: Tensors) -> Path:
    save_file(TIMM.to_external(tensors), path, metadata={"format": "pt"})
    return path


def save_paper(path: Path, tensors: Tensors) -> Path:
    """As the paper's program saves after an epoch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"model": BIT_PYTORCH.to_external(tensors), "optimizer": optimizer, "epoch": 3}, path)
    return path
