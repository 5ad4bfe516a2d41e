"""What `poolpilot plan` is made of: what is asked, what is found, how it is simulated, shown and written."""
