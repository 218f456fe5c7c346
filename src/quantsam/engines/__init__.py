"""Plans on real integer engines: ONNX with explicit quantization, and what runs it."""
