"""Fine-tune once: bitscale transfer --pretrained RUN --target digits --shots 5 --seed 0

Everything follows BiT-HyperRule unless given. Under torchrun the run is shared by the ranks.
Many runs, one command: bitscale sweep --help
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import sys

from data_pipelines.common.cli import entry_point, parse
from data_pipelines.datasets.catalog import find
from trainer.finetuning.command_line import OFTEN, TransferCommand, require_sources, todays
from trainer.run_folder import install_rank_log
from trainer.sweep.command import main_sweep


@entry_point
def main() -> None:
    """Parse the command line; fine-tune once, or sweep."""
    if sys.argv[1:2] == ["sweep"]:
        main_sweep(sys.argv[2:])
    else:
        install_rank_log()
        arguments = todays(sys.argv[1:])
        transfer = parse(TransferCommand, __doc__, args=arguments, often=OFTEN).transfer(arguments)
        require_sources(transfer.pretrained)
        find(transfer.target)
        # Here because it comes with PyTorch, which help and refusals do not need.
        from trainer.finetuning.finetune import fine_tune

        fine_tune(transfer)


if __name__ == "__main__":
    main()
