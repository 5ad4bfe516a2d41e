"""What `poolpilot profile` does on the wire: an endpoint's description, timed streams, a sweep."""
