"""How far the performance model is off, under protocols that never fit on what they score."""
