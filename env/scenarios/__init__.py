"""The shipped scenario files."""
