"""Run a plan in PyTorch with rounded values."""
