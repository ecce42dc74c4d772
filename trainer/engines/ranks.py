"""Rank and world size of this process, from the environment of torchrun, deepspeed, horovodrun or srun."""

import os
import re
from collections.abc import MutableMapping
from typing import NamedTuple

from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import rank_0_logger
from trainer.engines.parent_watch import nodes_may_change

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_FIRST_PORT, _PORTS = 20000, 20000  # below the ports that Linux hands out by itself
_FORGET_ADDRESSES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # of torch's agents
_COORDINATOR = "BITSCALE_COORDINATOR"
_LAUNCH_LINE = "start it with srun, or with torchrun on every node (launchers/torchrun.sh)"


class RankInfo(NamedTuple):
    """A process's rank in its job. `launcher`: "torchrun" (or what sets the same variables), "horovodrun",
    "srun", or "none" for a process by itself."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    launcher: str


def find_rank_info(environ: MutableMapping[str, str] = os.environ) -> RankInfo:
    """This process's rank, world size and launcher. RANK and related variables are then set in `environ` for every
    launcher, under srun the address of rank 0 too.

    Raises InputError for a job smaller than what SLURM started: each rank would train alone and overwrite the others.
    """
    if not (environ.get("RANK") or environ.get("WORLD_SIZE")):
        for name in _NAMES:  # of a job script that sets them to nothing
            if environ.get(name) == "":
                del environ[name]
    if "RANK" in environ and "WORLD_SIZE" in environ:
        deepspeed = "LOCAL_SIZE" in environ and "LOCAL_WORLD_SIZE" not in environ  # its launcher's name for the last
        rank_info = _named(environ, (*_NAMES[:3], "LOCAL_SIZE") if deepspeed else _NAMES, "torchrun")
    elif "HOROVOD_RANK" in environ:
        names = ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE")
        rank_info = _named(environ, names, "horovodrun")
    elif "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        rank_info = _of_srun(environ)
    else:
        rank_info = RankInfo(0, 1, 0, 1, "none")
    if _COORDINATOR in environ:  # each rank of an elastic run is one by itself for its launcher
        rank_info = rank_info._replace(local_world_size=_number(environ, "BITSCALE_RANKS_ON_NODE", 1))
    else:
        _check_against_slurm(rank_info, environ)
        _check_agents(environ)
    if rank_info.launcher != "none":
        environ.update({name: str(value) for name, value in zip(_NAMES, rank_info[:4], strict=True)})
    return rank_info


def _named(environ: MutableMapping[str, str], names: tuple[str, str, str, str], launcher: str) -> RankInfo:
    rank, world_size, local_rank, local_world_size = names
    return RankInfo(
        _number(environ, rank, 0),
        _number(environ, world_size, 1),
        _number(environ, local_rank, 0),
        _number(environ, local_world_size, 1),
        launcher,
    )


def _number(environ: MutableMapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, str(default))
    if not value.isdigit():
        raise InputError(f"{name}={value!r} in the environment is not a number; {_LAUNCH_LINE}")
    return int(value)


def _of_srun(environ: MutableMapping[str, str]) -> RankInfo:
    world_size = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
    node = _number(environ, "SLURM_NODEID", 0)
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", str(world_size)))
    if world_size > 1:
        nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_NODELIST", "localhost"))
        environ.setdefault("MASTER_ADDR", first_host(nodes))
        job = _number(environ, "SLURM_JOB_ID", 0) + _number(environ, "SLURM_STEP_ID", 0)
        environ.setdefault("MASTER_PORT", str(_FIRST_PORT + job % _PORTS))
    return RankInfo(
        _number(environ, "SLURM_PROCID", 0),
        world_size,
        _number(environ, "SLURM_LOCALID", 0),
        tasks_of_nodes(per_node)[node],
        "srun",
    )


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: "jwb[0007-0064,0100],jwc1" -> "jwb0007"."""
    first = re.match(r"([^,\[]*)(?:\[([^\]\-,]+)[^\]]*\])?([^,\[]*)", nodes)
    assert first is not None  # every part of the pattern may be empty
    return "".join(part or "" for part in first.groups())


def tasks_of_nodes(counts: str) -> list[int]:
    """SLURM's short form of tasks per node: "4(x2),1" -> [4, 4, 1]."""
    tasks: list[int] = []
    for part in counts.split(","):
        number, _, times = part.partition("(x")
        tasks += [int(number)] * int(times.rstrip(")") or 1)
    return tasks


def _check_against_slurm(rank_info: RankInfo, environ: MutableMapping[str, str]) -> None:
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
    if rank_info.world_size >= tasks:
        return
    message = f"SLURM started {tasks} tasks, but this job has {rank_info.world_size} rank(s); {_LAUNCH_LINE}"
    by_hand = "SLURM_PROCID" not in environ  # in the shell that salloc opens
    lost_nodes = int(environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if not (by_hand or lost_nodes or nodes_may_change(environ)):
        raise InputError(message)
    rank_0_logger.warning(message)


def _check_agents(environ: MutableMapping[str, str]) -> None:
    """Warn where torchrun's agents will send restarted ranks to addresses of the first start."""
    several = _number(environ, "GROUP_WORLD_SIZE", 1) > 1 and _number(environ, "TORCHELASTIC_MAX_RESTARTS", 0) > 0
    several = several or nodes_may_change(environ)  # others may join where there is one so far, and cost no restart
    keep = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and environ.get(_FORGET_ADDRESSES) != "1"
    if several and keep:
        rank_0_logger.warning(
            "torchrun's agents keep the addresses of their first start: a node that joins later, or takes a lost one's "
            f"place, ends the job. Before torchrun, on every node:\n  export {_FORGET_ADDRESSES}=1"
        )
