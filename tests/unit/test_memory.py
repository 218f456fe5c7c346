import os
import platform
import subprocess
import sys

import pytest

from quantsam import memory

COUNT_FAULTS = """
import resource, sys
import torch
from quantsam.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    return torch.ones(1 << 20).add(1).sum()
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_not_mapped_again():
    def faults(way):
        # the library's own threshold adapts to what was freed before; fixed, what is left alone is always given back
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}
        command = [sys.executable, "-c", COUNT_FAULTS, way]
        return int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)

    assert 4 * faults("keep") < faults("leave")


def test_elsewhere_it_has_no_effect(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(sys, "platform", "linux")
    assert memory.keep_freed_memory() is False
