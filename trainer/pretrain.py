"""Pre-train: torchrun --nproc-per-node 4 trainer/pretrain.py RECIPE [--optim.base-lr 0.02 ...]

Without a recipe the embedded demo runs. A run that is already in its folder is resumed.
"""

import os
import sys

if not __package__:  # run as a script: this folder on sys.path would shadow other people's modules
    sys.path = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from data_pipelines.entry import entry_point
from data_pipelines.errors import InputError
from data_pipelines.index import nearest
from trainer import logs
from trainer.config import Config
from trainer.engines import ENGINES
from trainer.experiment import Start, run, summary
from trainer.job import make_job
from trainer.models.bit import build_model
from trainer.recipes import RECIPES

DEFAULT_RECIPE = "embedded"
_DEFAULT_START = Start()
Command = tuple[Config, Start, bool]


def _command(recipe: Callable[[], Config]) -> Callable[..., Command]:
    default = recipe()

    def command(
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
        start: Annotated[Start, tyro.conf.arg(name="")] = _DEFAULT_START,
        plan: Annotated[bool, tyro.conf.arg(help="Print steps, batch and checkpoint size as JSON, and stop.")] = False,
    ) -> Command:
        return config, start, plan

    command.__doc__ = inspect.getdoc(recipe.func if isinstance(recipe, partial) else recipe)
    return command


def parse(arguments: list[str]) -> Command:
    """Configuration, start and whether only the plan is wanted. Raises InputError for an unknown recipe."""
    if arguments[:1] in (["-h"], ["--help"]):
        commands = {name: _command(recipe) for name, recipe in RECIPES.items()}
        tyro.extras.subcommand_cli_from_dict(commands, args=["--help"], description=__doc__)
    if not arguments or arguments[0].startswith("-"):
        arguments = [DEFAULT_RECIPE, *arguments]
    name, *rest = arguments
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{nearest(name, list(RECIPES))}")
    return tyro.cli(_command(RECIPES[name]), args=rest, prog=f"pretrain.py {name}")


def make_plan(config: Config, start: Start) -> dict[str, Any]:
    """What a run would be: steps, batch, images and the bytes of one checkpoint."""
    planned = replace(config, runtime=replace(config.runtime, stage=None))  # a plan copies nothing
    job = make_job(planned, start.run_dir or Path("runs") / config.name)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model(config.model.name, job.train.num_classes).parameters())
    return {
        "name": config.name,
        "run_dir": str(job.run_dir),
        "total_steps": job.total_steps,
        "global_batch_size": config.global_batch_size,
        "train_images": len(job.train),
        "parameters": parameters,
        "checkpoint_bytes": 2 * 4 * parameters,  # fp32 weights and momentum
    }


@entry_point
def main() -> None:
    """Parse the command line and pre-train."""
    logs.install()
    config, start, plan = parse(sys.argv[1:])
    if plan:
        print(json.dumps(make_plan(config, start), indent=1))
        return
    engine = ENGINES[config.runtime.engine](config.runtime, config.precision)
    result = run(config, start, engine, {"kind": "pretrain"})
    if engine.rank == 0 and not start.preflight_only:
        print(summary(result))
    engine.close()


if __name__ == "__main__":
    main()
