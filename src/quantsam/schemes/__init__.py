"""Declarations of what is quantized, and how."""
