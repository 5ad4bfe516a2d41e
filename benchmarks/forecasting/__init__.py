"""Which forecast of arrivals is best on real traces: `python -m poolpilot.benchmarks.forecasting --write`."""
