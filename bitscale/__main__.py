"""python -m bitscale SUBCOMMAND: the same as the command bitscale."""

import os
import sys

if sys.path[:1] == [os.getcwd()]:  # which `python -m` puts first; its data_pipelines.py would hide ours
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from bitscale.cli import main

if __name__ == "__main__":
    main()
