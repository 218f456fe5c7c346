"""Sets of runs: described in a file, resumable, on one machine or on many."""
