"""What runs without PyTorch: ONNX graphs on ONNX Runtime and OpenVINO."""
