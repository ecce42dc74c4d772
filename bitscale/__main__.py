"""python -m bitscale SUBCOMMAND: the same as the command bitscale."""

from bitscale.cli import main

if __name__ == "__main__":
    main()
