"""Requests: what a scenario says of them, trace readers, generators."""
