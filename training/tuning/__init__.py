"""Finds the best setting of the opponents, on days that are never scored."""
