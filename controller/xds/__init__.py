"""Envoy's configuration by gRPC, for Envoys on other machines."""
