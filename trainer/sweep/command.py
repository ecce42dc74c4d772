"""Sweep: bitscale sweep --sources RUN scratch --targets cifar10 --shots 1 5 full --seeds 5

Fine-tunes every source on every target with every number of shots and every seed, several at a time on this machine's
devices. The same command goes on where it was; finished runs are not made again.
"""

from data_pipelines.common import streams
from data_pipelines.common.advice import quoted
from data_pipelines.common.cli import parse, world_size
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import number
from data_pipelines.common.program import program, retyped
from trainer.finetuning.command_line import OFTEN, require_sources, todays
from trainer.sweep.options import Sweep
from trainer.sweep.variations import FLAG, require_one_value_each

_OFTEN = ("--shots", "--seeds", FLAG, "--jobs", "--dry-run", "--skip-impossible", "--plan", *OFTEN)


def main_sweep(arguments: list[str]) -> None:
    """Parse the command line and sweep."""
    streams.outlive_readers()
    called = program()
    arguments = todays(arguments)
    require_one_value_each(arguments)
    called = called if called.endswith(" sweep") else f"{called} sweep"
    sweep = parse(Sweep, __doc__, args=arguments, prog=called, often=_OFTEN).sweep(arguments)
    if world_size() > 1:
        raise InputError("a sweep starts its own processes; start it once, without torchrun")
    require_sources(*sweep.sources)
    # Here because they come with PyTorch, which help and refusals do not need.
    from trainer.sweep.cost import cost_lines
    from trainer.sweep.plan import write_plan
    from trainer.sweep.run_sweep import devices, plan_of, run_sweep

    if sweep.plan is not None:
        plan = plan_of(sweep)
        write_plan(sweep.plan, sweep.options.out.resolve().name, plan.runs)
        submit = f"bitscale submit {quoted(sweep.plan)}"
        print(f"{number(len(plan.runs), 'run')}, {len(plan.pending)} of them to be made: {retyped(submit)}")
    elif sweep.dry_run:
        print("\n".join(cost_lines(plan_of(sweep), devices(sweep))))
    else:
        run_sweep(sweep)
