"""Search a format for each layer under a budget, and verify the result by evaluation."""
