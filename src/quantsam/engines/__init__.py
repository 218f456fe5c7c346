"""Run plans on real integer engines: ONNX with explicit quantization, and the engines that run it."""
