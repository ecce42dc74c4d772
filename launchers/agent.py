"""torchrun for torchrun.sh and SLURM jobs: what ended it is said in a line, not by tracebacks, and its exit code is
that of the ranks.

usage: agent.py [OPTIONS OF TORCHRUN] SCRIPT [ARGUMENTS OF THE SCRIPT]
"""

import argparse
import logging
import os
import platform
import runpy
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

_COMMAND = "BITSCALE_COMMAND"  # what was typed, from common.sh
_RESTARTED = "BITSCALE_RESTARTS_AGENT"  # from slurm/node.sh, which takes a code above 128 for that of a killed agent
_ADDRESS = "BITSCALE_ADDRESS"  # `address` of the site profile, from the job
_NAME_S = 30  # names of nodes that have just started may become known late


def main() -> None:
    """Run torchrun in this process."""
    del sys.path[0]  # its modules might hide other people's
    # What goes wrong, the ranks say themselves; torchrun and the store beside it add stacks and signals of their own.
    if "LOGLEVEL" not in os.environ:  # with which torch lets one ask for them
        os.environ["LOGLEVEL"] = "CRITICAL"
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        await_name(_endpoint(sys.argv[1:]))
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


def _endpoint(arguments: Sequence[str]) -> str:
    """HOST:PORT where the nodes meet, as torchrun reads it; "" on a node by itself."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("--rdzv-endpoint", "--rdzv_endpoint", default=os.environ.get("PET_RDZV_ENDPOINT", ""))
    options, _ = parser.parse_known_args(arguments)
    return "" if options.standalone else str(options.rdzv_endpoint)


def await_name(endpoint: str) -> None:
    """Wait until this node knows the host of HOST:PORT, which may be "". Ends the program with a line if it does not:
    torch says so by stacks, after minutes."""
    host = (endpoint.rpartition(":")[0] or endpoint).strip("[]")
    deadline = time.monotonic() + _NAME_S
    while host:
        try:
            socket.getaddrinfo(host, None)
            return
        except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
            if time.monotonic() < deadline and isinstance(error, OSError):
                time.sleep(1)
                continue
            why = getattr(error, "strerror", None) or error
            advice = "name an address that all nodes know with --endpoint HOST:PORT"
            if address := os.environ.get(_ADDRESS):
                advice = f"set `address` of the site profile, now {address!r}, to how nodes call each other"
            line = f"{platform.node()} does not know {host}, where the nodes are to meet ({why}); {advice}"
            print(f"error: {line}", file=sys.stderr)
            sys.exit(2)


def _tell_how_to_go_on() -> None:
    if _COMMAND in os.environ:
        print(f"to resume from the last checkpoint:\n  {os.environ[_COMMAND]}", file=sys.stderr)


def _code_of(error: Any) -> int:
    """The exit code of the rank that failed first, after a line about it if it was killed and so said nothing."""
    rank, first = error.get_first_failure()
    if first.exitcode >= 0:
        return _told(int(first.exitcode))
    number = -first.exitcode
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"  # of real time
    often = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
    print(f"rank {rank} (process {first.pid}) was ended by {name}{often}", file=sys.stderr)
    if all(failure.exitcode < 0 for failure in error.failures.values()):
        _tell_how_to_go_on()
    return _told(128 + number)


def _told(code: int) -> int:
    """What the exit code of a rank makes that of the agent."""
    return 1 if code > 128 and _RESTARTED in os.environ else code


if __name__ == "__main__":
    main()
