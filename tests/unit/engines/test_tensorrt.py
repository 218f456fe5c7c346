"""TensorRT was never run by us: no GPU. The graph is checked, its numbers in other engines, and our calls."""

import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, shape_inference

from quantsam.engines import tensorrt
from quantsam.engines.encoder import make_engine_encoder
from quantsam.engines.executed import executed
from quantsam.engines.half import with_half_precision
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.errors import EngineError, OutputError
from quantsam.notices import Notice
from quantsam.runtime.engines import check_engine, open_session
from quantsam.runtime.sessions import SessionOptions


@pytest.fixture(scope="module")
def graph(tiny, placed):
    return encoder_to_onnx(tiny, placed("int8", "tensorrt"))


@pytest.fixture(scope="module")
def half(graph):
    return with_half_precision(graph)


def types_of(model):
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    return found | {t.name: t.data_type for t in inferred.initializer}


def test_every_convolution_has_symmetric_int8_at_input_and_weight(half, convolutions):
    makers = {output: node for node in half.graph.node for output in node.output}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in half.graph.initializer}
    found = [node for node in half.graph.node if node.op_type == "Conv"]
    assert len(found) == convolutions
    for conv in found:
        for name in conv.input[:2]:
            assert makers[name].op_type == "DequantizeLinear"
            zero = constants[makers[name].input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        assert makers[makers[conv.input[0]].input[0]].op_type == "QuantizeLinear"
        assert constants[makers[conv.input[0]].input[1]].ndim == 0  # a scale a tensor


def test_types_hold_together_and_what_overflows_is_float32(half):
    onnx.checker.check_model(half, full_check=True)
    kinds = types_of(half)
    assert kinds["image"] == kinds["embedding"] == TensorProto.FLOAT
    pinned = [n for n in half.graph.node if n.op_type == "LayerNormalization" or ".core." in n.name]
    assert len(pinned) > 20
    for node in pinned:
        names = [name for name in (*node.input, *node.output) if name in kinds]
        if node.op_type != "Cast":
            assert TensorProto.FLOAT16 not in {kinds[name] for name in names}, node.name
    others = [n for n in half.graph.node if n.op_type in ("Gelu", "Add", "Resize") and n not in pinned]
    assert others
    assert all(kinds[n.output[0]] == TensorProto.FLOAT16 for n in others)


def test_the_numbers_are_those_of_float32_to_float16s_precision(graph, half, images):
    options = SessionOptions(1, shapes={"image": (1, 3, 64, 64)})
    expected, found = (
        open_session("openvino", g.SerializeToString(), options).run({"image": images[0].numpy()})["embedding"]
        for g in (graph, half)
    )
    off = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert 0 < off < 0.1


def test_scales_below_float16_stay_float32(graph):
    small = onnx.ModelProto()
    small.CopyFrom(graph)
    scale = next(t for t in small.graph.initializer if t.name == "stage1:1:0/input:scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.asarray(1e-6, np.float32), scale.name))
    converted = with_half_precision(small)
    onnx.checker.check_model(converted, full_check=True)
    kinds = types_of(converted)
    assert kinds["stage1:1:0/convolution"] == TensorProto.FLOAT
    assert kinds["stage1:1:1/convolution"] == TensorProto.FLOAT16


def test_values_that_would_overflow_stay_float32_with_what_makes_and_reads_them(graph):
    plain = types_of(with_half_precision(graph))
    kept = [node.output[0] for node in graph.graph.node if node.op_type == "Add"][1]
    assert plain[kept] == TensorProto.FLOAT16
    converted = with_half_precision(graph, [kept])
    onnx.checker.check_model(converted, full_check=True)
    kinds = types_of(converted)
    assert kinds[kept] == TensorProto.FLOAT
    readers = [node for node in converted.graph.node if kept in node.input]
    assert readers
    for node in readers:
        assert all(kinds[name] != TensorProto.FLOAT16 for name in node.input if name in kinds), node.name
    assert sum(kind == TensorProto.FLOAT16 for kind in kinds.values()) > 0.9 * sum(
        kind == TensorProto.FLOAT16 for kind in plain.values()
    )


def test_a_weight_that_float16_cannot_hold(tiny, images):
    from quantsam.plans.make import make_plan

    whole = encoder_to_onnx(tiny, make_plan(tiny, "fp32", "tensorrt"))
    weight = next(t for t in whole.graph.initializer if t.name == "stage0:0:0/weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(1e6 * onnx.numpy_helper.to_array(weight), weight.name))
    converted = with_half_precision(whole)
    onnx.checker.check_model(converted, full_check=True)
    kinds = types_of(converted)
    assert kinds["stage0:0:0/convolution"] == TensorProto.FLOAT
    assert kinds["stage0:1:0/convolution"] == TensorProto.FLOAT16


def test_trtexec():
    line = tensorrt.trtexec_command(Path("my bundle/encoder.onnx"))
    assert line == "trtexec '--onnx=my bundle/encoder.onnx' '--saveEngine=my bundle/encoder.engine' --stronglyTyped"


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(EngineError, match=r"package tensorrt, which is not installed.*trtexec --onnx=encoder.onnx"):
        check_engine("tensorrt")
    monkeypatch.setattr(tensorrt, "require", lambda name: types.SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"needs a CUDA GPU, PyTorch finds none .*trtexec"):
        check_engine("tensorrt")


class FakeTensorRT(types.ModuleType):
    """Records what is asked of it."""

    __version__ = "10.8.0"
    NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=2)

    def __init__(self, parses=True):
        super().__init__("tensorrt")
        self.calls, self.parses = [], parses
        self.Logger = lambda level: "logger"
        self.Logger.ERROR = 1
        self.Builder = lambda logger: self
        self.OnnxParser = lambda network, logger: self
        self.Runtime = lambda logger: self
        self.num_errors, self.num_inputs, self.name, self.shape = 1, 1, "image", (-1, 3, 64, 64)

    def create_network(self, flags):
        self.calls.append(("network", flags))
        return self

    def parse(self, graph):
        onnx.load_from_string(graph)
        return self.parses

    def get_error(self, index):
        return types.SimpleNamespace(desc=lambda: "no such operator")

    def get_input(self, index):
        return self

    def set_shape(self, name, *shapes):
        self.calls.append(("shape", name, shapes[0]))

    def build_serialized_network(self, network, config):
        self.calls.append(("build",))
        return b"engine"

    def deserialize_cuda_engine(self, plan):
        assert plan == b"engine"
        return types.SimpleNamespace(create_execution_context=lambda: None, num_io_tensors=0)

    def add_optimization_profile(self, profile):
        return 0

    create_builder_config = create_optimization_profile = lambda self: self


@pytest.fixture
def fake(monkeypatch):
    package = FakeTensorRT()
    monkeypatch.setattr(tensorrt, "require", lambda name: package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Orin")
    return package


def test_a_strongly_typed_network_is_built_once(fake, graph, tmp_path):
    for _ in range(2):
        session = tensorrt.open_tensorrt(graph, cache=tmp_path / "engines")
        assert session.engine == "tensorrt"
    assert fake.calls == [("network", 1 << 2), ("shape", "image", (1, 3, 64, 64)), ("build",)]
    assert len(list((tmp_path / "engines").iterdir())) == 1


def test_an_encoder_in_it_goes_by_the_registry(fake, tiny, placed, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "cache_folder", lambda name: tmp_path)
    encoder = make_engine_encoder(tiny, placed("int8", "tensorrt"), "tensorrt")
    assert (encoder.engine, encoder.precision, encoder.exact) == ("tensorrt", "f16", True)
    assert fake.calls[-1] == ("build",)
    assert executed(encoder.graph, encoder.session) == ()  # it does not tell, so nothing is said of it


def test_a_refused_graph(fake, graph, tmp_path):
    fake.parses = False
    with pytest.raises(EngineError, match=r"TensorRT 10.8.0 refuses the graph \(no such operator\)"):
        tensorrt.open_tensorrt(graph, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made(fake, graph, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot make the folder .*: Not a directory: name another"):
        tensorrt.open_tensorrt(graph, cache=tmp_path / "file" / "engines")
    # not ours to insist on: built again next time
    for usual in (tmp_path / "file" / "engines", None):
        monkeypatch.setattr(tensorrt, "cache_folder", lambda name, usual=usual: usual)
        with pytest.warns(Notice, match="the built engine is not kept .*: set XDG_CACHE_HOME"):
            assert tensorrt.open_tensorrt(graph).engine == "tensorrt"


def test_the_package_is_not_needed_to_import():
    assert "tensorrt" not in sys.modules
