"""The short description of a fleet that an audit needs beside the measurement, as validated YAML."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ..env.one_line import first_problem, one_line
from ..env.plain_yaml import PlainYamlError, plain_yaml
from ..env.scenario.classes import Target
from ..env.scenario.document import GuardLimits, Network
from ..env.scenario.energy import Energy
from ..env.scenario.fields import Name, NonNegativeFloat, Strict
from ..env.scenario.market import Price
from ..env.scenario.pools import ColdStart, Engine, Pool, PoolStage

EXAMPLE: Final = Path(__file__).with_name("example.yaml")
MAX_FILE_BYTES: Final = 256 << 10
_LABEL = re.compile(r"^[a-zA-Z_][a-zA-Z0-9_]*$")
Select = dict[str, Annotated[str, Field(max_length=500)]]
"""Prometheus labels and what they must be; a value that begins with ~ is a regular expression."""
Count = Annotated[int, Field(ge=0, le=1000)]
_OF_POOL: Final = (
    *("gpu", "model", "precision", "tensor_parallel", "pipeline_parallel", "stage_layers", "stages"),
    *("price", "engine", "cold_start", "law"),
)
"""What a scenario's pool takes over as it stands."""


class DescriptionError(ValueError):
    """A description cannot be used; the message is one line."""


class DescribedPool(Strict):
    """Identical replicas."""

    price: Price
    """$ per hour of one replica, as a number, or as a scenario's `price`."""
    gpu: str = ""
    """Of the catalogue; left out where `stages` says."""
    model: str | None = None
    """Overrides the description's."""
    precision: Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"] = "bf16"
    """Of the weights."""
    tensor_parallel: Annotated[int, Field(ge=1, le=8)] = 1
    pipeline_parallel: Annotated[int, Field(ge=1, le=16)] = 1
    stage_layers: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    stages: Annotated[tuple[PoolStage, ...], Field(min_length=1, max_length=16)] | None = None
    engine: Engine = Engine()
    """The engines' start flags."""
    cold_start: ColdStart = ColdStart()
    law: Path | None = None
    """A law measured on such a replica (`poolpilot profile --out`), in place of the performance model's."""
    count: Count | None = None
    """Replicas that were up; left out: counted in Prometheus."""
    moves: Annotated[tuple[tuple[NonNegativeFloat, Count], ...], Field(min_length=1, max_length=10_000)] | None = None
    """In place of `count`: second of the audit and replicas from then on, second 0 first."""
    min: Count = 0
    """Fewest that a policy may ask for."""
    max: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Most; left out: as many as were up at a time."""
    select: Select = Field(default_factory=dict)
    """Which series are its replicas'."""

    @field_validator("price", mode="before")
    @classmethod
    def _plain_price(cls, given: Any) -> Any:
        return {"usd_per_hr": given} if isinstance(given, int | float) and not isinstance(given, bool) else given

    @field_validator("select")
    @classmethod
    def _labels(cls, given: Select) -> Select:
        return checked_select(given)

    @model_validator(mode="after")
    def _counted_once(self) -> DescribedPool:
        if self.count is not None and self.moves is not None:
            raise ValueError("wanted count or moves, got both")
        times = [at_s for at_s, _ in self.moves or ()]
        if times and (times[0] != 0.0 or any(b <= a for a, b in pairwise(times))):
            raise ValueError(f"moves: seconds {times[:6]}, wanted 0 first, then each later than the one before")
        if self.max is not None and self.min > self.max:
            raise ValueError(f"wanted min <= max, got {self.min} and {self.max}")
        return self

    @property
    def steps(self) -> tuple[tuple[float, int], ...]:
        """Second and replicas from then on; empty: nobody said."""
        if self.count is not None:
            return ((0.0, self.count),)
        return self.moves or ()

    def scenario_pool(self, start: int, most: int, start_s: float | None = None) -> Pool:
        """As a scenario has it: `start` replicas at first, up to `most` or what `max` says; starts that were seen to take
        `start_s` take that."""
        top = self.max or max(most, 1)
        replicas = {"min": min(self.min, top), "max": max(top, start), "start": max(start, min(self.min, top))}
        given = {name: getattr(self, name) for name in _OF_POOL} | {"replicas": replicas}
        if start_s is not None:
            provision_s = min(self.cold_start.delays(1.0).provision.mean_s, start_s)
            seen = {"provision": None, "load": None, "provision_s": provision_s, "load_s": start_s - provision_s}
            given["cold_start"] = self.cold_start.model_copy(update=seen)
        return Pool.model_validate(given)


class DescribedClass(Strict):
    """Requests that share a target."""

    target: Target
    model: str | None = None
    pools: tuple[str, ...] | None = None
    """Only these serve it; left out: all that hold its model."""
    select: Select = Field(default_factory=dict)
    """Labels by which Prometheus tells its requests from others'."""

    @field_validator("select")
    @classmethod
    def _labels(cls, given: Select) -> Select:
        return checked_select(given)


class Description(Strict):
    """A fleet as its owner describes it."""

    schema_version: Literal[1] = Field(alias="schema")
    model: str
    pools: Annotated[dict[Name, DescribedPool], Field(min_length=1, max_length=32)]
    classes: Annotated[dict[Name, DescribedClass], Field(min_length=1, max_length=16)]
    guard: GuardLimits = GuardLimits()
    """What no policy may do, as in a scenario: a budget, how fast replicas go."""
    energy: Energy = Energy()
    network: Network = Network()
    base_dir: Path = Field(default=Path(), exclude=True)
    """Folder of the file."""

    @model_validator(mode="after")
    def _joined_up(self) -> Description:
        for name, own in self.classes.items():
            for pool in own.pools or ():
                if pool not in self.pools:
                    raise ValueError(f"classes.{name}.pools: unknown pool {pool!r}; pools are {', '.join(self.pools)}")
        return self


def read_description(path: Path) -> Description:
    """The description in a file.

    Raises:
        DescriptionError: it cannot be read, or says something that cannot be; names file, field and value.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DescriptionError(f"{path}: larger than {MAX_FILE_BYTES} bytes; wanted a short description of pools")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        hint = "; `poolpilot audit --write-example` prints one" if isinstance(error, FileNotFoundError) else ""
        raise DescriptionError(one_line(f"{path}: {reason}{hint}")) from None
    try:
        given = plain_yaml(text)
        if not isinstance(given, dict):
            raise DescriptionError(f"{path}: wanted a mapping with schema, model, pools and classes")
        return Description.model_validate({**given, "base_dir": path.parent})
    except PlainYamlError as error:
        raise DescriptionError(one_line(f"{path}: {error}")) from None
    except ValidationError as error:
        raise DescriptionError(one_line(f"{path}: {first_problem(error)}")) from None


def checked_select(given: Select) -> Select:
    """The labels, if Prometheus takes them; ValueError if not."""
    for label, value in given.items():
        if not _LABEL.match(label) or label == "__name__":
            raise ValueError(f"{label!r}: no label of Prometheus; wanted letters, digits and _")
        if value.startswith("~"):
            try:
                re.compile(value[1:])
            except re.error as error:
                raise ValueError(f"{label}: {value!r}: no regular expression ({error})") from None
    return given
