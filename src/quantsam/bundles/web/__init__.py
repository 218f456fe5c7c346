"""A bundle as a page: a static folder that segments images in the visitor's browser."""
