"""Plain EfficientViT-SAM. Its only trace of quantization is named sites."""
