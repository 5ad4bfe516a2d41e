"""Who decides: (snapshot, plan, memory) -> action."""
