"""Facts about GPUs, models and links, each with its source."""
