"""The learned policy."""
