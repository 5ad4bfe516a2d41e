"""The world: what a cluster is and how it moves. Imports nothing else of poolpilot."""
