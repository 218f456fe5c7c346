"""Bundles: a plan exported as files that run without PyTorch, and the references that they are checked by."""
