"""Plans: resolve a scheme under a placement on a model, calibrate it, save it, and account for its size."""
