"""The alternatives under `workload:`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from .fields import Strict
from .loads import AnyLoad
from .traces import ServegenSpec, TraceSpec


class GeneratedSpec(Strict):
    """Requests drawn from distributions."""

    kind: Literal["generated"] = "generated"
    classes: Annotated[dict[str, AnyLoad], Field(min_length=1)]
    """A class of the scenario that is not named here gets no requests."""

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Class names that appear here."""
        return tuple(self.classes)

    def scaled(self, factors: dict[str, float]) -> GeneratedSpec:
        """The same, each class this many times as often."""
        loads = {name: load.scaled(factors.get(name, 1.0)) for name, load in self.classes.items()}
        return self.model_copy(update={"classes": loads})


PartSpec: TypeAlias = Annotated[GeneratedSpec | TraceSpec | ServegenSpec, Field(discriminator="kind")]


class MixSpec(Strict):
    """Several workloads at once: traces, generators, in any number."""

    kind: Literal["mix"]
    parts: Annotated[tuple[PartSpec, ...], Field(min_length=1, max_length=100)]

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Class names that appear here."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.named_classes))

    def scaled(self, factors: dict[str, float]) -> MixSpec:
        """The same, each generated class this many times as often; traces stay as they are."""
        parts = [part.scaled(factors) if isinstance(part, GeneratedSpec) else part for part in self.parts]
        return self.model_copy(update={"parts": tuple(parts)})


WorkloadSpec: TypeAlias = Annotated[GeneratedSpec | TraceSpec | ServegenSpec | MixSpec, Field(discriminator="kind")]
"""What a scenario holds under `workload:`."""
