"""Where the compiled kernel lies: one file for each source, PyTorch version and kind of CPU.

The name holds everything that the build depends on, so a library that is found fits, also where machines with
different CPUs share one home folder. Looking costs a few milliseconds and compiles nothing.
"""

import hashlib
import os
import platform
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "attention.cpp"  # includes the headers beside it

# Best first: what the compiler may use, and under which names Linux reports it.
LEVELS = {
    "avx512_bf16": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma"),
    "avx2": ("avx2", "fma"),
}


def cpu_level(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The best of LEVELS that this machine's CPU has, or None (no Linux, no x86-64, no AVX2)."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    flags: set[str] = set()
    try:
        with cpuinfo.open() as lines:  # the first CPU is enough, and a large machine's file is long
            flags.update(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:
        return None
    return next((level for level, needed in LEVELS.items() if flags.issuperset(needed)), None)


def library_path(level: str) -> Path:
    """The library for `level`, built or not, in the user's cache ($XDG_CACHE_HOME, else ~/.cache)."""
    sources = [SOURCE, *sorted(FOLDER.glob("*.h"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "plmft" / "kernels" / f"attention-{digest}-{level}-torch{torch.__version__}.so"
