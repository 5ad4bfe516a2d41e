"""What `poolpilot demo` is made of: the stack it starts, what it shows, what it measures."""
