"""Prices and availability of machines over time, from files or as a scenario writes them out."""
