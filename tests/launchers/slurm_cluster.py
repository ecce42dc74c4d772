"""A real SLURM on this machine: munged, slurmctld, and two slurmd as nodes n1 and n2, all on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
_START_S = 30


def lacking() -> str:
    """Why no cluster can be had here; "" where one can."""
    missing = [program for program in PROGRAMS if which(program) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)} missing); apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "starting SLURM takes root"


def which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def wait_until(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)


class Cluster:
    """Running from construction to `close`; everything it writes is below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._controller_port, *self._node_ports = _free_ports(3)
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir(mode=0o700)
        (folder / "slurm.conf").write_text(self._config())
        try:
            self._start_munge()
            self._start("slurmctld", "-D")
            for name in ("n1", "n2"):
                self.start_node(name)
            wait_until(self.is_idle, "two idle nodes", _START_S)
        except BaseException:
            self.close()
            raise

    def _config(self) -> str:
        folder = self.folder
        nodes = "".join(
            f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname=localhost Port={port} CPUs=2\n"
            for name, port in zip(("n1", "n2"), self._node_ports, strict=True)
        )
        # Ports of jobs follow from their numbers, which should not be those of another cluster on this machine.
        return f"""ClusterName=test
FirstJobId={os.getpid() % 9_000 + 1}
MinJobAge=3600
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={self._controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=8
KillWait=30
# Pending jobs are looked at each second, not each half minute; a node is lost after two messages without an answer.
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
MessageTimeout=5
InactiveLimit=0
{nodes}PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": folder / "socket", "pid-file": folder / "pid"}
        files |= {"log-file": folder / "log", "seed-file": folder / "seed"}
        self._start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        wait_until((folder / "socket").exists, "munged's socket", _START_S)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        path = which(program)
        assert path is not None
        log = (self.folder / f"{program}.out").open("ab")
        process = subprocess.Popen(
            [path, *arguments], env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        self._processes.append(process)
        return process

    def start_node(self, name: str) -> None:
        self.nodes[name] = self._start("slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """As if its power failed: slurmd and all that it started."""
        roots = [self.nodes[name].pid, *self._steps(name)]
        for pid in roots + [below for root in roots for below in descendants(root)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[name].wait()

    def _steps(self, name: str) -> list[int]:
        """The slurmstepd processes of a node, which leave slurmd's process tree and keep its log open."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (path / "cmdline").read_bytes().startswith(b"slurmstepd"):
                    opened = [os.readlink(link) for link in (path / "fd").iterdir()]
                    found += [int(path.name)] * (str(self.folder / f"{name}.log") in opened)
        return found

    def is_idle(self) -> bool:
        return self.say("sinfo", "-h", "-o", "%D %t") == "2 idle"

    def say(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT ..."""
        fields = self.say("scontrol", "show", "job", job).split()
        return next((field.partition("=")[2] for field in fields if field.startswith("JobState=")), "")

    def close(self) -> None:
        self.say("scancel", "--full", "--user=root")
        time.sleep(0.5)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        # What jobs have started and nobody has ended.
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"SLURM_CONF={self.environment['SLURM_CONF']}\0".encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return sorted(found)


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
