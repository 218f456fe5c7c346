"""Look closer: does an engine agree, where does it depart, what overflows, saturates or is clipped."""
