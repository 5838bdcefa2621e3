"""Give up root's power to pass over permissions for a while, so that they can be tested as root too (Linux)."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

VERSION_3 = 0x20080522
PASS_OVER = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities(7))


class Header(ctypes.Structure):
    """cap_user_header_t; thread 0 is the calling one."""

    _fields_ = (("version", ctypes.c_uint32), ("thread", ctypes.c_int))


class Sets(ctypes.Structure):
    """cap_user_data_t."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Within the block, this thread needs the rights that files give to their owner."""
    if os.geteuid() != 0:
        yield
        return
    libc, header, sets = ctypes.CDLL(None), Header(VERSION_3, 0), (Sets * 2)()
    if not hasattr(libc, "capset") or libc.capget(ctypes.byref(header), sets):
        pytest.skip("root's power to read and write everything can't be given up here")
    before = sets[0].effective
    sets[0].effective = before & ~PASS_OVER
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0
