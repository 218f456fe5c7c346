"""Look closer: whether an engine agrees, where it deviates, and what overflows, saturates or is clipped."""
