"""Run the trainer, or the tasks of a plan file, as SLURM jobs.

bitscale submit pretrain RECIPE --nodes 64 --site juwels-booster --time 08:00:00 [-- TRAINER ARGUMENTS]
bitscale submit PLAN.json --site juwels-booster [--max-parallel 16]

Where nothing is installed: python launchers/submit.py instead of bitscale submit.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # before this folder, or that of `python -m`, in which a launchers.py would hide ours
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launchers import sbatch, script
from launchers.cost import Cost, ask_plan, measured_rate
from launchers.plan import submit_plan
from launchers.profiles import Site, UsageError, counted, load_site, nearest, site_names
from launchers.sbatch_options import as_directive


def submit_training(options: argparse.Namespace, site: Site, arguments: Sequence[str]) -> None:
    """`pretrain RECIPE`: one job that queues itself again, a chain of jobs, or a smoke test."""
    if "--no-resume" in arguments:
        raise UsageError("--no-resume would start anew in every job; name another --out behind -- instead")
    arguments = [_recipe(options.recipe), *arguments]
    arguments += _fewest_ranks(options, site, arguments)
    if site.stage and not any(argument.split("=")[0] in ("--cache-dir", "--stage") for argument in arguments):
        arguments += ["--cache-dir", site.stage]
    requeue = site.requeue if options.requeue is None else options.requeue
    requeue = requeue and not options.chain and not options.smoke
    # Before the trainer is asked, which takes seconds.
    least, most = options.nodes
    request = sbatch.make_request(options, site, options.job_name or "run", requeue, most, min_nodes=least)
    request.check_gpus()
    if not options.dry_run:
        sbatch.check_slurm()
    print("asking the trainer what the run will be ...", file=sys.stderr, flush=True)
    # A smoke test has a folder of its own.
    plan = ask_plan(sys.executable, [*arguments, *["--elastic"] * options.elastic, *["--no-resume"] * options.smoke])
    run_dir = Path(plan["run_dir"])
    name = f"{options.job_name or sbatch.as_job_name(run_dir.name)}{'-smoke' * options.smoke}"
    request = replace(request, name=name)
    ranks = request.nodes * request.ranks_per_node
    _check_ranks(plan, ranks)
    if plan.get("finished"):
        print(f"warning: {run_dir} is finished already; the job would end at once", file=sys.stderr)
    rate = measured_rate(run_dir, ranks, bool(site.gpus_per_node))
    cost = Cost(plan, ranks, request, *rate, options.chain or 1, options.smoke)
    print("\n".join(cost.lines()), file=sys.stderr)
    if options.chain and cost.jobs and cost.jobs > options.chain:
        print(f"warning: the run takes about {cost.jobs} jobs, the chain has {options.chain}", file=sys.stderr)
    if options.smoke:
        text = script.smoke(request, arguments, run_dir)
    else:
        text = script.training(request, arguments, run_dir, time.time())
    if options.dry_run:
        print(text, end="")
        return
    sbatch.refuse_second(name)
    previous = None
    for _ in range(options.chain or 1):
        previous = sbatch.submit(request, text, previous)


def _fewest_ranks(options: argparse.Namespace, site: Site, arguments: Sequence[str]) -> list[str]:
    """What tells the trainer of an elastic run the MIN of --nodes MIN:MAX. Raises UsageError where the trainer's
    arguments say otherwise."""
    flags = {argument.split("=")[0].replace("--runtime.", "--") for argument in arguments}
    if "--elastic" in flags:
        raise UsageError("--elastic concerns the job, too; give it before --")
    least, most = options.nodes
    if not options.elastic or least == most:
        return []
    if "--min-ranks" in flags:
        raise UsageError(
            f"--nodes {least}:{most} and --min-ranks both say how few may be left; give --nodes {most} with --min-ranks"
        )
    return ["--min-ranks", str(least * site.ranks_per_node)]


def _check_ranks(plan: Mapping[str, Any], ranks: int) -> None:
    """Raise UsageError for a batch with fewer images than ranks, and for fewer ranks than an elastic run needs; warn of
    a batch that they share unequally."""
    batch_size = plan["global_batch_size"]
    if plan.get("min_ranks", 1) > ranks:
        raise UsageError(
            f"--min-ranks {plan['min_ranks']} is above the {counted(ranks, 'rank')} that the run starts with; lower it"
        )
    if batch_size < ranks:
        raise UsageError(
            f"--global-batch-size {batch_size} is too small for {ranks} ranks; raise it to {ranks} at least, or ask "
            "for fewer --nodes"
        )
    if batch_size % ranks:
        print(f"warning: {ranks} ranks share a batch of {batch_size} unequally", file=sys.stderr)


def _recipe(name: str) -> str:
    """A recipe as jobs are to name it, which may start in another folder: its name, or the whole path of a file."""
    is_file = name.endswith((".toml", ".json")) or "/" in name
    return str(Path(name).expanduser().resolve()) if is_file else name


def _nodes(text: str) -> tuple[int, int]:
    """The fewest and the most nodes of a run. Raises UsageError."""
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if not found:
        raise UsageError(f"--nodes {text} is neither a number nor MIN:MAX, such as 2:4")
    least, most = int(found[1]), int(found[2] or found[1])
    if least < 1:
        raise UsageError(f"--nodes is {text}; it must be at least 1")
    if least > most:
        raise UsageError(f"--nodes {text} has MIN above MAX; write {most}:{least}")
    return least, most


class _TrainerVersion(argparse.Action):
    """Have the trainer that jobs will run say its version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(subprocess.run([sys.executable, str(script.TRAINER), "--version"], check=False).returncode)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are told like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {self.prog} --help tells more")


