"""The registry of engines: what it names exists, and one rule says what an engine takes."""

import pytest

from quantsam.errors import InputError
from quantsam.plans.placements import PLACEMENTS
from quantsam.runtime.engine import imported
from quantsam.runtime.engines import ENGINES, PYTORCH, check_precision, get_engine, placement_of


@pytest.mark.parametrize("name", ENGINES)
def test_what_an_engine_names_exists(name):
    engine = ENGINES[name]
    assert engine.name == name
    assert engine.placement in PLACEMENTS
    for reference in (engine.opener, engine.reader, engine.checker, engine.builder):
        assert reference is None or callable(imported(reference))


def test_float32_leaves_the_precision_to_the_engine():
    assert [engine.precision_for("f32") for engine in ENGINES.values()] == ["f32", "f32", "f16", "f32"]
    assert get_engine("openvino").precision_for("bf16") == "bf16"
    with pytest.raises(InputError, match=r"precision of onnxruntime must be 'f32', got 'bf16'"):
        get_engine("onnxruntime").precision_for("bf16")


def test_a_precision_is_refused_with_the_engines_that_have_it():
    check_precision(PYTORCH, "f32")
    check_precision("openvino", "bf16")
    with pytest.raises(InputError, match="precision bf16 is of openvino, got engine pytorch: take f32"):
        check_precision(PYTORCH, "bf16")


def test_placements_of_what_computes():
    assert placement_of(PYTORCH) == placement_of(PYTORCH, vnni=True) == "thesis"
    placed = [placement_of(name, vnni=True) for name in ENGINES]
    assert placed == ["onnxruntime+vnni", "openvino+vnni", "tensorrt", "onnxruntime"]


def test_only_some_run_on_the_processor():
    with pytest.raises(InputError, match="engine must be one of onnxruntime, openvino, web, got 'tensorrt'"):
        get_engine("tensorrt", on_processor=True)
