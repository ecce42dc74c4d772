"""Batch scripts: one template for a run, a smoke test or an array of tasks. All values are quoted."""

import re
import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launchers.job import Task
from launchers.profiles import check_directive, counted
from launchers.request import Request

LAUNCHERS = Path(__file__).resolve().parent
TRAINER = LAUNCHERS.parent / "trainer" / "pretrain.py"
_RESTARTS = 10  # of all ranks, where nodes may leave


class _Template(string.Template):
    """Like string.Template, with {{name}}, which bash leaves alone."""

    pattern = r"\{\{(?P<named>\w+)\}\}|(?P<escaped>(?!))|(?P<braced>(?!))|(?P<invalid>(?!))"  # type: ignore[assignment]


def training(request: Request, arguments: Sequence[str], run_dir: Path, submitted: float) -> str:
    """A job that trains until the run is finished, or its time is over; `submitted`: seconds since the epoch."""
    # Where it is not queued again, the next job of a chain goes on.
    after_limit = '[ "$asked" = limit ] && exit 0\n'
    command = _command(request, arguments)
    body = _until_finished(request, command, run_dir, f"--since {submitted:.0f}", after_limit)
    if request.is_elastic:
        body = f"{_joining(request, command, arguments)}\n{body}"
    return _render(request, f"Trains on {_nodes(request)}.", body)


def task(request: Request, one: Task, submitted: float) -> str:
    """A job for one task of a plan file, which goes on as a training does: a program that leaves no status.json beside
    its result, as the trainer does, is not queued again."""
    words = one.command
    if words[0] == "python":
        words = [*_start(request), *words[1:]]
    asks = f"--since {submitted:.0f} --done {_quoted(one.done)}"
    body = _until_finished(request, shlex.join(words), one.done.parent, asks, "")
    return _render(request, f"Runs the task {one.name} of a plan on {_nodes(request)}.", body)


def _joining(request: Request, command: str, arguments: Sequence[str]) -> str:
    """What the script does where it runs as a job that joins another: check first, as a rank that does not fit the
    others would end them all."""
    check = shlex.join(["python", *_script(request, arguments), "--preflight-only"])
    return f"""if [ -n "${{BITSCALE_JOINS:-}}" ]; then
    RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 {check} || exit
    launch {command}
    exit
fi
"""


def _until_finished(request: Request, command: str, run_dir: Path, asks: str, after_limit: str) -> str:
    again = 'echo "queues itself again"\nscontrol requeue "$SLURM_JOB_ID"'
    if 0 < request.min_nodes < request.nodes:
        again = f"queue_again {request.min_nodes} {request.nodes}"
    after = (
        f"""[ "$reached" -gt "$begun" ] || {{ echo "no step further than before: not queued again" >&2; exit 1; }}
{again}"""
        if request.requeue
        else f"{after_limit}exit $((code ? code : 1))"
    )
    return f"""# Whether the run is finished, failed since this was submitted, or resumable; and the step it has saved.
state() {{ python {_quoted(LAUNCHERS / "job.py")} state {_quoted(run_dir)} {asks} "$@"; }}

read -r stands begun < <(state)
[ "$stands" = resumable ] || {{ echo {_quoted(run_dir)} "is $stands at step $begun"; [ "$stands" = finished ]; exit; }}

launch {command}
code=$?

# A lock that is left now is this job's, or that of another start, which goes on.
read -r stands reached < <(state --job "$SLURM_JOB_ID")
echo {_quoted(run_dir)} "is $stands at step $reached, where it was $begun before; srun ended with $code"
[ "$stands" = finished ] && exit 0
[ "$stands" = failed ] && exit 1
[ "$asked" = cancel ] && exit 143
[ "$stands" = busy ] && exit $((code ? code : 1))
{after}"""


def smoke(request: Request, arguments: Sequence[str], run_dir: Path) -> str:
    """A job that trains ten steps, saves, resumes for ten more, and evaluates, in a folder of its own."""
    folder = f"{_quoted(run_dir)}-smoke-$SLURM_JOB_ID"
    options = f"--out {folder} --save-every 10 --log-every 10"
    request = replace(request, min_nodes=0, in_process=False)  # two launches would meet in one store
    command = _command(request, _without_run_dir(arguments))
    steps = "--schedule.allow-no-decay --schedule.steps"  # the warm-up is that of the whole run
    body = f"""launch {command} {options} {steps} 10 || exit
launch {command} {options} {steps} 20 --allow-config-change || exit
read -r stands reached < <(python {_quoted(LAUNCHERS / "job.py")} state {folder})
echo {folder} "is $stands at step $reached"
[ "$stands $reached" = "finished 20" ]"""
    return _render(request, f"Tries 20 steps, saving, resuming and evaluating on {_nodes(request)}.", body)


def array(request: Request, plan: Path, elements: int, slots: int, max_parallel: int | None, gpus_per_task: int) -> str:
    """A job array over the tasks of a plan file; each element runs every `elements`-th task, `slots` at a time."""
    again = (
        '[ "$code" = 75 ] && [ "$asked" = limit ] && scontrol requeue "$SLURM_JOB_ID" && exit 0\n'
        if request.requeue
        else ""
    )
    body = f"""launch python {_quoted(LAUNCHERS / "job.py")} tasks {_quoted(plan)} \\
    --element "$SLURM_ARRAY_TASK_ID" --elements {elements} --slots {slots}
code=$?
{again}exit "$code\""""
    limit = f"%{max_parallel}" if max_parallel else ""
    title = f"Runs the tasks of a plan: {counted(elements, 'job')}, {counted(slots, 'task')} at a time in each."
    return _render(replace(request, ranks_per_node=gpus_per_task), title, body, {"array": f"0-{elements - 1}{limit}"})


