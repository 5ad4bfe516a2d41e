"""What the models of the scenario file share: bounded numbers, names, and how strict they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""Of a pool or a class: it becomes a header's value, an Envoy cluster, a metric's label and part of file names."""


class Strict(BaseModel):
    """Frozen, and refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
