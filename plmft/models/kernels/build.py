"""Compile the kernel into the user's cache: one C++ file, a few seconds, without ninja or PyTorch's headers.

The library is made and tried in a folder of its own and moved into place whole: a build that is killed, or two at
once, leave either nothing or a sound library.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from plmft import InputError
from plmft.models.kernels import find, open_library, rotary_attention
from plmft.models.kernels.library import LEVELS, SOURCE, cpu_level, library_path

COMPILERS = ("g++", "g++-14", "g++-13", "g++-12", "g++-11")


def build() -> tuple[Path, bool]:
    """Build the kernel for this machine, unless it is there.

    Returns: the library, and whether it was built now.
    Raises: InputError: the CPU has no AVX2, there is no compiler, it fails, or the cache can't be written.
    """
    level = cpu_level()
    if level is None:
        raise InputError("The kernel needs Linux on x86-64 with AVX2. Nothing to do: plmft computes with PyTorch here.")
    path = library_path(level)
    if path.exists():
        return path, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
            library = _compile(level, Path(folder))
            _check(library)
            os.replace(library, path)
    except OSError as error:
        raise InputError(f"{path.parent}: {error}. Set XDG_CACHE_HOME to a folder that can be written.") from error
    find.cache_clear()
    return path, True


def _compile(level: str, folder: Path) -> Path:
    compiler = os.environ.get("CXX") or next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None or shutil.which(compiler) is None:
        raise InputError(
            f"No C++ compiler ({compiler or ', '.join(COMPILERS)}) found. Install g++ (Debian: apt install g++) or set "
            "CXX. Without the kernel plmft computes with PyTorch: the same results, slower on a CPU."
        )
    flags = [f"-m{name.replace('avx512_bf16', 'avx512bf16')}" for name in LEVELS[level]]
    made, library = folder / "attention.o", folder / "attention.so"
    _run([compiler, "-std=gnu++17", "-O3", *flags, "-fopenmp", "-fPIC", "-w", "-c", str(SOURCE), "-o", str(made)])
    # Without -fopenmp here: the threads must be those of PyTorch's own OpenMP, which is loaded by then.
    _run([compiler, "-shared", str(made), "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise InputError(f"The kernel doesn't compile.\n{' '.join(command)}\n{said}\nTry GCC 11 or newer (CXX=...).")


def _check(library: Path) -> None:
    """Refuse what a broken compiler made. Raises: InputError."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(40, 3 * 2 * 16, generator=generator)
    q, k, v = qkv.view(40, 3, 2, 16).permute(1, 2, 0, 3)
    expected = (torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v).transpose(0, 1).flatten(1)
    try:
        found = rotary_attention(qkv, (40,), None, heads=2, scale=0.25, library=open_library(library))
    except OSError as error:
        raise InputError(f"The compiled kernel doesn't load: {error}. Try another compiler (CXX=...).") from error
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise InputError("The compiled kernel computes wrongly and was thrown away. Try another compiler (CXX=...).")
