"""Fine-tune once: python trainer/transfer.py --pretrained RUN --target digits --shots 5 --seed 0

Everything follows BiT-HyperRule unless given. Under torchrun the run is shared by the ranks.
Many runs, one command: python trainer/transfer.py sweep --help
"""

import os
import sys

if not __package__:  # run as a script: this folder on sys.path would shadow other people's modules
    sys.path = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]


from data_pipelines.common.cli import entry_point, parse
from trainer.finetuning.finetune import Transfer, fine_tune
from trainer.run_folder import rank_logs
from trainer.sweep.command import main_sweep


@entry_point
def main() -> None:
    """Parse the command line; fine-tune once, or sweep."""
    if sys.argv[1:2] == ["sweep"]:
        main_sweep(sys.argv[2:])
    else:
        rank_logs.install()
        fine_tune(parse(Transfer, __doc__))


if __name__ == "__main__":
    main()
