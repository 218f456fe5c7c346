"""Repairs: transforms of a plan that make rounding lose less; scales keep what the float model computes."""
