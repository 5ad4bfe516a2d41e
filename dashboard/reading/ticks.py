"""One tick of a sidecar as pages show it: the parts of a record that people look at.

Symbols: `C` classes, `P` pools, `L` layers of the bill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np

from ...env.contract import Action, Cluster, Decision, FloatArray, SchemaError, Snapshot
from ...env.counterfactual import Comparison
from ...env.ledger import SECONDS_PER_HOUR
from ...env.timeline import TimelineRow, timeline_rows
from ...env.wire import from_json
from ...telemetry.record import Sitting, sitting_of
from ...telemetry.record.lines import document_of

STATES: Final = ("ready", "starting", "draining", "asleep")
"""Of replicas."""


class UnreadableTick(ValueError):
    """A tick cannot be shown; the message names where it stands and what is wrong."""


@dataclass(frozen=True)
class RawTick:
    """A tick as its source holds it."""

    id: str
    """Names it in its source; later ones follow."""
    where: str
    """For people."""
    sitting: str
    """JSON of what does not change while a sidecar leads."""
    fields: Mapping[str, Any]
    """Parsed JSON by name."""


@dataclass(frozen=True)
class SeenTick:
    """One tick."""

    id: str
    wall_s: float
    """When, in seconds since 1970."""
    sitting: Sitting
    snapshot: Snapshot
    decision: Decision
    fell_back: bool
    stands: Action
    """What is in force after it; of an adviser, what somebody else brought about."""
    comparison: Comparison | None
    """With the fallback rule; None in records that were kept without it."""
    span_s: float = math.nan
    """The decider's seconds since the tick before; NaN where that is not known."""

    @property
    def cluster(self) -> Cluster:
        """Names and targets."""
        return self.sitting.cluster

    @property
    def fallback(self) -> str:
        """Who decides where the policy does not."""
        policies = self.sitting.policies
        return policies[-1].name if policies else "the fallback rule"

    @property
    def price(self) -> FloatArray:
        """`[P]` $/h of one replica."""
        return self.snapshot.plausible("usd_per_hr", self.cluster.usd_per_hr)

    @property
    def rent_usd_per_hr(self) -> FloatArray:
        """`[P]` of what is held; NaN where it is not known."""
        held = sum(np.nan_to_num(getattr(self.snapshot, state)) for state in STATES)
        rent: FloatArray = np.where(self.snapshot.known("ready"), self.price * held, np.nan)
        return rent

    @property
    def rule_usd_per_hr(self) -> FloatArray:
        """`[P]` rent of what the fallback rule would have; NaN where the record does not tell."""
        if self.comparison is None:
            return np.full(len(self.cluster.pool_names), np.nan)
        return self.comparison.rule.replicas * self.price

    @cached_property
    def rows(self) -> tuple[TimelineRow, ...]:
        """The tick as rows of a timeline, with one more: what the whole would cost under the fallback rule."""
        billed = None
        if self.comparison is not None and math.isfinite(self.span_s):
            usd = float(self.comparison.usd.sum())
            billed = usd / self.span_s * SECONDS_PER_HOUR if math.isfinite(usd) else None
        rows = timeline_rows(self.cluster, self.snapshot, self.stands, billed)
        rule = float(self.rule_usd_per_hr.sum())
        if math.isfinite(rule):
            rows.append({**rows[-1], "name": f"all pools, if {self.fallback} decided", "value": rule})
        return tuple(rows)


def seen_tick(raw: RawTick, before: SeenTick | None = None) -> SeenTick:
    """What a page shows of a tick.

    Args:
        raw: as read.
        before: the tick before it, if that was read too.

    Raises:
        UnreadableTick: it is of another version, or spoilt.
    """
    try:
        sitting = _sitting(raw.sitting, "sitting")
        snapshot = from_json(Snapshot, _field(raw, "snapshot"), "snapshot").check(sitting.cluster)
        decision = from_json(Decision, _field(raw, "decision"), "decision")
        compared = raw.fields.get("comparison")
        comparison = None if compared is None else from_json(Comparison, compared, "comparison")
        wall_s = raw.fields.get("wall_s")
        if isinstance(wall_s, bool) or not isinstance(wall_s, int | float):
            raise SchemaError(f"wall_s: {str(wall_s)[:40]!r}, wanted seconds since 1970")
        fell_back = raw.fields.get("fell_back") is True
        stood = raw.fields.get("in_force")
        stands = decision.applied if stood is None else from_json(Action, stood, "in_force")
    except (SchemaError, ValueError) as error:
        raise UnreadableTick(f"{raw.where}: {error}") from None
    tick = SeenTick(raw.id, float(wall_s), sitting, snapshot, decision, fell_back, stands, comparison)
    return tick if before is None else _after(tick, before)


def _after(tick: SeenTick, before: SeenTick) -> SeenTick:
    """A clock that begins anew says nothing of the time between. One that came late counts for all of it; one that others are
    missing before does not: what they counted is missing too."""
    span_s = float(tick.snapshot.time_s) - float(before.snapshot.time_s)
    same = tick.sitting is before.sitting and tick.decision.fencing_token == before.decision.fencing_token
    if not same or span_s <= 0.0 or tick.decision.tick != before.decision.tick + 1:
        return tick
    return replace(tick, span_s=span_s)


def _field(raw: RawTick, name: str) -> Any:
    if name not in raw.fields:
        raise SchemaError(f"{name}: missing")
    return raw.fields[name]


@lru_cache(maxsize=64)
def _sitting(text: str, where: str) -> Sitting:
    """Few are ever in use, and each is named by thousands of ticks."""
    return sitting_of(document_of(text.encode(), where), where)
