"""Memory of training on a GPU that need not be there."""

from trainer.memory_report import count_memory

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
        lines.append(f"| {stages} | {memory.activations_per_image / 1e6:.0f} | {images} | {memory.in_words(images)} |")
    return "\n".join(lines) + "\n"
