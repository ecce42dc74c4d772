"""Plan files as SLURM jobs: an array for tasks of up to one node, and a job of its own for each larger task."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launchers import job, sbatch, script
from launchers.profiles import Site, UsageError, counted, seconds
from launchers.request import Request


def submit_plan(options: argparse.Namespace, site: Site) -> None:
    """Submit the tasks that are not done yet. Raises UsageError for a plan that is wrong, and when SLURM refuses."""
    try:
        name, tasks, gpus_per_task = job.read_plan(Path(options.what))
    except ValueError as error:
        raise UsageError(str(error)) from error
    left = [task for task in tasks if not job.is_done(task)]
    print(f"{name}: {counted(len(tasks), 'task')}, {len(tasks) - len(left)} done, {len(left)} to run", file=sys.stderr)
    small = [task for task in left if task.nodes is None]
    large = [task for task in left if task.nodes is not None]
    if small:
        _submit_array(options, site, name, small, gpus_per_task)
    if large:
        _submit_jobs(options, site, name, large)


def _submit_array(
    options: argparse.Namespace, site: Site, name: str, tasks: Sequence[job.Task], gpus_per_task: int
) -> None:
    if gpus_per_task > site.ranks_per_node:
        raise UsageError(f"gpus_per_task is {gpus_per_task}, but a node has {counted(site.gpus_per_node, 'GPU')}")
    request = sbatch.make_request(options, site, options.job_name or sbatch.as_job_name(name), _requeue(options, site))
    slots = max(1, site.gpus_per_node // max(1, gpus_per_task)) if site.whole_nodes else 1
    elements = min(math.ceil(len(tasks) / slots), site.max_array)
    hours = seconds(request.time) / 3600 * elements
    print(f"at most {hours:,.0f} job-hours: {counted(elements, 'job')} of {request.time}", file=sys.stderr)
    kept = request.logs / f"{request.name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    text = script.array(request, kept, elements, slots, options.max_parallel, gpus_per_task)
    if options.dry_run:
        print(text, end="")
        return
    sbatch.check_slurm()
    sbatch.refuse_second(request.name)
    content = [{"name": task.name, "command": task.command, "done": str(task.done)} for task in tasks]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(
        json.dumps({"name": name, "tasks": content, "gpus_per_task": gpus_per_task}, indent=1), encoding="utf-8"
    )
    sbatch.submit(request, text)


def _submit_jobs(options: argparse.Namespace, site: Site, name: str, tasks: Sequence[job.Task]) -> None:
    requests = [_request_of(options, site, name, task) for task in tasks]
    hours = sum(request.nodes * request.ranks_per_node * seconds(request.time) / 3600 for request in requests)
    devices = "GPU" if site.gpus_per_node else "rank"
    print(f"at most {hours:,.0f} {devices}-hours: {counted(len(tasks), 'job')} of {requests[0].time}", file=sys.stderr)
    scripts = [script.task(request, one, time.time()) for request, one in zip(requests, tasks, strict=True)]
    if options.dry_run:
        print("\n".join(scripts), end="")
        return
    sbatch.check_slurm()
    submitted: list[str] = []
    refused: list[str] = []
    for request, text in zip(requests, scripts, strict=True):
        there = sbatch.queued(request.name)
        if there:
            print(f"{request.name} is queued already: {there}", file=sys.stderr)
            continue
        # So many lanes: each job waits for the one before it in its lane.
        waits = options.max_parallel is not None and len(submitted) >= options.max_parallel
        try:
            submitted.append(sbatch.submit(request, text, submitted[-options.max_parallel] if waits else None))
        except UsageError as error:
            refused.append(f"{request.name}: {error}")
    if refused:
        raise UsageError("\n  ".join(["these tasks were not submitted, the others were:", *refused]))


def _request_of(options: argparse.Namespace, site: Site, name: str, task: job.Task) -> Request:
    ranks = task.ranks_per_node or site.ranks_per_node
    if site.gpus_per_node and ranks > site.gpus_per_node:
        raise UsageError(
            f"task {task.name} wants {ranks} ranks on a node, but a node of this site has {site.gpus_per_node} GPUs; "
            "plan it for this site's nodes"
        )
    job_name = sbatch.as_job_name(f"{options.job_name or name}-{task.name}")
    return sbatch.make_request(options, site, job_name, _requeue(options, site), task.nodes or 1, ranks)


def _requeue(options: argparse.Namespace, site: Site) -> bool:
    return bool(site.requeue if options.requeue is None else options.requeue)
