"""What a SLURM job asks and does on its node: how the run stands, and the tasks of a plan file. Run by its path, with
any Python of 3.10 or newer."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

UNFINISHED = 75  # exit code of a program that was asked to stop and would go on if started again
_TRANSFER = Path(__file__).resolve().parents[1] / "trainer" / "transfer.py"


class Task(NamedTuple):
    """One program of a plan. done: a JSON file that exists once it has run. nodes: how many it runs on at once, with
    `ranks_per_node` on each, or as many as a node has GPUs; None: it is one process."""

    name: str
    command: list[str]
    done: Path
    nodes: int | None = None
    ranks_per_node: int | None = None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None when it is absent or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def state(run_dir: Path, since: float, done: Path | None = None, job: str | None = None) -> tuple[str, int]:
    """Whether a run is "finished" (that is, has left the file `done` where one is named), "busy" (in the hands of
    another start than of the SLURM job `job`), "failed" (after the time `since`) or "resumable", and the steps it has
    saved."""
    status = read_json(run_dir / "status.json")
    if not isinstance(status, dict):
        status = {}
    recorded, step, time = status.get("state"), status.get("step"), status.get("time")
    step = step if isinstance(step, int) else 0
    time = time if isinstance(time, (int, float)) else 0
    if done is not None:
        recorded = "finished" if read_json(done) is not None else "" if recorded == "finished" else recorded
    if recorded == "finished":
        return recorded, step
    if job is not None and _is_of_another(read_json(run_dir / "lock.json"), job):
        return "busy", step
    if recorded == "failed" and time >= since:
        return recorded, step
    return "resumable", step


def _is_of_another(lock: Any, job: str) -> bool:
    name = lock.get("job") if isinstance(lock, dict) else None
    return isinstance(lock, dict) and str(name).split()[:3] != ["SLURM", "job", job]


def read_plan(path: Path) -> tuple[str, list[Task], int]:
    """Name, tasks and GPUs per task of a plan file. Raises ValueError saying what is wrong with it."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} cannot be read as a plan: there is no such file; bitscale sweep ... --plan FILE writes one"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a plan: {error}") from error
    if not isinstance(plan, dict) or not isinstance(plan.get("name"), str) or not isinstance(plan.get("tasks"), list):
        raise ValueError(f'{path} is not a plan: it must be {{"name": ..., "tasks": [...], "gpus_per_task": 1}}')
    tasks = []
    for number, task in enumerate(plan["tasks"]):
        command = task.get("command") if isinstance(task, dict) else None
        whole = command and isinstance(command, list) and all(isinstance(word, str) for word in command)
        if not whole or not isinstance(task.get("name"), str) or not isinstance(task.get("done"), str):
            raise ValueError(
                f'{path}, task {number}: it must be {{"name": ..., "command": ["python", ...], "done": ...}}'
            )
        sizes = [_size(task, name, f"{path}, task {number}") for name in ("nodes", "ranks_per_node")]
        tasks.append(Task(task["name"], _without_decoy(task["command"]), Path(task["done"]), *sizes))
    gpus = plan.get("gpus_per_task", 1)
    if not isinstance(gpus, int) or gpus < 0:
        raise ValueError(f"{path}: gpus_per_task is {gpus!r}, no number")
    return plan["name"], tasks, gpus


def _without_decoy(command: list[str]) -> list[str]:
    """The command, with our program by its path where `python -m trainer.transfer`, as earlier versions wrote it, would
    run a trainer.py of the working folder."""
    if command[:3] == ["python", "-m", "trainer.transfer"] and Path("trainer.py").is_file():
        return ["python", str(_TRANSFER), *command[3:]]
    return command


def _size(task: dict[str, Any], name: str, where: str) -> int | None:
    size = task.get(name)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"{where}: {name} is {size!r}, no number of at least 1")
    return size


def is_done(task: Task) -> bool:
    """Whether a task needs no run: a file that a kill left half-written does not count."""
    return read_json(task.done) is not None


class Runner:
    """Runs the tasks of one array element, `slots` at a time, until it is asked to stop."""

    def __init__(self, slots: int, gpus_per_task: int) -> None:
        self._free = list(range(slots))
        self._gpus = gpus_per_task if slots > 1 else 0  # alone, a task takes the GPUs that SLURM shows it
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._asked: signal.Signals | None = None

    def ask(self, number: int, frame: Any) -> None:
        """Start nothing more, and hand the signal on."""
        self._asked = signal.Signals(number)
        for process in list(self._running.values()):
            process.send_signal(number)

    def run(self, tasks: list[Task]) -> int:
        """The exit code: 0 when all are done, UNFINISHED when asked to stop before, else 1."""
        with ThreadPoolExecutor(len(self._free)) as pool:
            codes = list(pool.map(self._run_one, tasks))
        left = [task for task in tasks if not is_done(task)]
        failed = [f"{task.name} ({code})" for task, code in zip(tasks, codes, strict=True) if code]
        if left and self._asked:
            print(f"stopped by {self._asked.name} with {len(left)} of {len(tasks)} tasks left", flush=True)
            return UNFINISHED
        if failed or left:
            undone = ", ".join(task.name for task in left)
            print(f"error: failed: {', '.join(failed) or 'none'}; not done: {undone}", file=sys.stderr, flush=True)
            return 1
        return 0

    def _run_one(self, task: Task) -> int:
        if is_done(task):
            print(f"{task.name} is done already", flush=True)
            return 0
        command = [sys.executable, *task.command[1:]] if task.command[0] == "python" else task.command
        with self._lock:
            if self._asked:
                return 0
            slot = self._free.pop()
            environment = dict(os.environ)
            if self._gpus:
                first = slot * self._gpus
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(first + i) for i in range(self._gpus))
            print(f"{task.name} starts", flush=True)
            try:
                process = subprocess.Popen(command, env=environment)
            except OSError as error:
                self._free.append(slot)
                print(f"error: {task.name}: {error}", file=sys.stderr, flush=True)
                return 127
            self._running[task.name] = process
        code = process.wait()
        with self._lock:
            del self._running[task.name]
            self._free.append(slot)
        return code


def main() -> None:
    """`job.py state RUN_DIR --since T [--done FILE] [--job ID]`, or
    `job.py tasks PLAN --element I --elements N --slots S`."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asks = commands.add_parser("state")
    asks.add_argument("run_dir", type=Path)
    asks.add_argument("--since", type=float, default=0)
    asks.add_argument("--done", type=Path)
    asks.add_argument("--job")
    does = commands.add_parser("tasks")
    does.add_argument("plan", type=Path)
    for name, default in (("--element", 0), ("--elements", 1), ("--slots", 1)):
        does.add_argument(name, type=int, default=default)
    arguments = parser.parse_args()
    if arguments.command == "state":
        print(*state(arguments.run_dir, arguments.since, arguments.done, arguments.job))
        return
    _, tasks, gpus = read_plan(arguments.plan)
    runner = Runner(arguments.slots, gpus)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, runner.ask)
    sys.exit(runner.run(tasks[arguments.element :: arguments.elements]))


if __name__ == "__main__":
    main()
