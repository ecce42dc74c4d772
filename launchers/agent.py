"""torchrun for torchrun.sh: what ended it is said in a line, not by tracebacks, and its exit code is that of the ranks.

usage: agent.py [OPTIONS OF TORCHRUN] SCRIPT [ARGUMENTS OF THE SCRIPT]
"""

import logging
import os
import runpy
import signal
import sys
from typing import Any

_COMMAND = "BITSCALE_COMMAND"  # what was typed, from common.sh


def main() -> None:
    """Run torchrun in this process."""
    del sys.path[0]  # its modules might hide other people's
    # What goes wrong, the ranks say themselves; torchrun and the store beside it add stacks and signals of their own.
    if "LOGLEVEL" not in os.environ:  # with which torch lets one ask for them
        os.environ["LOGLEVEL"] = "CRITICAL"
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        runpy.run_module("torch.distributed.run", run_name="__main__")
    except Exception as error:
        name = type(error).__name__  # as importing them takes seconds, which --help need not wait for
        if name == "ChildFailedError":
            sys.exit(_code_of(error))
        if name == "SignalException":
            received: signal.Signals = error.sigval  # type: ignore[attr-defined]
            sys.exit(0 if received == signal.SIGUSR1 else 128 + received)
        if name.startswith(("Rendezvous", "Dist")):
            print(f"error: this node and the others do not find each other any more ({name})", file=sys.stderr)
            _tell_how_to_go_on()
            sys.exit(1)
        raise
    except KeyboardInterrupt:  # before torchrun takes signals, or while it waits for the other nodes
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _tell_how_to_go_on() -> None:
    if _COMMAND in os.environ:
        print(f"to resume from the last checkpoint:\n  {os.environ[_COMMAND]}", file=sys.stderr)


def _code_of(error: Any) -> int:
    """The exit code of the rank that failed first, after a line about it if it was killed and so said nothing."""
    rank, first = error.get_first_failure()
    if first.exitcode >= 0:
        return int(first.exitcode)
    number = signal.Signals(-first.exitcode)
    often = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
    print(f"rank {rank} (process {first.pid}) was ended by {number.name}{often}", file=sys.stderr)
    if all(failure.exitcode < 0 for failure in error.failures.values()):
        _tell_how_to_go_on()
    return 128 + number


if __name__ == "__main__":
    main()
