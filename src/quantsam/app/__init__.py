"""A local page to try schemes on your own images."""
