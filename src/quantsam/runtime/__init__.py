"""The parts that need no PyTorch: the registry of engines, their sessions, and the use of bundles."""
