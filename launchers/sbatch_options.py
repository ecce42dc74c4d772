"""The options of sbatch, as of SLURM 23.11, and what is said of one that is not typed as a directive."""

import difflib

_NAMES = frozenset(
    """
    account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container
    container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
    dependency distribution error exclude exclusive export export-file extra extra-node-info get-user-env gid
    gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs
    input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu
    mem-per-gpu mincpus network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core
    ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output overcommit oversubscribe parsable
    partition power prefer priority profile propagate qos quiet reboot requeue reservation signal
    sockets-per-node spread-job switches test-only thread-spec threads-per-core time time-min tmp tres-bind
    tres-per-task uid use-min-nodes verbose wait wait-all-nodes wckey wrap
    """.split()  # noqa: SIM905 a list would be a hundred lines
)
_SHORT = {"-p": "partition", "-A": "account", "-q": "qos", "-C": "constraint", "-w": "nodelist", "-x": "exclude"}


def misspelt(key: str) -> str | None:
    """The option that is meant, if this is none but nearly one."""
    close = [] if key in _NAMES else difflib.get_close_matches(key, _NAMES, 1, cutoff=0.8)
    return close[0] if close else None


def as_directive(unknown: list[str]) -> str | None:
    """How to ask for what the first of these arguments asks of sbatch; None if it is no option of sbatch."""
    flag, equals, value = unknown[0].partition("=")
    name = _SHORT.get(flag, flag.removeprefix("--") if flag.startswith("--") else "")
    if name not in _NAMES:
        return None
    if name.startswith("gpus"):
        return "how many GPUs a node has is gpus_per_node of the site file; see --site, and --nodes"
    if not equals:
        value = unknown[1] if unknown[1:] and not unknown[1].startswith("-") else "VALUE"
    return f"use --sbatch {name}={value}"


def gpus_on_a_node(key: str, value: str, nodes: int) -> int | None:
    """How many GPUs a directive of a job asks for on each of its nodes, such as 4 of gres=gpu:a100:4; None if it says
    nothing of that."""
    if key in ("gpus", "gpus-per-node"):
        count = sum(map(_last_number, value.split(",")))
        return count // nodes if key == "gpus" else count
    parts = [part for part in value.split(",") if part.removeprefix("gres/").partition(":")[0] == "gpu"]
    return sum(map(_last_number, parts)) if key == "gres" and parts else None


def _last_number(part: str) -> int:
    """Of "gpu:a100:4"; without one SLURM gives a single GPU."""
    last = part.rpartition(":")[2].partition("(")[0]
    return int(last) if last.isdecimal() else 1
