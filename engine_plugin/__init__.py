"""What runs inside vLLM's own processes: one file on the standard library alone, importable without the rest of poolpilot."""
