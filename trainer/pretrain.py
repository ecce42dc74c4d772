"""Pre-train: torchrun --nproc-per-node 4 trainer/pretrain.py RECIPE [--optim.base-lr 0.02 ...]

RECIPE is a name, a TOML file, or the config.json of a run. Without one the embedded demo runs. A run that is already in
its folder is resumed.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_pipelines.common.cli import entry_point
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from data_pipelines.common.flag_parser import parse_flags
from data_pipelines.common.limits import require_numbers
from data_pipelines.common.messages import rank_0_logger
from data_pipelines.common.old_flags import translate
from data_pipelines.common.program import program
from trainer.config import (
    Config,
    config_of,
    differences,
    given_by,
    open_to,
    values_of,
    with_plain_settings,
    with_settings,
)
from trainer.finetuning.paper_protocol import departures, match_authors, match_paper_code
from trainer.recipes import OWN, Recipe, find_recipe, overview
from trainer.run_files import CONFIG
from trainer.run_folder import install_rank_log
from trainer.splits import few_test_images, lacks_val, require_several_classes
from trainer.training.launch_options import LaunchOptions, run_dir_of

DEFAULT_RECIPE = "embedded"
_DEFAULT_LAUNCH = LaunchOptions()
# Flags of earlier versions, which queued jobs may still give.
_OLD_FLAGS = {
    "--run-dir": "--out",
    "--resume-anyway": "--allow-config-change",
    "--stage": "--cache-dir",
    "--optim.paper-code": "--match-authors",
}
_BEGUN_BEFORE = "the run was begun by an earlier version and goes on so: "
_OLD_PAPER_CODE = (
    f"{_BEGUN_BEFORE}of the authors' program it had Nesterov momentum, clipping by the head's shape and shifts of "
    "X-rays by up to 25% alone"
)
_OLD_INDEPENDENCE = (
    f"{_BEGUN_BEFORE}data.resize did not follow data.image_size yet, nor did schedule.epochs replace schedule.steps"
)
_NO_RECIPE = (
    f"no recipe is named, so the settings are those of {DEFAULT_RECIPE}, a demo; {OWN} has settings that fit your "
    f"images: bitscale pretrain {OWN} --data.sets NAME"
)
_SWITCH_HELP = (
    "Pre-train as the authors' program does where the paper's text says less or something else: see docs/fidelity.md. "
    "Any other flag beats it, and so does a key of a file."
)


@dataclass(frozen=True)
class Command:
    """What a command line says. planned: the configuration that it departs from, of the recipe and the switch."""

    config: Config
    launch: LaunchOptions
    plan: bool
    match_authors: bool
    planned: Config

    @property
    def result_fields(self) -> dict[str, Any]:
        """What the result is to say of the run."""
        return {
            "kind": "pretrain",
            "protocol": "authors" if self.match_authors else "default",
            "departures": departures(self.config, self.planned),
        }


def command_of(doc: str, default: Config) -> Callable[..., Command]:
    """The function whose parameters are the flags of a recipe, with its configuration as defaults."""

    def command(
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
        launch: Annotated[LaunchOptions, tyro.conf.arg(name="")] = _DEFAULT_LAUNCH,
        plan: Annotated[bool, tyro.conf.arg(help="Print steps, batch and checkpoint size as JSON, and stop.")] = False,
        match_authors: Annotated[bool, tyro.conf.arg(help=_SWITCH_HELP)] = False,
    ) -> Command:
        return Command(config, launch, plan, match_authors, default)

    command.__doc__ = doc
    return command


def parse(arguments: list[str]) -> Command:
    """What a command line says. Raises InputError for an unknown recipe, and for a file that cannot be used."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(overview())
        sys.exit()
    if not arguments or arguments[0].startswith("-"):
        if "data.sets" in given_by(arguments):
            rank_0_logger.info(f"note: {_NO_RECIPE}")
        arguments = [DEFAULT_RECIPE, *arguments]
    name, *rest = translate(arguments, _OLD_FLAGS)
    recipe, names = find_recipe(name), given_by(rest)
    protocol = match_authors if _is_switched_on(rest) else _as_it_is
    # A command line is read over a preview first: what a recipe chooses may depend on it.
    preview = open_to(recipe.with_files(protocol(recipe.preview())), names)
    read = command_of(recipe.doc, preview)
    command: Command = parse_flags(
        read, rest, f"{program()} {name}", titles={"config": "the run", "launch": "this launch"}
    )
    require_numbers(command.config)
    given = values_of(command.config, names)
    command = replace(command, launch=_launch_of(recipe, command, "name" in given))
    run_dir = run_dir_of(with_plain_settings(preview, recipe.called(given)), command.launch)
    begun = read_json(run_dir / CONFIG) if command.launch.resume else None
    begun = begun if isinstance(begun, dict) else None
    base = _base_config(recipe, given, begun, run_dir)

    def configured(protocol: Callable[[Config], Config], applied: Callable[..., Config] = with_settings) -> Config:
        return applied(recipe.with_files(protocol(base)), given)

    config = configured(protocol)
    require_numbers(config)
    planned = protocol(base) if recipe.is_named else recipe.with_files(protocol(base))

    earlier = [(partial(configured, protocol, with_plain_settings), _OLD_INDEPENDENCE)]
    if command.match_authors:
        earlier.append((partial(configured, match_paper_code, with_plain_settings), _OLD_PAPER_CODE))
    return replace(command, config=_as_begun(begun, config, earlier), planned=planned)


def _as_it_is(config: Config) -> Config:
    return config


def _launch_of(recipe: Recipe, command: Command, is_named: bool) -> LaunchOptions:
    """The launch options, with a folder of its own where a run is repeated."""
    if recipe.repeats is None or command.launch.out is not None or is_named:
        return command.launch
    out = recipe.repeats.with_name(f"{recipe.repeats.name}-repeat")
    rank_0_logger.info(f"note: repeats {recipe.repeats} in {out}; --out names another folder")
    return replace(command.launch, out=out)


def _base_config(recipe: Recipe, given: dict[str, Any], begun: dict[str, Any] | None, run_dir: Path) -> Config:
    """The configuration that files and flags change. What was chosen for a begun run is not chosen again."""
    if recipe.name != OWN or begun is None:
        return recipe.config(given)
    rank_0_logger.info(f"note: goes on with what {run_dir / CONFIG} says; nothing is chosen anew")
    return config_of(begun)


def _as_begun(
    begun: dict[str, Any] | None, config: Config, earlier: Sequence[tuple[Callable[[], Config], str]]
) -> Config:
    """The configuration, or what an earlier version made of the same command line if that is how the run was begun."""
    if begun is None:
        return config
    fewest, found, note = len(differences(begun, config.to_dict())), config, ""
    for make, meaning in earlier if fewest else ():
        try:
            other = make()
        except InputError:  # by a flag that the earlier version did not have, or had otherwise
            continue
        if (count := len(differences(begun, other.to_dict()))) < fewest:
            fewest, found, note = count, other, meaning
    if note:
        rank_0_logger.info(f"note: {note}")
    return found


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
    config, launch = command.config, command.launch
    require_several_classes(config.data)
    # Here because it comes with PyTorch, which the help does not need.
    from trainer.training.start import plan_of, start_run

    if command.plan:
        print(json.dumps(plan_of(config, launch), indent=1, ensure_ascii=False))
        return
    start_run(config, launch, command.result_fields, [*lacks_val(config.data), *few_test_images(config.data)])


if __name__ == "__main__":
    main()
