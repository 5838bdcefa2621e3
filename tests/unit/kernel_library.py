"""The compiled kernel for the tests: the user's own build if there is one, else one of theirs."""

from pathlib import Path

import pytest

from plmft import InputError
from plmft.models import kernels
from plmft.models.kernels.build import build
from plmft.models.kernels.library import cpu_level, library_path


def built_library(folder: Path) -> Path:
    """The library's file, built into `folder` if need be (a few seconds); skips where it can't be."""
    level = cpu_level()
    if level is None:
        pytest.skip("the kernel needs Linux on x86-64 with AVX2")
    if library_path(level).exists():
        return library_path(level)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        try:
            return build()[0]
        except InputError as error:
            pytest.skip(f"the kernel can't be built here: {error}")
        finally:
            kernels.find.cache_clear()
