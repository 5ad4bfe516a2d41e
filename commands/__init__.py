"""One file a command: the only place that may join all layers."""
