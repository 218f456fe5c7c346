"""Quantization of tensors: formats, observers, quantizers; knows no model."""
