"""Building the compiled kernel, finding it, and doing without it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plmft import InputError
from plmft.models import kernels
from plmft.models.kernels import rotary_attention
from plmft.models.kernels.__main__ import main
from plmft.models.kernels.build import build
from plmft.models.kernels.library import LEVELS, cpu_level, library_path
from tests.unit.kernel_library import built_library
from tests.unit.test_kernel import BOUND, LENGTHS, check


@pytest.fixture(scope="module")
def library_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_library(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def fitting_cpu() -> None:
    if cpu_level() is None:
        pytest.skip("the kernel needs Linux on x86-64 with AVX2")


def compiler(folder: Path, action: str) -> str:
    """A compiler that does `action`; $out is what it should make."""
    script = folder / "compiler"
    script.write_text(f"#!/bin/sh\nfor out; do :; done\n{action}\n")
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty cache: the folder that libraries are built into."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PLMFT_KERNEL", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    kernels.find.cache_clear()
    yield library_path(cpu_level()).parent
    kernels.find.cache_clear()


def test_who_could_have_it_is_told(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not kernels.notes("cpu")
    Path(compiler(tmp_path, "exit 1")).rename(tmp_path / "g++")
    (told,) = kernels.notes("cpu")
    assert told.endswith("python -m plmft.models.kernels") and not kernels.notes("cuda")
    monkeypatch.setenv("PLMFT_KERNEL", "0")
    assert not kernels.notes("cpu")


def test_no_compiler(cache, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(cache))
    assert main() == 2
    out, err = capsys.readouterr()
    assert not out and "Install g++" in err and not list(cache.iterdir())


def test_no_fitting_cpu(cache, monkeypatch, capsys):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert main() == 2
    assert "x86-64" in capsys.readouterr().err
    assert kernels.load() is None


def test_a_cache_that_cannot_be_written(cache, monkeypatch, capsys, tmp_path):
    (tmp_path / "plmft").write_text("a file, not a folder")
    assert main() == 2
    assert "XDG_CACHE_HOME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("action", "message"),
    [("echo no such flag >&2; exit 1", "no such flag"), ("echo no library > $out", "doesn't load")],
)
def test_a_compiler_that_fails_leaves_nothing(cache, monkeypatch, capsys, tmp_path, action, message):
    monkeypatch.setenv("CXX", compiler(tmp_path, action))
    assert main() == 2
    assert message in capsys.readouterr().err
    assert not list(cache.iterdir())


def test_a_kernel_that_computes_wrongly_is_thrown_away(cache, monkeypatch, tmp_path, library_file):
    monkeypatch.setenv("CXX", compiler(tmp_path, f'cp "{library_file}" "$out"'))
    monkeypatch.setattr("plmft.models.kernels.build.rotary_attention", lambda *_, **__: torch.zeros(40, 32))
    with pytest.raises(InputError, match="computes wrongly"):
        build()
    assert not list(cache.iterdir())


def test_builds_once_and_loads_it(cache, monkeypatch, capsys, tmp_path, library_file):
    assert kernels.load() is None
    monkeypatch.setenv("CXX", compiler(tmp_path, f'cp "{library_file}" "$out"'))
    assert main() == 0
    assert capsys.readouterr().out.startswith("Built ")
    assert list(cache.iterdir()) == [library_path(cpu_level())]
    assert kernels.load() is not None
    monkeypatch.setenv("PLMFT_KERNEL", "0")
    assert kernels.load() is None
    monkeypatch.setenv("CXX", "/nowhere")
    assert main() == 0
    assert capsys.readouterr().out.startswith("Already there")


def start_build(**options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "plmft.models.kernels"], **options)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_built_for_an_older_cpu_computes_the_same(cache, monkeypatch, level):
    if list(LEVELS).index(level) <= list(LEVELS).index(cpu_level()):
        pytest.skip("not older than this CPU")
    monkeypatch.setattr("plmft.models.kernels.build.cpu_level", lambda: level)
    library = kernels.open_library(build()[0])
    monkeypatch.setattr(kernels, "load", lambda: library)
    for dtype in BOUND:
        for width in (16, 20, 64):
            check(LENGTHS, 3, width, dtype, True, width**-0.5)


@pytest.mark.slow
def test_two_builds_at_once(cache, monkeypatch, tmp_path, library_file):
    monkeypatch.setenv("CXX", compiler(tmp_path, f'sleep 0.5; cp "{library_file}" "$out"'))
    assert [process.wait() for process in [start_build(), start_build()]] == [0, 0]
    assert list(cache.iterdir()) == [library_path(cpu_level())]


@pytest.mark.slow
def test_a_killed_build_leaves_no_library(cache, monkeypatch, tmp_path):
    started = tmp_path / "started"
    monkeypatch.setenv("CXX", compiler(tmp_path, f"touch {started}; sleep 30"))
    process = start_build(start_new_session=True)
    while not started.exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert started.exists() and not list(cache.glob("*.so"))
    assert kernels.load() is None


@pytest.mark.slow
def test_loading_needs_no_build_system():
    code = (
        "import sys; from plmft.models import kernels as k; k.load(); print('torch.utils.cpp_extension' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_broken_library_is_none(cache):
    cache.mkdir(parents=True)
    library_path(cpu_level()).write_text("no library")
    assert kernels.load() is None


def test_another_source_pytorch_or_cpu_is_none(cache, library_file):
    cache.mkdir(parents=True)
    name = library_path(cpu_level()).name
    other_cpu = library_path(next(level for level in LEVELS if level != cpu_level())).name
    for other in (other_cpu, name.replace("-torch", "-torch1."), name.replace("attention-", "attention-0")):
        (cache / other).write_bytes(library_file.read_bytes())
    assert kernels.load() is None


def test_not_built_is_a_clear_error(cache):
    with pytest.raises(RuntimeError, match="isn't built"):
        rotary_attention(torch.zeros(4, 96), (4,), None, heads=2, scale=1.0)


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fpu avx2 fma", "avx2"),
        ("fpu avx2", None),
        ("fma avx2 avx512f avx512bw avx512vl avx512dq", "avx512"),
        ("fma avx2 avx512f avx512bw avx512vl avx512dq avx512_bf16", "avx512_bf16"),
        ("fma avx2 avx512f avx512_bf16", "avx2"),
        ("", None),
    ],
)
def test_what_a_cpu_can(tmp_path, monkeypatch, flags, level):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert cpu_level(tmp_path / "cpuinfo") == level
    assert cpu_level(tmp_path / "absent") is None
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert cpu_level(tmp_path / "cpuinfo") is None
