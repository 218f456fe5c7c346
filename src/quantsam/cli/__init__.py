"""The command line: parse, call, print. Each command has one file."""
