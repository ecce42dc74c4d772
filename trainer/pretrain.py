"""Pre-train: torchrun --nproc-per-node 4 trainer/pretrain.py RECIPE [--optim.base-lr 0.02 ...]

Without a recipe the embedded demo runs. A run that is already in its folder is resumed.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import tyro

from data_pipelines.common.cli import entry_point
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from data_pipelines.common.limits import require_numbers
from data_pipelines.common.message_parts import nearest
from data_pipelines.common.messages import rank_0_logger
from data_pipelines.common.old_flags import translate
from trainer.config import Config, differences
from trainer.finetuning.paper_protocol import departures, match_authors, match_paper_code
from trainer.recipes import RECIPES
from trainer.run_files import CONFIG
from trainer.run_folder import install_rank_log
from trainer.splits import lacks_val
from trainer.training.run import Start, run_dir_of
from trainer.training.start import plan_of, start_run

DEFAULT_RECIPE = "embedded"
_DEFAULT_START = Start()
# Flags of earlier versions, which queued jobs may still give.
_OLD_FLAGS = {
    "--run-dir": "--out",
    "--resume-anyway": "--allow-config-change",
    "--stage": "--cache-dir",
    "--optim.paper-code": "--match-authors",
}
_OLD_MEANING = (
    "the run was begun by an earlier version and goes on so: of the authors' program it had Nesterov momentum, "
    "clipping by the head's shape and shifts of X-rays by up to 25% alone"
)
_SWITCH_HELP = (
    "Pre-train as the authors' program does where the paper's text says less or something else: see docs/fidelity.md. "
    "Any other flag beats it."
)


@dataclass(frozen=True)
class Command:
    """What a command line says. default: the configuration that it began with, of the recipe and the switch."""

    config: Config
    start: Start
    plan: bool
    match_authors: bool
    default: Config

    @property
    def result_fields(self) -> dict[str, Any]:
        """What the result is to say of the run."""
        planned = match_authors(self.default) if self.match_authors else self.default
        return {
            "kind": "pretrain",
            "protocol": "authors" if self.match_authors else "default",
            "departures": departures(self.config, planned),
        }


def _command(recipe: Callable[[], Config], default: Config) -> Callable[..., Command]:

    def command(
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
        start: Annotated[Start, tyro.conf.arg(name="")] = _DEFAULT_START,
        plan: Annotated[bool, tyro.conf.arg(help="Print steps, batch and checkpoint size as JSON, and stop.")] = False,
        match_authors: Annotated[bool, tyro.conf.arg(help=_SWITCH_HELP)] = False,
    ) -> Command:
        return Command(config, start, plan, match_authors, default)

    command.__doc__ = inspect.getdoc(recipe.func if isinstance(recipe, partial) else recipe)
    return command


def parse(arguments: list[str]) -> Command:
    """What a command line says. Raises InputError for an unknown recipe."""
    if arguments[:1] in (["-h"], ["--help"]):
        commands = {name: _command(recipe, recipe()) for name, recipe in RECIPES.items()}
        tyro.extras.subcommand_cli_from_dict(commands, args=["--help"], description=__doc__)
    if not arguments or arguments[0].startswith("-"):
        arguments = [DEFAULT_RECIPE, *arguments]
    name, *rest = translate(arguments, _OLD_FLAGS)
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{nearest(name, list(RECIPES))}")
    recipe = RECIPES[name]

    def from_default(default: Config) -> Command:
        command = tyro.cli(_command(recipe, default), args=rest, prog=f"pretrain.py {name}")
        require_numbers(command.config)
        return command

    # The other flags are checked against the values that the switch sets, so it is looked for first.
    switched = _is_switched_on(rest)
    command = from_default(match_authors(recipe()) if switched else recipe())
    assert command.match_authors == switched
    begun = read_json(run_dir_of(command.config, command.start) / CONFIG) if command.start.resume else None
    if not command.match_authors or not isinstance(begun, dict):
        return command
    try:
        old = from_default(match_paper_code(recipe()))
    except InputError:  # by a flag that the earlier version did not have
        return command
    # Begun by an earlier version, when the switch stood for three settings only?
    if len(differences(begun, old.config.to_dict())) >= len(differences(begun, command.config.to_dict())):
        return command
    rank_0_logger.info(f"note: {_OLD_MEANING}")
    return old


def _is_switched_on(arguments: list[str]) -> bool:
    """Whether the switch is given; of several times the last counts."""
    states = {"--match-authors": True, "--no-match-authors": False}
    given = [states[word] for word in (argument.replace("_", "-") for argument in arguments) if word in states]
    return given[-1] if given else False


@entry_point
def main() -> None:
    """Parse the command line and pre-train."""
    install_rank_log()
    command = parse(sys.argv[1:])
    config, start = command.config, command.start
    if command.plan:
        print(json.dumps(plan_of(config, run_dir_of(config, start)), indent=1))
        return
    start_run(config, start, command.result_fields, lacks_val(config.data))


if __name__ == "__main__":
    main()
