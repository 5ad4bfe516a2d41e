"""The sidecar: observe, decide, guard, act, record."""
