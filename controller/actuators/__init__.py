"""What the sidecar moves: routing, caps and replicas."""
