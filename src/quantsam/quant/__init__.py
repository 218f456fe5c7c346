"""Quantization of tensors: formats, observers, quantizers. It knows nothing about models."""
