"""Plain EfficientViT-SAM: it knows nothing of quantization but named sites."""
