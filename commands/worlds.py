"""A world beside the scenario that policy and planner believe: what is true of the same pools and classes."""

from __future__ import annotations

from ..env.scenario import Scenario


class WorldsDiffer(ValueError):
    """The world has other pools or classes than the scenario; the message names them."""


def of_the_same(scenario: Scenario, world: Scenario) -> Scenario:
    """The world, if it has the pools and classes of the scenario.

    Raises:
        WorldsDiffer: it has others.
    """
    for what in ("pool_names", "class_names"):
        own, other = getattr(scenario, what), getattr(world, what)
        if own != other:
            raise WorldsDiffer(f"the world has {what} {', '.join(other)}, wanted {', '.join(own)} as the scenario")
    return world
