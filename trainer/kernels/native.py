"""Our C++ CPU kernels, compiled for this processor on first use.

The library is kept in $XDG_CACHE_HOME/bitscale (or ~/.cache/bitscale), under a name that says from what, by what and
for which processor it was made. It uses torch's OpenMP threads and no header of torch's.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from data_pipelines.common.messages import logger

SOURCES = Path(__file__).with_name("cpu")
_COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-ffp-contract=fast",
)
_WIDE = "-mprefer-vector-width=512"  # GCC's default is half of what AVX-512 has
_COMPILE_LIMIT_S = 300
_SUM_BYTES = 32


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; None, with one warning that says why, where they cannot be had."""
    try:
        return ctypes.CDLL(str(_built()), mode=os.RTLD_NOW)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning(f"CPU kernels are not used, PyTorch's own are, slower: {reason}")
    return None


def _built() -> Path:
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise OSError(f"no C++ compiler ({', '.join(_COMPILERS)}); install one, or say where it is in CXX")
    flags = [*FLAGS, *([_WIDE] if "avx512f" in _processor() else [])]
    sources = sorted(SOURCES.iterdir())
    about = [compiler, *flags, _processor(), *(source.read_text(encoding="utf-8") for source in sources)]
    target = cache_folder() / f"cpu-{hashlib.sha256(chr(0).join(about).encode()).hexdigest()[:16]}.so"
    if not _is_whole(target):
        _compile([compiler, *flags, *(str(source) for source in sources if source.suffix == ".cpp")], target)
    return target


def cache_folder() -> Path:
    """Where what is compiled is kept between runs; a folder of this process's own where there is no writable home."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitscale"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    return folder if writable else Path(tempfile.mkdtemp(prefix="bitscale-"))


def _compile(command: list[str], target: Path) -> None:
    """Ranks may do this at the same time: each its own file, of which one name is made."""
    own = target.with_name(f".{target.stem}.{uuid4().hex}.so")  # made by the compiler, so that others may read it, too
    try:
        done = subprocess.run(
            [*command, "-o", str(own)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMPILE_LIMIT_S,
        )
        if done.returncode:
            message = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise OSError(f"{command[0]} fails: {message or done.returncode}")
        with own.open("ab") as file:
            file.write(_sum(own.read_bytes()))
            file.flush()
            os.fsync(file.fileno())
        own.replace(target)
    finally:
        own.unlink(missing_ok=True)


def _is_whole(library: Path) -> bool:
    """Whether a library ends in the sum of what comes before: the system kills who loads one that is cut off."""
    content = library.read_bytes() if library.is_file() else b""
    return content[-_SUM_BYTES:] == _sum(content[:-_SUM_BYTES])


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@cache
def _processor() -> str:
    """What decides the code that -march=native makes."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return platform.machine() + "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where its numbers are; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def pointers(tensors: Iterable[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    """An array of where the numbers of each are."""
    addresses = [tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def whole_numbers(*values: int) -> list[ctypes.c_int64]:
    """Arguments of C++ type int64_t."""
    return [ctypes.c_int64(value) for value in values]


def threads() -> ctypes.c_int64:
    """As many as torch uses."""
    return ctypes.c_int64(torch.get_num_threads())
