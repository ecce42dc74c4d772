"""Training memory: what autograd keeps, and what fits a GPU, which need not be present."""

import torch

from trainer.models.bit import build_model
from trainer.training.memory import count_memory, kept_per_image

GPUS = {
    "v100-16gb": 16,
    "v100-32gb": 32,
    "a100-40gb": 40,
    "a100-80gb": 80,
    "h100-80gb": 80,
    "h200-141gb": 141,
}
"""Memory by name, 2**30 bytes, but for the H200's 1e9, as their makers count."""
_USABLE = 0.9  # the rest: the context, libraries' workspaces, fragmentation, one layer's transient memory
_NUM_CLASSES = 1000


def plan(name: str, gpu: str, image_size: int) -> str:
    """An estimate, as Markdown: the largest batch of one GPU, with and without checkpointing."""
    total = GPUS[gpu] * (10**9 if gpu == "h200-141gb" else 2**30) * _USABLE
    lines = [
        f"{name}, {image_size} px, bf16, {gpu}: estimated, not measured; {_USABLE:.0%} of the GPU counted as usable.",
        "",
        "| --checkpoint-stages | activations, MB per image | images in one pass | memory |",
        "|---|---|---|---|",
    ]
    for stages in range(5):
        memory = count_memory(name, _NUM_CLASSES, image_size, checkpoint_stages=stages)
        images = max(0, int((total - memory.total(0)) // memory.activations_per_image))
        lines.append(f"| {stages} | {memory.activations_per_image / 1e6:.0f} | {images} | {memory.summary(images)} |")
    return "\n".join(lines) + "\n"


def kept_beside_timm(name: str, twin: str, num_classes: int, image_size: int, device: torch.device) -> dict[str, float]:
    """Megabytes that autograd keeps of each image for the backward pass, ours and timm's, eager, bf16, channels-last;
    and their ratio."""
    import timm

    def bytes_of(images: int) -> torch.Tensor:
        return torch.zeros(images, image_size, image_size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)

    ours = kept_per_image(build_model(name, num_classes).to(device), bytes_of, "bf16")
    theirs = timm.create_model(twin, num_classes=num_classes).to(device).to(memory_format=torch.channels_last)
    kept = kept_per_image(theirs, lambda images: bytes_of(images).float(), "bf16")
    return {"ours_mb": ours / 1e6, "timm_mb": kept / 1e6, "ratio": ours / kept}
