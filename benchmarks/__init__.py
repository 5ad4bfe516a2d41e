"""How fast poolpilot is, beside a rival and by part. `python -m poolpilot.benchmarks`, or `make bench`."""
