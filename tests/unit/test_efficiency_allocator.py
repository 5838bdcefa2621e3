"""Buffers that a step frees are not faulted in again."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from plmft.efficiency.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def step():
    buffers = [torch.ones(n << 18) for n in (1, 8, 30, 60)]  # of 1 to 60 MB

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_a_step_faults_in_far_fewer_pages():
    faults = [
        int(subprocess.run([sys.executable, "-c", SCRIPT, word], capture_output=True, text=True, check=True).stdout)
        for word in ("as it is", "keep")
    ]
    assert faults[1] * 4 < faults[0]
