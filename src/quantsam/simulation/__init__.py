"""Simulate a plan in PyTorch with rounded values."""
