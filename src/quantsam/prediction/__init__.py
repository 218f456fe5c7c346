"""Prediction: turn prompts on an image, or a grid of points over it, into masks."""
