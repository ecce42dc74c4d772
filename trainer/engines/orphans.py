"""Ranks end when what launched them is gone: who starts the same command again must not have two jobs in one folder."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# What torchrun, DeepSpeed's launcher and horovodrun leave in a rank's environment. Who starts a process by hand may
# well leave it behind.
_LAUNCHED_BY = ("TORCHELASTIC_RUN_ID", "LOCAL_SIZE", "HOROVOD_RANK")
_LOOK_S = 0.5
_PATIENCE_S = 30.0  # to finish the step and save


def end_with_launcher(environ: Mapping[str, str] = os.environ) -> None:
    """From now on: once the launcher is gone, be as if it had sent SIGTERM, and later a second one. Does nothing in a
    process without a launcher."""
    if any(name in environ for name in _LAUNCHED_BY):
        threading.Thread(target=_watch, name="launcher", daemon=True).start()


def _watch() -> None:
    parent, above = os.getppid(), _parent(os.getppid())
    # DeepSpeed's command starts one launcher per node, which goes on without it.
    watches_above = above is not None and "deepspeed" in _command(above)
    while os.getppid() == parent and (not watches_above or _parent(parent) == above):
        time.sleep(_LOOK_S)
    print("the launcher of this rank is gone; stopping as after SIGTERM", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _parent(pid: int) -> int | None:
    """None where the system does not say."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""
