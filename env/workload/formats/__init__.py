"""Trace files: how they are packed, which columns they have, what may stand in these."""
