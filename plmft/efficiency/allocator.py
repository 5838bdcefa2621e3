"""Memory of a process on a CPU that neither model nor data account for: what freed buffers cost, what libraries keep.

glibc maps buffers of more than 32 MB anew each time, and every 4 KiB page of them costs the kernel about 1 µs: a tenth
of a small model's step. To keep what a step frees costs up to that step's peak between steps.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
LARGEST = 2**31 - 1
TOP_PAD = 64 << 20  # how much more than asked for is taken from the system at once


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, instead of returning it to the system; False where there is no glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    wanted = {M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: LARGEST, M_TOP_PAD: TOP_PAD}
    return all(mallopt(name, value) == 1 for name, value in wanted.items())


def bound_kernel_caches() -> None:
    """Let oneDNN keep the kernels of 64 shapes instead of 1,024; call it before torch is imported.

    It makes a kernel for each shape of a product, and sequences have hundreds of lengths: 400 MB after ten batches of
    16. What the environment sets already stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")
