"""A tick explained: what was seen, what was proposed, what the guard made of it, and what the fallback rule would have done.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from ...env.contract import Action, Mode
from ...env.ledger import SECONDS_PER_HOUR
from .documents import UNKNOWN, Card, Cell, Table, Tone, card, cell, column, count, fixed, listing, percent, table
from .history import Filter
from .now import classes_table, pools_table
from .reasons import from_to, of_what, why
from .ticks import SeenTick

MOST_LISTED: Final = 200
_MOVED: Final = 0.05
"""Share of a class's traffic that goes elsewhere than before: less is no news."""
_LET_IN: Final = 0.02
"""Change of the share let in; the same."""


def listed(ticks: Sequence[SeenTick], wanted: Filter, *, changed_only: bool) -> Table:
    """The newest decisions, newest first, each with a link to its explanation."""
    columns = [
        column("Time (UTC)", number=False),
        column("What changed", number=False),
        column("Guard", "changes"),
        column("Against rule", "$/h"),
    ]
    rows: list[list[Cell]] = []
    for i in range(len(ticks) - 1, -1, -1):
        tick = ticks[i]
        changes = changes_of(tick, ticks[i - 1] if i else None, wanted)
        if changed_only and not changes and not tick.decision.reasons:
            continue
        rows.append(_listed_row(tick, changes, wanted))
        if len(rows) == MOST_LISTED:
            break
    empty = (
        "Nothing changed in this span. Show all ticks, or choose a longer span."
        if changed_only
        else "No decisions yet."
    )
    return table("", columns, rows, empty)


def _listed_row(tick: SeenTick, changes: Sequence[str], wanted: Filter) -> list[Cell]:
    pools = wanted.pool_mask(tick.cluster)
    rent = float((tick.decision.applied.replicas * tick.price)[pools].sum())
    against = rent - float(tick.rule_usd_per_hr[pools].sum())
    return [
        cell(clock(tick.wall_s), f"tick {tick.decision.tick}", link=f"decisions/{tick.id}"),
        listing(changes, ";", "nothing", "" if changes else "muted"),
        cell(count(len(tick.decision.reasons)), tone="" if tick.decision.reasons else "muted"),
        cell(fixed(against, signed=True), tone=_cheaper(against)),
    ]


def _cheaper(against: float) -> Tone:
    return "good" if against < -0.005 else ""


def changes_of(tick: SeenTick, before: SeenTick | None, wanted: Filter) -> list[str]:
    """What a decision changed of the one before, in words."""
    if tick.fell_back and (before is None or not before.fell_back):
        return ["the fallback rule decides", *_changes(tick, before, wanted)]
    return _changes(tick, before, wanted)


def _changes(tick: SeenTick, before: SeenTick | None, wanted: Filter) -> list[str]:
    if before is None or before.cluster.pool_names != tick.cluster.pool_names:
        return []
    now, then, cluster = tick.decision.applied, before.decision.applied, tick.cluster
    said = []
    if tick.decision.mode is not before.decision.mode:
        said.append(f"mode {before.decision.mode} → {tick.decision.mode}")
    for p in np.flatnonzero(wanted.pool_mask(cluster)):
        for name, unit in (("replicas", "replicas"), ("batch_cap", "cap")):
            was, is_now = getattr(then, name)[p], getattr(now, name)[p]
            if round(was) != round(is_now):
                said.append(f"{cluster.pool_names[p]} {unit} {count(was)} → {count(is_now)}")
    for c in np.flatnonzero(wanted.class_mask(cluster)):
        moved = float(np.abs(now.route[c] - then.route[c]).sum() / 2.0)
        if moved >= _MOVED:
            said.append(f"{percent(moved, 0)} % of {cluster.class_names[c]} moved")
        if abs(now.admit[c] - then.admit[c]) >= _LET_IN:
            said.append(f"{cluster.class_names[c]} let in {percent(then.admit[c], 0)} → {percent(now.admit[c], 0)} %")
    return said


