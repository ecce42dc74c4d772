"""Start the ranks of this node for an elastic run, and its coordinator if that is to be here: torchrun.sh --elastic.

usage: elastic.py --nproc N --nodes N [--endpoint HOST:PORT] [--local-addr ADDR] --max-restarts N -- TRAINER ARGUMENTS

Each rank has an agent of torchrun by itself, which starts it again when it dies: an agent of several ranks would end
the others. A coordinator that dies is started again, too; ranks train on meanwhile.
"""

import argparse
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

if __name__ == "__main__":  # its folder has modules that would hide other people's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launchers.agent import await_name
from launchers.coordinator import CANNOT_LISTEN, IN_USE

_HERE = Path(__file__).resolve().parent
# An agent meets nobody; by its host name, which may be unknown, it would wait for itself.
_ALONE = ["--standalone", "--local-addr", "127.0.0.1", "--nnodes", "1", "--nproc-per-node", "1"]
AGENT = [sys.executable, str(_HERE / "agent.py"), *_ALONE]
HANDED_ON = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
"""Signals that agents get. Not SIGUSR1 where this program ignores it from the start: slurm/node.sh tells the ranks."""
if signal.getsignal(signal.SIGUSR1) is not signal.SIG_IGN:
    HANDED_ON.append(signal.SIGUSR1)
POLL_S, PAUSE_S = 0.1, 0.2
_LAST_PORT = 65_535
_SECRET = "BITSCALE_SECRET"
_LAUNCHER = "BITSCALE_LAUNCHER"


