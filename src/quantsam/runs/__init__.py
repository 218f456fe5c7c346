"""Runs: one place that checks, opens and calibrates what a run needs."""
