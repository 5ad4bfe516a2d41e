"""What several rules are made of: reading a snapshot, sizing, filling pools, holding on to a load, routing."""
