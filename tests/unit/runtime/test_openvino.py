"""OpenVINO's sessions leave the process as it was: signals are handled after some came and went."""

import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("openvino")

_SESSIONS_THEN_A_SIGNAL = """
import os, signal, sys
from quantsam.runtime.openvino import OpenVinoSession
from quantsam.runtime.sessions import SessionOptions
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
graph = sys.stdin.buffer.read()
first, second = OpenVinoSession(graph, SessionOptions()), OpenVinoSession(graph, SessionOptions())
del first
del second
signal.raise_signal(signal.SIGUSR1)
"""


def test_a_signal_is_handled_after_sessions_that_ended_in_their_order():
    shape = [1, 3, 8, 8]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "relu", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    ended = subprocess.run(
        [sys.executable, "-c", _SESSIONS_THEN_A_SIGNAL], input=model.SerializeToString(), capture_output=True
    )
    assert (ended.returncode, ended.stdout) == (0, b"handled\n"), ended.stderr.decode()
