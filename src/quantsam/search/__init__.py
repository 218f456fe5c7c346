"""Which format each layer should have: found under a budget, verified by evaluation."""
