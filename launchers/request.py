"""What a job asks of SLURM."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launchers.profiles import Site, UsageError, check_directive, counted, seconds, set_in_a_copy
from launchers.sbatch_options import gpus_on_a_node, misspelt

_SET_BY_OPTIONS = {
    "nodes": "--nodes",
    "time": "--time",
    "job-name": "--job-name",
    "signal": "grace_s of the site profile",
    "array": "--max-parallel",
    "dependency": "--chain",
    "requeue": "--requeue",
    "no-requeue": "--no-requeue",
    "no-kill": "--nodes MIN:MAX or --elastic",
    "ntasks-per-node": "gpus_per_node of the site profile",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Request:
    """What is asked of SLURM. python: interpreter whose environment the job uses. sbatch: directives of the user's,
    which come before the profile's. requeue: the job queues itself again until the run is finished."""

    site: Site
    name: str
    nodes: int
    ranks_per_node: int
    time: str
    folder: Path
    logs: Path
    python: Path
    written_by: str
    sbatch: Mapping[str, str] = field(default_factory=dict)
    requeue: bool = True
    launcher: str = "torchrun"
    min_nodes: int = 0
    """How few nodes the run goes on with when others fail; 0: it needs all of them."""
    in_process: bool = False
    """Whether ranks go on in the same processes when others are lost: --elastic."""

    @property
    def is_elastic(self) -> bool:
        """Whether nodes may leave and join."""
        return self.in_process or 0 < self.min_nodes < self.nodes

    @property
    def gpus_per_node(self) -> int:
        """What is asked of SLURM."""
        return self.site.gpus_per_node if self.site.whole_nodes else min(self.ranks_per_node, self.site.gpus_per_node)

    def check_gpus(self) -> None:
        """Raises UsageError where the user's directives ask for other GPUs than the ranks take."""
        for key, value in self.sbatch.items():
            asked = gpus_on_a_node(key, value, self.nodes)
            if self.gpus_per_node and asked not in (None, self.gpus_per_node):
                raise UsageError(
                    f"--sbatch {key}={value} asks for {counted(asked or 0, 'GPU')} on a node, but "
                    f"{counted(self.ranks_per_node, 'rank')} would start there; what a node has is gpus_per_node of "
                    f"the site profile: {set_in_a_copy(str(asked))}"
                )

    def __post_init__(self) -> None:
        for text in (self.name, str(self.folder), str(self.logs), str(self.python), self.written_by):
            if _CONTROL.search(text):
                raise UsageError(f"{text!r} has control characters, which do not belong into a batch script")
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise UsageError(
                f"{self.name!r} is not a name for a job; give one of letters, digits, '.', '-' with --job-name"
            )
        if self.nodes < 1:
            raise UsageError(f"--nodes is {self.nodes}; it must be at least 1")
        if self.site.max_nodes and self.nodes > self.site.max_nodes:
            most = self.site.max_nodes
            raise UsageError(
                f"--nodes {self.nodes} is above the {most} nodes that a job of this site may have; take less"
            )
        if self.is_elastic and self.launcher != "torchrun":
            elastic = "--elastic takes --launcher torchrun"
            nodes = f"--nodes {self.min_nodes}:{self.nodes} takes --launcher torchrun, with any engine"
            raise UsageError(f"{elastic if self.in_process else nodes}; srun restarts none")
        limit = seconds(self.site.time_limit)
        if seconds(self.time) > limit:
            raise UsageError(f"--time {self.time} is above the site's {self.site.time_limit}; take less, and --chain N")
        if seconds(self.time) <= self.site.grace_s:
            raise UsageError(f"--time {self.time} leaves nothing beside the {self.site.grace_s} s kept for saving")
        for key, value in self.sbatch.items():
            check_directive(key, value)
            if meant := misspelt(key):
                raise UsageError(f"--sbatch {key}: sbatch has no such option; did you mean {meant!r}?")
            if key in _SET_BY_OPTIONS:
                raise UsageError(f"--sbatch {key} clashes with what is set anyway; use {_SET_BY_OPTIONS[key]}")