def _command(request: Request, arguments: Sequence[str]) -> str:
    return shlex.join([*_start(request), *_script(request, arguments), *["--elastic"] * request.in_process])


def _script(request: Request, arguments: Sequence[str]) -> list[str]:
    script = TRAINER.relative_to(request.folder) if TRAINER.is_relative_to(request.folder) else TRAINER
    return [str(script), *arguments]


def _start(request: Request) -> list[str]:
    if request.in_process:  # node.sh adds its options
        return ["python", str(LAUNCHERS / "elastic.py"), "--"]
    nodes = f"{request.min_nodes}:{request.nodes}" if request.is_elastic else str(request.nodes)
    agent = ["python", str(LAUNCHERS / "agent.py"), "--nnodes", nodes]
    return agent if request.launcher == "torchrun" else ["python"]


def _without_run_dir(arguments: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        is_out = argument.partition("=")[0] in ("--out", "--run-dir")  # its name of today, and an older one
        if not skip and not is_out:
            kept.append(argument)
        skip = is_out and "=" not in argument
    return kept


def _render(request: Request, title: str, body: str, directives: Mapping[str, str] | None = None) -> str:
    site = request.site
    template = _Template((LAUNCHERS / "slurm" / "job.sbatch").read_text(encoding="utf-8"))
    return template.substitute(
        directives=_directives(request, directives or {}),
        title=title,
        written_by=request.written_by,
        command=_quoted(request.written_by),
        folder=_quoted(request.folder),
        setup="\n".join(_setup(request)),
        address=_quoted(site.address),
        # A profile may name a variable of the node, such as $TMPDIR.
        local_dir=site.local_dir if re.fullmatch(r"\$\w+", site.local_dir) else _quoted(site.local_dir),
        ranks_per_node=max(1, request.ranks_per_node),
        grace_s=site.grace_s,
        node_sh=_quoted(LAUNCHERS / "slurm" / "node.sh"),
        max_restarts=_RESTARTS if request.is_elastic else 3,
        elastic=_serving(request) if request.is_elastic else "",
        body=body,
    )


def _serving(request: Request) -> str:
    """The lines after which the script serves what the nodes meet at, and asks for nodes in the place of lost ones."""
    line = f"source {_quoted(LAUNCHERS / 'slurm' / 'elastic.sh')} {request.nodes}"
    return f"{line} {_quoted(request.logs)}\n" if request.in_process else f"{line}\n"


def _directives(request: Request, extra: Mapping[str, str]) -> str:
    site = request.site
    request.check_gpus()
    gpus = request.gpus_per_node
    # A part of the GPUs comes with as much of the cores; ranks without GPUs need a core each.
    cores = (
        site.cores_per_node * gpus // site.gpus_per_node if gpus else max(site.cores_per_node, request.ranks_per_node)
    )
    tasks = request.ranks_per_node if request.launcher == "srun" and "array" not in extra else 1
    logs = request.logs / ("%x-%A_%a.out" if "array" in extra else "%x-%j.out")
    wanted = {
        "job-name": request.name,
        "nodes": str(request.nodes),
        "ntasks-per-node": str(tasks),
        "cpus-per-task": str(max(1, cores // tasks)),
        "time": request.time,
        "partition": site.partition,
        "account": site.account,
        "output": str(logs),
        "open-mode": "append",
        "signal": f"B:USR1@{site.grace_s}",
        **extra,
        **site.sbatch,
        **request.sbatch,
    }
    for key, value in wanted.items():
        check_directive(key, value)
    lines = [f"--{key}={value}" for key, value in wanted.items() if value]
    if gpus and request.sbatch.keys().isdisjoint(("gres", "gpus-per-node")):
        lines.append(site.gpu_request.replace("{gpus}", str(gpus)))
    if site.whole_nodes:
        lines.append("--exclusive")
    if request.is_elastic:
        lines.append("--no-kill")
    lines.append("--requeue" if request.requeue else "--no-requeue")
    return "\n".join(f"#SBATCH {line}" for line in lines)


def _setup(request: Request) -> list[str]:
    site = request.site
    lines = [f"module load {shlex.join(site.modules)}"] if site.modules else []
    lines += site.setup
    lines.append(f"export PATH={_quoted(request.python.parent)}:$PATH")
    variables = dict(site.environment)
    if site.interface:
        variables |= {"NCCL_SOCKET_IFNAME": site.interface, "GLOO_SOCKET_IFNAME": site.interface}
    if site.allreduce_gbps:
        variables["BITSCALE_ALLREDUCE_GBPS"] = f"{site.allreduce_gbps:g}"
    lines += [f"export {name}={_quoted(value)}" for name, value in variables.items()]
    return lines


def _nodes(request: Request) -> str:
    nodes, ranks = request.nodes, request.ranks_per_node
    count = f"{request.min_nodes} to {nodes}" if request.is_elastic else str(nodes)
    return f"{count} node{'s' * (nodes != 1)} with {ranks} rank{'s' * (ranks != 1)} on each"


def _quoted(value: object) -> str:
    return shlex.quote(str(value))
