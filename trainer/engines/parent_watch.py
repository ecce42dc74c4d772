"""Ends a rank when its launcher is gone, so that the same command can be started again without a second job in the
folder; and what the launcher was told."""

import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from data_pipelines.common.messages import logger

# What torchrun, DeepSpeed's launcher and horovodrun leave in a rank's environment. Who starts a process by hand may
# well leave it behind.
_LAUNCHED_BY = ("TORCHELASTIC_RUN_ID", "LOCAL_SIZE", "HOROVOD_RANK")
_STARTED_BY = "BITSCALE_LAUNCHER"  # host and process, from launchers/*.sh: this one is known even if it died before
_NODES = re.compile(r"(\d+):(\d+)")  # MIN:MAX, of torchrun
_NODES_OPTION = re.compile(r"\0--nnodes[=\0]([^\0]*)\0")
_LOOK_S = 0.5
_PATIENCE_S = 300.0  # to finish two steps and save; the watchdog ends ranks that hang
_asks: list[Callable[[], bool]] = []  # whether the launcher is gone, once it is watched


def end_with_launcher(environ: Mapping[str, str] = os.environ) -> None:
    """Watch the launcher from now on: once it is gone, act as if it had sent SIGTERM, and later a second one. Does
    nothing in a process without a launcher."""
    if any(name in environ for name in _LAUNCHED_BY):
        host, _, number = environ.get(_STARTED_BY, "").rpartition(" ")
        launcher = int(number) if host == platform.node() and number.isdecimal() else None
        threading.Thread(target=_watch, args=(launcher,), name="launcher", daemon=True).start()


def launcher_is_gone() -> bool:
    """Whether the launcher of this process has ended; False where it has none that is watched."""
    return any(is_gone() for is_gone in _asks)


def _watch(launcher: int | None) -> None:
    parent, above = os.getppid(), _parent(os.getppid())
    # DeepSpeed's command starts one launcher per node, which goes on without it.
    watches_above = above is not None and "deepspeed" in command_of(above)
    if _parent(os.getpid()) is None:  # the system does not say
        launcher = None

    def is_gone() -> bool:
        return (
            os.getppid() != parent
            or (watches_above and _parent(parent) != above)
            or (launcher is not None and _parent(launcher) is None)
        )

    _asks.append(is_gone)
    while not is_gone():
        time.sleep(_LOOK_S)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        logger.info("the launcher is gone; saving, then ending")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_S)
    os.kill(os.getpid(), signal.SIGTERM)


def nodes_may_change(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun was told MIN:MAX nodes, and so goes on with those that are there."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return False
    option = _NODES_OPTION.search(command_of(os.getppid()))
    nodes = _NODES.fullmatch(option[1] if option else environ.get("PET_NNODES", ""))
    return nodes is not None and nodes[1] != nodes[2]


def _parent(pid: int) -> int | None:
    """Parent process id; None for a dead process, or where the system does not say."""
    with suppress(OSError):
        state, parent = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
        )
        return int(parent) if state not in "ZX" else None
    return None


def command_of(pid: int) -> str:
    """The words of a process's command line, with a zero byte after each; empty where the system does not say."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    return ""
