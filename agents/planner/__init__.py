"""The exact layer: which replicas, for which load, at the lowest rent."""