def make_parser() -> argparse.ArgumentParser:
    """What the command line may say, before `--`."""
    parser = _Parser(
        sbatch.called(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_TrainerVersion, nargs=0, help="show the version of the trainer, and exit")
    parser.add_argument("what", help="pretrain, or a plan file (.json)")
    parser.add_argument(
        "recipe", nargs="?", help="of bitscale pretrain: a name, a .toml file, or the config.json of a run"
    )
    parser.add_argument("--site", default="generic", help=f"one of {', '.join(site_names())}, or a .toml file")
    parser.add_argument(
        "--nodes",
        type=_nodes,
        default=(1, 1),
        metavar="N|MIN:MAX",
        help="with MIN:MAX the run begins on MAX, and goes on while at least MIN are left",
    )
    parser.add_argument(
        "--elastic",
        action="store_true",
        help="go on in the same processes when ranks are lost, and take in those that come (experimental)",
    )
    parser.add_argument("--time", help="of a job, [D-]HH:MM:SS; default: the site's limit, of --smoke 00:30:00")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--chain", type=int, metavar="N", help="submit N jobs, each going on where the one before ended")
    again.add_argument(
        "--requeue", action=argparse.BooleanOptionalAction, help="queue again until finished; default: as the site says"
    )
    again.add_argument(
        "--smoke", action="store_true", help="20 steps, a save, a resume and an evaluation; see the rate"
    )
    parser.add_argument("--max-parallel", type=int, metavar="N", help="of a plan file: jobs at a time")
    parser.add_argument("--launcher", choices=("torchrun", "srun"), default="torchrun", help="what starts the ranks")
    parser.add_argument("--job-name", help="default: the name of the run folder, or of the plan")
    parser.add_argument("--logs", default="logs", help="folder of the jobs' output")
    parser.add_argument("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="a further directive")
    parser.add_argument("--dry-run", action="store_true", help="show the script and what it costs; submit nothing")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what comes after `--`. Raises UsageError."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments[:cut])
    if unknown:
        if advice := as_directive(unknown):
            raise UsageError(f"unknown argument {unknown[0]}; {advice}")
        known = [flag for action in parser._actions for flag in action.option_strings]
        raise UsageError(f"unknown argument {unknown[0]}{nearest(unknown[0], known)}; the trainer's come after --")
    for name in ("chain", "max_parallel"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1")
    is_plan = options.what.endswith(".json")
    if not is_plan and options.what != "pretrain":
        what = f"{options.what!r} is neither pretrain nor a plan file (.json)"
        raise UsageError(f"{what}; of fine-tunings, bitscale sweep --plan plan.json writes one")
    of_a_run = options.recipe or options.chain or options.smoke or options.elastic or options.nodes != (1, 1)
    if is_plan and (of_a_run or arguments[cut:]):
        raise UsageError(
            "a plan file says all about its tasks: it goes with no recipe, --nodes, --elastic, --chain or --smoke"
        )
    if not is_plan and not options.recipe:
        raise UsageError(f"name the recipe: {sbatch.called()} pretrain RECIPE")
    return options, list(arguments[cut + 1 :])


@contextmanager
def _printing() -> Iterator[None]:
    """File names are printed as they are, and who stops reading, as `| head` does, ends the program quietly."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 closed before it began
        stream.reconfigure(errors="surrogateescape")
        setattr(sys, name, stream)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


@_printing()
def main() -> None:
    """Parse the command line and submit."""
    try:
        options, arguments = parse(sys.argv[1:])
        site = load_site(options.site)
        if options.what == "pretrain":
            submit_training(options, site, arguments)
        else:
            submit_plan(options, site)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
