"""The simulated cluster: engine kernel, fleet and routing, as structures of arrays in numba."""
