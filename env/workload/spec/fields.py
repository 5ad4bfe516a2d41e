"""What all specs are made of: strict models and bounded numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TOKENS = 10_000_000
"""More tokens in one request than any served model takes; a larger figure is a mistake in the data."""

Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
PositiveTokens = Annotated[float, Field(gt=0, le=MAX_TOKENS, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
RatePerS = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Cv = Annotated[float, Field(ge=0.05, le=10, allow_inf_nan=False)]
Zipf = Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)]


class Strict(BaseModel):
    """A part of the scenario file: unknown fields are refused, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
