"""The command as a user runs it: killed half-way, on a disk that is full, in a pipe, and how soon a mistake is told."""

import gzip
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from tests.conftest import random_sequence
from tests.e2e.command import environment, stopped_in_silence
from tests.unit.test_predict import tuned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LIMIT_S = 100


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tuned model, and 600 proteins."""
    folder, rng = tmp_path_factory.mktemp("predict"), np.random.default_rng(0)
    tuned(folder / "model")
    entries = (f">p{i}\n{random_sequence(rng, int(rng.integers(20, 60)))}\n" for i in range(600))
    (folder / "proteins.fa").write_text("".join(entries))
    return folder


def words(place, output, *more):
    command = [sys.executable, "-m", "plmft.predict", f"model={place}/model", f"input={place}/proteins.fa"]
    return [*command, f"output={output}", "chunk=40", "hardware=cpu", *more]


def run(place, output, *more, **options):
    return subprocess.run(
        words(place, output, *more), capture_output=True, text=True, env=environment(place), timeout=LIMIT_S, **options
    )


def killed(place, output, after):
    """Killed when so many parts are there."""
    with subprocess.Popen(words(place, output), env=environment(place), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + LIMIT_S
        while len(list(output.with_name(f"{output.name}.parts").glob("part-*"))) < after:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_killed_half_way_and_the_same_command_gives_the_same_bytes(place):
    for name in ("whole", "ended"):
        (place / name).mkdir()
    killed(place, place / "ended" / "p.parquet", after=4)
    assert not (place / "ended" / "p.parquet").exists()
    again = run(place, place / "ended" / "p.parquet")
    assert again.returncode == 0, again
    found = int(again.stdout.split(" of them found done")[0].rsplit("(", 1)[1])
    assert 160 <= found < 600
    assert run(place, place / "whole" / "p.parquet").returncode == 0
    whole, ended = ({f.name: f.read_bytes() for f in (place / name).iterdir()} for name in ("whole", "ended"))
    assert whole == ended and len(pd.read_parquet(place / "ended" / "p.parquet")) == 600


def test_a_disk_that_refuses_a_write_is_told_and_parts_are_kept(place, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))  # each part is smaller, the whole file is not

    refused = run(place, tmp_path / "p.csv", preexec_fn=small_files)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused
    assert "can't write (File too large" in refused.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.csv.parts"]
    assert len(list(tmp_path.glob("p.csv.parts/part-*"))) == 15


def test_a_pipe_that_breaks_off(place, tmp_path):
    packed = gzip.compress((place / "proteins.fa").read_bytes())
    command = words(place, tmp_path / "p.csv", "input=-")
    raw = packed[: len(packed) * 3 // 4]
    done = subprocess.run(command, input=raw, capture_output=True, env=environment(place), timeout=LIMIT_S)
    assert done.returncode == 2 and b"standard input: damaged or cut short near line" in done.stderr, done
    assert 3 < len(list(tmp_path.glob("p.csv.parts/part-*"))) < 15


def test_a_pipe_that_says_nothing_holds_up_no_end(place, tmp_path):
    def ready():
        return len(list(tmp_path.glob("p.csv.parts/part-*"))) == 14  # the rest may go on

    command = words(place, tmp_path / "p.csv", "input=-")
    ended = stopped_in_silence(command, (place / "proteins.fa").read_bytes(), ready, place)
    assert (ended.code, ended.out) == (143, ""), ended
    assert ended.err == "plmft: interrupted; what was written is kept. Give the same command again to go on.\n"


EARLY = """
import sys
from plmft.predict import main
sys.argv = ["predict", *sys.argv[1:]]
try:
    main()
finally:
    print(sorted({"torch", "mlflow", "transformers", "scipy"} & set(sys.modules)))
"""


def test_mistakes_in_names_are_told_before_anything_heavy_is_imported(place, tmp_path):
    given = {"model": f"{place}/model", "input": f"{place}/proteins.fa", "output": f"{tmp_path}/p.csv"}
    for wrong, told in {"input": "no such file", "output": "no known kind of file", "model": "no such folder"}.items():
        texts = (f"{key}={'./none.x' if key == wrong else value}" for key, value in given.items())
        done = subprocess.run(
            [sys.executable, "-c", EARLY, *texts],
            capture_output=True,
            text=True,
            env=environment(place) | {"PWD": os.getcwd()},
        )
        assert (done.returncode, done.stdout) == (2, "[]\n"), done
        assert told in done.stderr and len(done.stderr.splitlines()) == 1
