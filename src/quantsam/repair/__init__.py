"""Repairs: transforms of a plan that reduce rounding errors. Scales do not change what the float model computes."""
