"""The planner's program and what solves it."""
