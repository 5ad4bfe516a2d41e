"""Requests: trace readers and generators."""
