"""Plans as something that runs: bundles, and the references that they are checked by."""
