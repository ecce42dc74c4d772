"""Peak FLOP/s of GPUs by name. A GPU that is not in the table is unknown, not guessed."""

from trainer.config import Precision

_FP32, _TF32, _HALF = range(3)
# Teraflop/s of matrix products: fp32, TF32, and bf16 or fp16 with fp32 sums; of dense matrices, where data sheets often
# print twice as much for sparse ones. Source: NVIDIA's data sheet of each. A longer name stands before its beginning.
_PEAKS = (
    ("NVIDIA B200", (75.0, 1125.0, 2250.0)),
    ("NVIDIA H200 NVL", (60.0, 417.5, 835.5)),
    ("NVIDIA H200", (67.0, 494.5, 989.5)),
    ("NVIDIA GH200", (67.0, 494.5, 989.5)),
    ("NVIDIA H100 NVL", (60.0, 417.5, 835.5)),
    ("NVIDIA H100 PCIe", (51.2, 378.0, 756.0)),
    ("NVIDIA H100 80GB HBM3", (67.0, 494.5, 989.5)),
    ("NVIDIA A100", (19.5, 156.0, 312.0)),
    ("NVIDIA A40", (37.4, 74.8, 149.7)),
    ("NVIDIA A30", (10.3, 82.0, 165.0)),
    ("NVIDIA L40S", (91.6, 183.0, 362.0)),
    ("Tesla V100-SXM2", (15.7, None, 125.0)),
    ("Tesla V100-PCIE", (14.0, None, 112.0)),
)


def peak_flops(gpu: str, precision: Precision, tf32: bool = False) -> float | None:
    """Peak FLOP/s of a GPU, by its name from torch.cuda.get_device_name, for training in a precision; `tf32` where fp32
    may use TF32. None where unknown, as for a part of a GPU (MIG)."""
    if " MIG " in f"{gpu} ":
        return None
    tera = next((peaks for name, peaks in _PEAKS if f"{gpu}-".startswith((f"{name} ", f"{name}-"))), None)
    if tera is None:
        return None
    tensor_cores = tera[_TF32] if precision == "fp32" and tf32 else None
    peak = tensor_cores or tera[_FP32 if precision == "fp32" else _HALF]
    return None if peak is None else peak * 1e12
