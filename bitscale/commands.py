"""The subcommands of `bitscale`, by name and in the order of their help. One is imported when it is run."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.common.program import be_called, program


class Subcommand(NamedTuple):
    """module: whose `main` runs it. line: of the help. words: that stand before its own arguments."""

    module: str
    line: str
    words: tuple[str, ...] = ()


GROUPS: dict[str, dict[str, Subcommand]] = {
    "data": {
        "prepare": Subcommand("data_pipelines.prepare", "make a data set ready for training, or verify one"),
        "inspect": Subcommand("data_pipelines.inspect", "draw a page of a prepared set: images, labels, sizes"),
    },
    "training": {
        "pretrain": Subcommand("trainer.pretrain", "pre-train a model by a recipe, or resume"),
        "transfer": Subcommand("trainer.transfer", "fine-tune a model on another set, once"),
        "sweep": Subcommand("trainer.transfer", "fine-tune several sources on several sets", ("sweep",)),
        "status": Subcommand("trainer.status", "show the state of runs, and the command that resumes each"),
    },
    "results": {
        "report": Subcommand("trainer.report", "collect finished runs into tables, figures and a page"),
        "evaluate": Subcommand("trainer.evaluate", "judge a run on its test split or on another set"),
        "proximity": Subcommand("trainer.proximity", "measure how far targets lie from sources"),
        "predict": Subcommand("trainer.predict", "predict new images with a run"),
        "export": Subcommand("trainer.export", "write a run for timm, ONNX and others"),
    },
    "clusters": {
        "submit": Subcommand("launchers.submit", "run the trainer, or a plan of a sweep, as SLURM jobs"),
        "scaling": Subcommand("benchmarks.scaling", "measure and predict throughput on 1 to 1024 GPUs"),
    },
}
SUBCOMMANDS: dict[str, Subcommand] = {name: each for group in GROUPS.values() for name, each in group.items()}


def run(name: str, arguments: Sequence[str]) -> None:
    """Run a subcommand with its arguments, as if they were typed."""
    subcommand = SUBCOMMANDS[name]
    from data_pipelines.common.loading_line import say_what_is_loading  # here because it imports what the help does not

    say_what_is_loading(name, arguments)
    be_called(f"{program()} {name}")
    sys.argv = [sys.argv[0], *subcommand.words, *arguments]
    try:
        importlib.import_module(subcommand.module).main()
    except KeyboardInterrupt:  # while it was loaded: its entry point does likewise later
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        be_called(None)
