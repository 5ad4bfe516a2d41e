"""What `poolpilot simulate` can do beside printing: a record such as a sidecar leaves."""
