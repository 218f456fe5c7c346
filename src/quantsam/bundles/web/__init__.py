"""A bundle as a page: a static folder that segments in the browser of whoever opens it."""
