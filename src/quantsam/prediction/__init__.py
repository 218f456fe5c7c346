"""Ask the network: prompts in, masks out; one picture, its grid of points, or all of it."""
