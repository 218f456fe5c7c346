"""Schemes: declarations of what is quantized, and how."""
