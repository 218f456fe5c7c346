import ctypes
import os
import platform
import subprocess
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest

from quantsam.engines.probe import probe_graph
from quantsam.results.machine import instruction_sets
from quantsam.runtime import processor
from quantsam.runtime.processor import adds_in_32_bits, processor_text


@pytest.fixture(autouse=True)
def _afresh():
    instruction_sets.cache_clear()
    yield
    instruction_sets.cache_clear()


def on(monkeypatch, system):
    monkeypatch.setattr(platform, "system", lambda: system)


def cpuinfo(monkeypatch, text):
    on(monkeypatch, "Linux")

    def read(self, *args, **kwargs):
        assert str(self) == "/proc/cpuinfo"
        if text is None:
            raise FileNotFoundError("/proc/cpuinfo")
        return text

    monkeypatch.setattr(Path, "read_text", read)


@pytest.mark.parametrize(("text", "expected"), [
    ("processor\t: 0\nflags\t\t: fpu sse2 avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu\n", ("avx2",)),
    ("flags : avx2 avx512f avx512_vnni amx_int8 avx_vnni\n", ("avx2", "avx512", "avx512_vnni", "amx_int8", "avx_vnni")),
    ("Features\t: fp asimd asimddp i8mm\n", ("asimd", "dotprod", "i8mm")),
    ("flags : from_the_future9\n", ()),
    ("nothing known", ()),
    ("", ()),
    (None, ()),
])  # fmt: skip
def test_linux(monkeypatch, text, expected):
    cpuinfo(monkeypatch, text)
    assert instruction_sets() == expected


@pytest.mark.parametrize(("answer", "expected"), [
    ("machdep.cpu.leaf7_features: RDWRFSGS AVX2 AVX512F AVX512VNNI\n", ("avx2", "avx512", "avx512_vnni")),
    ("hw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\n", ("asimd", "dotprod")),
    ("", ()),
    (FileNotFoundError("sysctl"), ()),
    (subprocess.TimeoutExpired("sysctl", 10), ()),
])  # fmt: skip
def test_macos(monkeypatch, answer, expected):
    on(monkeypatch, "Darwin")

    def run(command, **options):
        assert command[0] == "sysctl"
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)
    assert instruction_sets() == expected


def test_windows(monkeypatch):
    on(monkeypatch, "Windows")
    kernel = SimpleNamespace(IsProcessorFeaturePresent=lambda number: number == 40)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert instruction_sets() == ("avx2",)


def test_windows_that_does_not_tell(monkeypatch):
    on(monkeypatch, "Windows")
    monkeypatch.delattr(ctypes, "windll", raising=False)
    assert instruction_sets() == ()


def test_an_unknown_system_is_told_as_such(monkeypatch):
    on(monkeypatch, "Plan 9")
    monkeypatch.setattr(platform, "machine", lambda: "mips")
    assert processor_text() == "unknown instruction sets (mips)"


def test_the_probe_is_the_one_that_the_runtime_ships():
    assert resources.files("quantsam.runtime").joinpath(processor.PROBE).read_bytes() == probe_graph()


class Probed:
    """A session that answers the probe as a processor would."""

    def __init__(self, answer):
        self.answer = answer

    def run(self, inputs):
        return {"out": self.answer * inputs["in"]}


@pytest.mark.parametrize(("answer", "wide"), [(32.0, True), (16.2, False)])
def test_the_verdict_is_measured_and_not_guessed_from_names(monkeypatch, answer, wide):
    adds_in_32_bits.cache_clear()
    cpuinfo(monkeypatch, "flags : avx2 avx512_vnni" if not wide else "flags : avx2")
    monkeypatch.setattr(processor, "open_session", lambda engine, graph, options: Probed(answer))
    try:
        assert adds_in_32_bits("openvino") is wide
        said = "openvino: products added in 32 bits" if wide else "openvino: pairs of products saturate at 16 bits"
        assert said in processor_text("openvino")
    finally:
        adds_in_32_bits.cache_clear()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_processor_that_tells_of_vnni_has_it(engine):
    """Where the names are known, the probe must agree with them."""
    if not {"avx512_vnni", "avx_vnni", "amx_int8", "dotprod"} & set(instruction_sets()):
        pytest.skip("this processor tells of no instructions for integers")
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):
        pytest.skip("ONEDNN_MAX_CPU_ISA limits the kernels")
    assert adds_in_32_bits(engine)


def test_tensorrt_needs_no_probe():
    assert adds_in_32_bits("tensorrt")
