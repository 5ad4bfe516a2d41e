"""The versions of a registry, as `poolpilot policies` shows and moves them."""
