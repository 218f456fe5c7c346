"""Bundles: plans exported as files that run without PyTorch, and the references for checking them."""
