"""DALI on the device hands out the batches that torchvision makes on the CPU."""

from itertools import islice

import numpy as np
import pytest
import torch

from data_pipelines.datasets.catalog import EMBEDDED
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.views import POLICIES, Augmentation, Border, PolicyName
from data_pipelines.shards.index import Index


@pytest.mark.parametrize(
    ("policy", "border"), [*((policy, "black") for policy in POLICIES), ("xray_affine", "reflect")]
)
def test_dali_agrees_with_torch(policy: PolicyName, border: Border, device: torch.device) -> None:
    pytest.importorskip("nvidia.dali")
    index = Index.load(EMBEDDED / "fashion_mnist", "val")
    augmentation = Augmentation(policy, size=48, resize=56, seed=1, mixup_alpha=0.1, border=border)
    requests = list(islice(BatchSampler(64, 36, seed=0).micro_batches(2, 0, 1, 18), 4))
    cpu = torch.device("cpu")
    oracle = pick_loader("torch", on_gpu=False)[1](index, requests, augmentation, cpu, 1)
    found = list(pick_loader("dali", on_gpu=device.type == "cuda")[1](index, requests, augmentation, device, 2))
    for one, other in zip(found, oracle, strict=True):
        assert one.images.device == device
        assert one.images.dtype == torch.uint8
        assert one.images.is_contiguous(memory_format=torch.channels_last)
        difference = (one.images.cpu().float() - other.images.float()).abs()
        assert difference.mean((1, 2, 3)).max() <= 2  # a GPU decodes and interpolates in another order
        assert torch.equal(one.labels.cpu(), other.labels)
        assert torch.equal(one.mixup.cpu(), other.mixup)
        assert np.array_equal(one.samples, other.samples)
