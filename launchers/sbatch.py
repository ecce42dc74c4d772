"""Options and calls of sbatch."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launchers import script
from launchers.profiles import Site, UsageError, counted, seconds, set_in_a_copy
from launchers.request import Request

_SMOKE_TIME = "00:30:00"
# What SLURM's programs say where no controller is, or none that answers.
_NO_CONTROLLER = re.compile(r"resolve_ctls_from_dns_srv|(?i:unable to contact slurm controller|configuration source)")
_NO_SUCH_NODE = re.compile(r"(?i:generic resource|node configuration is not available)")


def called() -> str:
    """How this program can be typed, in any folder: `python -m launchers.submit` would run a launchers.py of it."""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    is_module = module is not None and module.name in ("bitscale.__main__", "launchers.submit")
    if is_module or Path(sys.argv[0]).name.startswith("bitscale"):
        return "bitscale submit"
    return shlex.join(["python", str(script.LAUNCHERS / "submit.py")])


def as_job_name(name: str) -> str:
    """The name, with "-" for what a job's may not have."""
    return re.sub(r"[^\w.+-]", "-", name)


def make_request(
    options: argparse.Namespace,
    site: Site,
    name: str,
    requeue: bool,
    nodes: int = 1,
    ranks_per_node: int | None = None,
    min_nodes: int = 0,
) -> Request:
    """A job as the command line asks for it. Raises UsageError."""
    directives = {}
    for pair in options.sbatch:
        key, equals, value = pair.removeprefix("--").partition("=")
        if not equals:
            raise UsageError(f"--sbatch {pair} is not of the form KEY=VALUE")
        directives[key] = value
    return Request(
        site=site,
        name=name,
        nodes=nodes,
        ranks_per_node=ranks_per_node or site.ranks_per_node,
        time=options.time or (_of_smoke(site) if options.smoke else site.time_limit),
        folder=Path.cwd(),
        logs=Path(options.logs).absolute(),
        python=Path(sys.executable),
        written_by=f"{called()} {shlex.join(sys.argv[1:])}",
        sbatch=directives,
        requeue=requeue,
        launcher=options.launcher,
        min_nodes=min_nodes,
        in_process=options.elastic,
    )


def _of_smoke(site: Site) -> str:
    return min(_SMOKE_TIME, site.time_limit, key=seconds)


def check_slurm() -> None:
    """Raises UsageError where there is no sbatch, or no SLURM that answers; warns inside a job."""
    if shutil.which("sbatch") is None:
        raise UsageError("there is no sbatch here; submit from a login node, or look at the script with --dry-run")
    _ask(["squeue", "--me", "--noheader"])
    if "SLURM_JOB_ID" in os.environ:
        print(
            f"warning: this shell is in job {os.environ['SLURM_JOB_ID']}; a new job is submitted beside it",
            file=sys.stderr,
        )


def queued(name: str) -> str:
    """The user's jobs of this name that have not ended, in words; "" without any."""
    lines = _ask(["squeue", "--me", "--noheader", "--format=%i %T", f"--name={name}"]).splitlines()
    return " and ".join(f"job {line}" for line in lines)


def refuse_second(name: str) -> None:
    """Raises UsageError if there is a job of this name already."""
    there = queued(name)
    if there:
        raise UsageError(
            f"{there} has the name {name} already, and two would write to one folder; cancel it, or give another "
            "--job-name and, of training, another --out behind --"
        )


def submit(request: Request, text: str, after: str | None = None) -> str:
    """Submit a script, which waits for the job `after` to end; prints and returns its number. Raises UsageError with
    what SLURM says when it refuses."""
    request.logs.mkdir(parents=True, exist_ok=True)  # or SLURM loses the output without a word
    dependency = [f"--dependency=afterany:{after}"] if after else []
    number = _ask(["sbatch", "--parsable", *dependency], text, _of_gpus(request)).partition(";")[0]
    print(number)
    return number


def _of_gpus(request: Request) -> str:
    """The end of a refusal by SLURM because of what a job takes of a node."""
    if not request.gpus_per_node:
        return ""
    return (
        f"; the job asks for {counted(request.gpus_per_node, 'GPU')} on a node, as gpus_per_node of the site profile "
        f"says: {set_in_a_copy('what a node has')}"
    )


def _ask(command: Sequence[str], text: str = "", of_gpus: str = "") -> str:
    # What an enclosing job says of itself would be taken for options of the new one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_JOB", "SLURM_STEP"))}
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env=environment,
        check=False,
    )
    if done.returncode and _NO_CONTROLLER.search(done.stderr):
        first = done.stderr.strip().splitlines()[0]
        raise UsageError(f"no SLURM controller answers; use --dry-run here, or submit from a login node ({first})")
    if done.returncode:
        remedy = of_gpus if _NO_SUCH_NODE.search(done.stderr) else ""
        raise UsageError(f"{command[0]} refuses: {done.stderr.strip()}{remedy}")
    return done.stdout.strip()
