"""A SLURM cluster of one node, for all tests here; it is started for them and stopped."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "dev_cluster.sh"


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """SLURM's programs talk to a cluster of our own, and jobs find this Python."""
    if os.geteuid() != 0:
        pytest.skip("a SLURM cluster can be started by root alone")
    if shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin") is None:
        pytest.skip("SLURM is not installed: slurm/dev_cluster.sh install")
    folder = Path(tempfile.mkdtemp(prefix="plmft-slurm-"))  # a short name: munge's socket takes no long one
    before = dict(os.environ)
    try:
        subprocess.run([SCRIPT, "start", folder], check=True)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{before['PATH']}"
        yield
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
        shutil.rmtree(folder)
        os.environ.clear()
        os.environ.update(before)
