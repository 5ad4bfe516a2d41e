"""poolpilot: an autopilot for LLM serving on mixed GPUs."""

__version__ = "0.1.0"
