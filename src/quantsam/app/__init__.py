"""A local page to try schemes on pictures of one's own."""
