"""Recipes that run on any machine in minutes, to see that all works."""

from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig


def embedded() -> Config:
    """Demo: r14x0.5 on 9,000 embedded Fashion-MNIST images at 32 px, 1,200 steps."""
    return Config(
        name="embedded",
        global_batch_size=128,
        precision="fp32",
        eval_every=200,
        data=DataConfig(sets=("fashion_mnist",), image_size=32, resize=36, train_view="resize_random_crop"),
        model=ModelConfig(name="r14x0.5"),
        optim=OptimConfig(base_lr=0.4),
        schedule=ScheduleConfig(kind="cosine", epochs=None, steps=1200, warmup_steps=100),
        runtime=RuntimeConfig(log_every=20, save_every=100),
    )


def phantom() -> Config:
    """Demo: several findings an image, r14x0.5 on synthetic chest phantoms (prepare them first) at 64 px."""
    return Config(
        name="phantom",
        global_batch_size=64,
        precision="fp32",
        eval_every=100,
        data=DataConfig(sets=("phantom",), image_size=64, resize=64),
        model=ModelConfig(name="r14x0.5"),
        optim=OptimConfig(base_lr=0.1),
        schedule=ScheduleConfig(kind="cosine", epochs=None, steps=400, warmup_steps=40),
        runtime=RuntimeConfig(log_every=20, save_every=100),
    )
