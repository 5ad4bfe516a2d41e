"""What a scenario file says under `fleet:`, validated: what is asked of all its pools together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .fields import Share, Strict


class Fleet(Strict):
    """What is asked of all pools together, whenever the planner counts their replicas; a plan leaves it behind."""

    max_spot_share: Share = 1.0
    """Most of any class's requests that spot pools may be planned to serve."""
    min_on_demand_replicas: Annotated[int, Field(ge=0, le=1000)] = 0
    """Replicas of each model that must stand on machines that nobody takes away, as far as its pools may have so many."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 0
    """Replicas of each model, as far as its pools may have so many: with 2, one may fail."""
    headroom: Annotated[float, Field(ge=1, le=5)] = 1.1
    """The load is planned for times this."""