def clock(wall_s: float) -> str:
    """Of the day, UTC."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%H:%M:%S")


def explained(tick: SeenTick, before: SeenTick | None, wanted: Filter) -> dict[str, Any]:
    """The whole story of a decision."""
    decision = tick.decision
    who = f"{decision.policy_name} {decision.policy_hash[:8]}".strip()
    changes = changes_of(tick, before, wanted)
    return {
        "id": tick.id,
        "title": f"Tick {decision.tick}, {clock(tick.wall_s)} UTC",
        "lead": (
            f"{who} decided in mode {decision.mode}"
            + (" (advice: nothing of it was applied)" if decision.mode is Mode.ADVISE else "")
            + (", standing in for the policy" if tick.fell_back else "")
            + f". Changed: {'; '.join(changes) if changes else 'nothing'}."
        ),
        "cards": cost_cards(tick, wanted),
        "replicas": replicas_table(tick, wanted),
        "weights": weights_table(tick, wanted),
        "guard": guard_table(tick),
        "seen_classes": classes_table(tick, wanted, brief=True),
        "seen_pools": pools_table(tick, wanted, brief=True),
    }


def cost_cards(tick: SeenTick, wanted: Filter) -> list[Card]:
    """What the decision costs and expects, beside the rule."""
    pools, classes = wanted.pool_mask(tick.cluster), wanted.class_mask(tick.cluster)
    rent = float((tick.decision.applied.replicas * tick.price)[pools].sum())
    rule = float(tick.rule_usd_per_hr[pools].sum())
    name = tick.fallback
    compared = tick.comparison
    if compared is None:
        return [
            card(
                "Rent of this decision", fixed(rent), "$/h", "the record does not tell what the fallback rule would do"
            )
        ]
    difference = rent - rule
    own, others = _worst(compared.policy_attainment, tick, classes), _worst(compared.rule_attainment, tick, classes)
    return [
        card("Rent of this decision", fixed(rent), "$/h", "all that it wants, at today's prices"),
        card(f"Rent under {name}", fixed(rule), "$/h", "what the fallback rule would have by now"),
        card(
            "Difference",
            fixed(difference, signed=True),
            "$/h",
            f"{percent(difference / rule, 0, signed=True)} %" if rule > 0 else "",
            _cheaper(difference),
        ),
        card("Expected within targets", percent(own[0]), "%", f"{own[1]}, worst; under {name} {percent(others[0])} %"),
        _since_card(tick, pools),
    ]


def _since_card(tick: SeenTick, pools: np.ndarray) -> Card:
    compared = tick.comparison
    assert compared is not None
    if not math.isfinite(tick.span_s):
        return card("Cost rate since the tick before", UNKNOWN, "", "first tick of its sidecar", "muted")
    hours = tick.span_s / SECONDS_PER_HOUR
    spent, rule = (float(usd[pools].sum()) / hours for usd in (compared.policy_usd, compared.rule_usd))
    if not math.isfinite(spent + rule):
        return card("Cost rate since the tick before", UNKNOWN, "", "what this tick cost is not known", "muted")
    return card(
        "Cost rate since the tick before",
        fixed(spent),
        "$/h",
        f"{fixed(rule)} $/h under {tick.fallback}, all layers",
    )


def _worst(expected: np.ndarray, tick: SeenTick, classes: np.ndarray) -> tuple[float, str]:
    own = np.flatnonzero(classes)
    worst = int(own[np.argmin((expected - tick.cluster.targets.attainment)[own])])
    return float(expected[worst]), tick.cluster.class_names[worst]


def replicas_table(tick: SeenTick, wanted: Filter) -> Table:
    """Counts and caps of each pool: as seen, as proposed, as applied, as the rule would have them."""
    columns = [
        column("Pool", number=False),
        column("Up now", "replicas"),
        column("Proposed", "replicas"),
        column("Applied", "replicas"),
        column("Rule would", "replicas"),
        column("Batch cap", "sequences"),
        column("Rule's cap", "sequences"),
    ]
    proposed, applied = tick.decision.proposed, tick.decision.applied
    rule = tick.comparison.rule if tick.comparison else None
    rows = []
    for p in np.flatnonzero(wanted.pool_mask(tick.cluster)):
        counts = [_count(action, "replicas", int(p)) for action in (proposed, applied, rule)]
        caps = [_count(action, "batch_cap", int(p)) for action in (proposed, applied, rule)]
        rows.append(
            [
                cell(tick.cluster.pool_names[p]),
                cell(count(tick.snapshot.ready[p])),
                cell(counts[0]),
                cell(counts[1], tone="warn" if counts[1] != counts[0] else ""),
                cell(counts[2], tone="" if counts[2] == counts[1] else "muted"),
                cell(
                    caps[1],
                    f"of {caps[0]} proposed" if caps[1] != caps[0] else "",
                    "warn" if caps[1] != caps[0] else "",
                ),
                cell(caps[2], tone="" if caps[2] == caps[1] else "muted"),
            ]
        )
    return table(
        f"Rule: {tick.fallback}. Highlighted: the guard, or the mode's reach, made something else of the proposal.",
        columns,
        rows,
    )


def _count(action: Action | None, name: str, p: int) -> str:
    return UNKNOWN if action is None else count(float(np.round(getattr(action, name)[p])))


def weights_table(tick: SeenTick, wanted: Filter) -> Table:
    """Where each class's requests go."""
    cluster = tick.cluster
    columns = [
        column("Class", number=False),
        column("Pool", number=False),
        column("Proposed", "%"),
        column("Applied", "%"),
        column("Rule would", "%"),
        column("Let in", "%"),
    ]
    applied, proposed = tick.decision.applied, tick.decision.proposed
    rule = tick.comparison.rule if tick.comparison else None
    rows = []
    pools = wanted.pool_mask(cluster)
    for c in np.flatnonzero(wanted.class_mask(cluster)):
        for p in np.flatnonzero(pools & cluster.serves[c]):
            theirs = math.nan if rule is None else float(rule.route[c, p])
            if max(proposed.route[c, p], applied.route[c, p], np.nan_to_num(theirs)) < 0.0005:
                continue
            differs = abs(applied.route[c, p] - proposed.route[c, p]) > 0.0005
            rows.append(
                [
                    cell(cluster.class_names[c]),
                    cell(cluster.pool_names[p]),
                    cell(percent(proposed.route[c, p])),
                    cell(percent(applied.route[c, p]), tone="warn" if differs else ""),
                    cell(percent(theirs), tone="muted"),
                    cell(percent(applied.admit[c], 0)),
                ]
            )
    return table(
        "Shares of each class's requests. Let in: the rest is turned away with 429 and comes back.",
        columns,
        rows,
        "No weights.",
    )


def guard_table(tick: SeenTick) -> Table:
    """Every reason for which what was applied is not what was proposed."""
    columns = [
        column("Where", number=False),
        column("What", number=False),
        column("Wanted"),
        column("Applied"),
        column("Why", number=False),
        column("Code", number=False),
    ]
    rows = []
    for reason in tick.decision.reasons:
        wanted, applied = from_to(reason)
        rows.append(
            [
                cell(reason.subject),
                cell(of_what(reason) or UNKNOWN),
                cell(wanted),
                cell(applied),
                cell(why(reason)),
                cell(reason.code.value, tone="muted"),
            ]
        )
    return table("", columns, rows, "The guard let the proposal through as it was.")
