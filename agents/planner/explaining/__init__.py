"""What a plan means: its limits, its bill, and what would change it."""
