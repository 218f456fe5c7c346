"""Records of measured results, and the store that keeps them."""
