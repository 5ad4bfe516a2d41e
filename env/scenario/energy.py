"""What the scenario file says of power, heat and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ..contract import FloatArray
from .fields import Name, NonNegativeFloat, PositiveFloat, Strict

RoomCelsius = Annotated[float, Field(ge=-50, le=60)]


class RoomStep(Strict):
    """A room that becomes hotter or cooler at a set time."""

    at_s: PositiveFloat
    room_c: RoomCelsius
    pools: tuple[Name, ...] | None = None
    """Whose air it is; left out: everybody's."""


class Energy(Strict):
    """What power costs, where the user pays for it, and how warm the room is."""

    paid_by_user: bool = False
    usd_per_kwh: NonNegativeFloat = 0.12
    pue: Annotated[float, Field(ge=1, le=3)] = 1.3
    """Kilowatt-hours at the meter for each at the GPU: the rest is cooling and losses."""
    room_c: RoomCelsius = 25.0
    """Air that the GPUs draw in, from the first second."""
    room_steps: tuple[RoomStep, ...] = ()
    """Later changes, in the order of time: a cooling failure and its end, say."""

    @model_validator(mode="after")
    def _in_order(self) -> Energy:
        times = [step.at_s for step in self.room_steps]
        if times != sorted(times):
            raise ValueError(f"room_steps: at_s {times}, wanted in the order of time")
        return self

    def room(self, pools: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """`[K]` when each room temperature begins, 0 first, and `[K, P]` degrees for the pools named."""
        from_s, room_c = [0.0], [np.full(len(pools), self.room_c)]
        for step in self.room_steps:
            now_c = np.array(
                [
                    step.room_c if step.pools is None or pool in step.pools else before_c
                    for pool, before_c in zip(pools, room_c[-1], strict=True)
                ]
            )
            if step.at_s == from_s[-1]:
                room_c[-1] = now_c
            else:
                from_s.append(step.at_s)
                room_c.append(now_c)
        return np.array(from_s), np.stack(room_c)


class Thermal(Strict):
    """How a pool's GPUs warm, and when they lower their clock. Assumptions, chosen to look like air-cooled servers."""

    rise_at_tdp_c: Annotated[float, Field(gt=0, le=200)] = 55.0
    """Steady temperature above the room at TDP: thermal resistance times TDP."""
    time_constant_s: PositiveFloat = 60.0
    """Thermal resistance times capacity: after so long 63 % of a rise has happened."""
    slow_above_c: Annotated[float, Field(gt=0, le=150)] = 90.0
    """The GPU lowers its clock above this, until it is `recover_c` cooler."""
    recover_c: Annotated[float, Field(ge=0, le=50)] = 5.0
    slow_factor: Annotated[float, Field(ge=1, le=10)] = 1.25
    """Iterations of a throttled GPU take this many times as long."""
