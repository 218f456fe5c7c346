"""Runs: what a run is about, checked, opened and calibrated in one place."""