class Node:
    """The processes of this node."""

    def __init__(self, options: argparse.Namespace, trainer: Sequence[str]) -> None:
        self._options, self._trainer = options, trainer
        self._serves = _is_here(options.endpoint.rpartition(":")[0], options.local_addr)
        self._environment = os.environ | {
            "BITSCALE_COORDINATOR": options.endpoint,
            "BITSCALE_RANKS": str(options.nodes * options.nproc),
            "BITSCALE_RANKS_ON_NODE": str(options.nproc),
            "BITSCALE_NODE": os.environ.get("SLURM_NODEID", "0"),
            "BITSCALE_LOCAL_ADDR": options.local_addr or ("127.0.0.1" if options.nodes == 1 else ""),
            "BITSCALE_JOB": os.environ.get("BITSCALE_JOB", f"elastic run at {options.endpoint}"),
        }
        self._coordinator: subprocess.Popen[bytes] | None = None
        self._agents: list[subprocess.Popen[bytes]] = []
        self._restarts = [options.max_restarts] * options.nproc
        self._signal: int | None = None  # the last that was handed on
        self._told: set[int] = set()  # processes that have got one
        self._cannot_serve = False

    def run(self) -> int:
        """Run until all ranks have ended; returns the exit code: 0 if the run came to its end on one of them, 2 if the
        coordinator cannot listen."""
        for number in HANDED_ON:
            signal.signal(number, self._hand_on)
        try:
            self._look_after_coordinator()
            for slot in range(self._options.nproc):
                self._start_agent(slot)
            while self._replace_killed_agents():
                time.sleep(POLL_S)
                self._look_after_coordinator()
        finally:
            if self._coordinator is not None:
                self._coordinator.kill()
        if self._cannot_serve:
            return 2
        if not self._agents:  # a signal came first
            return 0 if self._signal == signal.SIGUSR1 else 128 + (self._signal or 0)
        codes = [128 - agent.returncode if agent.returncode < 0 else agent.returncode for agent in self._agents]
        return 0 if 0 in codes else max(codes)

    def _look_after_coordinator(self) -> None:
        if not self._serves or (self._coordinator is not None and self._coordinator.poll() is None):
            return
        if self._coordinator is not None:
            if self._coordinator.returncode == CANNOT_LISTEN:
                self._serves, self._cannot_serve = False, True
                say("error: the coordinator has said why; name another --endpoint")
                self._hand_on(signal.SIGTERM, None)
                return
            if self._coordinator.returncode == IN_USE:
                self._serves = False
                say(f"another coordinator serves at {self._options.endpoint}: these ranks join its run")
                return
            say("the coordinator has ended; it is started again, and training goes on")
            time.sleep(PAUSE_S)
        command = [sys.executable, str(_HERE / "coordinator.py"), self._options.endpoint]
        self._coordinator = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL)

    def _start_agent(self, slot: int) -> None:
        if self._signal is not None:
            return
        environment = self._environment | {"BITSCALE_SLOT": str(slot)}
        if (gpus := visible_gpus()) and self._options.nproc > 1:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        restarts = ["--max-restarts", str(self._options.max_restarts)]
        handles = ["--signals-to-handle", ",".join(["SIGQUIT", *(number.name for number in HANDED_ON)])]
        agent = subprocess.Popen([*AGENT, *restarts, *handles, *self._trainer], env=environment)
        self._agents[slot : slot + 1] = [agent]
        if self._signal is not None and agent.pid not in self._told:  # it came while the agent was started
            agent.send_signal(self._signal)

    def _replace_killed_agents(self) -> bool:
        """Returns whether any agent is left."""
        for slot, agent in enumerate(self._agents):
            if agent.poll() is not None and agent.returncode < 0 and self._restarts[slot]:
                self._restarts[slot] -= 1
                self._start_agent(slot)
        # As just seen: one that has ended since is looked at the next time.
        return any(agent.returncode is None for agent in self._agents)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        for agent in self._agents:
            if agent.poll() is None:
                agent.send_signal(number)
                self._told.add(agent.pid)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def visible_gpus() -> list[str]:
    """The GPUs that may be used, by the names that CUDA_VISIBLE_DEVICES takes."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:  # "" hides them all
        return [name for name in visible.split(",") if name]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    gpus = [line for line in listed.splitlines() if line.startswith("GPU")]  # the other lines are parts of one
    return [str(number) for number in range(len(gpus))]


def _is_here(host: str, local_addr: str) -> bool:
    """Whether an address is of this machine, unless a batch script serves there already."""
    if "BITSCALE_SERVED" in os.environ:
        return False
    if host == local_addr:
        return True
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _min_ranks(arguments: Sequence[str]) -> int:
    """What the trainer's arguments say of it; 0 without a number."""
    words = " ".join(arguments)
    found = re.search(r"\bmin[-_]ranks[= ](\d+)", words)
    return int(found[1]) if found else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Run this node's part."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--nproc", "--nodes", "--max-restarts"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--local-addr", default="")
    parser.add_argument("trainer", nargs="+")
    options = parser.parse_args()
    options.endpoint = options.endpoint or f"127.0.0.1:{_free_port()}"
    port = options.endpoint.rpartition(":")[2]
    if not re.fullmatch(r"[^:]+:\d{1,5}", options.endpoint) or int(port) > _LAST_PORT:
        say(f"error: --endpoint {options.endpoint} is not HOST:PORT, with a port up to {_LAST_PORT}")
        sys.exit(2)
    ranks, least = options.nodes * options.nproc, _min_ranks(options.trainer)
    if least > ranks:  # before ranks say so, each as often as it is started again
        say(f"error: --min-ranks {least} is above the {ranks} ranks that the run starts with; lower it")
        sys.exit(2)
    if options.nodes == 1:
        os.environ.setdefault(_SECRET, secrets.token_hex(16))
    if not os.environ.get(_SECRET):
        say(
            "error: the nodes of an elastic run share a secret, which nobody else may know; on each of them, before "
            f"this, with the same 32 or more characters:\n  export {_SECRET}=..."
        )
        sys.exit(2)
    await_name(options.endpoint)
    # Ranks that start after this has died know it by that.
    os.environ[_LAUNCHER] = f"{os.uname().nodename} {os.getpid()}"
    sys.exit(Node(options, options.trainer).run())


if __name__ == "__main__":
    main()
