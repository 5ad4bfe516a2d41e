"""How a replica lies over GPUs, and what starts it."""
