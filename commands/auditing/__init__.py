"""Parts of `poolpilot audit`."""
