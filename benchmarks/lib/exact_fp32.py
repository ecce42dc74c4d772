"""Correctness checks compute in whole fp32, whatever the measurements around them may use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_fp32() -> Iterator[None]:
    """No TF32 in matrix products and convolutions; afterwards all is as before. Also a decorator.

    TF32, which cuDNN's convolutions use unless told otherwise, keeps 10 bits of mantissa: gradients of an untrained
    network are then a third of their norm away from float64, and no check could tell that from an error.
    """
    product, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(product)
        torch.backends.cudnn.allow_tf32 = convolution
