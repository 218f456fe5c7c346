"""Repairs: transforms of a plan that keep what the float model computes and lose less when it is rounded."""
