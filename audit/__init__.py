"""The audit: what a fleet cost and held, and what other policies would have cost, from what was measured of it anyway."""
