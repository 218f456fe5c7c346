"""Charts of results: one specification each, drawn interactively on the page and as a file for a paper."""
