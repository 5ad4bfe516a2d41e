"""The live dashboard: a small server that follows a sidecar's record, and the page that it serves."""
