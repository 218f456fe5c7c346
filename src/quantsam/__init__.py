"""quantsam: INT8 quantization of EfficientViT-SAM that can be trusted."""
