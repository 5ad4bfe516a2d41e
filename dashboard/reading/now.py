"""The fleet as of its newest tick: figures in large type, tables of pools and classes, and what to worry about.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, TypedDict

import numpy as np

from ...env.contract import FORECAST_HORIZON_S, FloatArray, Mode, ReasonCode
from ...env.timeline import SHOWN_HORIZON_S
from .documents import (
    UNKNOWN,
    Card,
    Cell,
    Table,
    Tone,
    card,
    cell,
    column,
    count,
    duration_s,
    fixed,
    lasting,
    listing,
    number,
    percent,
    table,
)
from .history import Filter
from .reasons import NEWS, TROUBLES, why
from .ticks import SeenTick

_HORIZON: Final = FORECAST_HORIZON_S.index(SHOWN_HORIZON_S)
_HOT_C: Final = 85.0
"""Where NVIDIA's data-centre GPUs begin to slow down, within a few degrees; the guard has a limit of its own."""
_KV_FULL: Final = 0.95
_COVERED: Final = 0.5
_SAID_OF_MODE: Final = {
    Mode.ADVISE: "records what it would do, changes nothing",
    Mode.CANARY: "decides on a part",
    Mode.ACTIVE: "decides on everything",
}


class Warned(TypedDict):
    """Something to look at."""

    tone: Tone
    text: str
    todo: str
    """What to do about it."""


def fleet_now(tick: SeenTick, wanted: Filter, stale_after_s: float = 30.0) -> dict[str, Any]:
    """All that a page shows of the newest tick.

    Args:
        tick: the newest.
        wanted: which classes and pools.
        stale_after_s: the decider's seconds after which a pool's telemetry is old.
    """
    return {
        "cards": cards(tick, wanted),
        "warnings": warnings(tick, wanted, stale_after_s),
        "pools": pools_table(tick, wanted),
        "classes": classes_table(tick, wanted),
    }


def cards(tick: SeenTick, wanted: Filter) -> list[Card]:
    """Cost, attainment, load, replicas, queue, who decides."""
    snapshot, cluster = tick.snapshot, tick.cluster
    classes, pools = wanted.class_mask(cluster), wanted.pool_mask(cluster)
    rate, ahead = snapshot.arrival_rate_per_s[classes], snapshot.forecast_per_s[classes, _HORIZON]
    states = {
        state: float(np.nansum(getattr(snapshot, state)[pools]))
        for state in ("ready", "starting", "draining", "asleep")
    }
    others = ", ".join(f"{count(n)} {state}" for state, n in states.items() if state != "ready" and n > 0)
    target = float(tick.stands.replicas[pools].sum())
    return [
        _cost_card(tick, pools),
        _attainment_card(tick, classes),
        card("Load", number(_sum(rate)), "requests/s", f"{number(_sum(ahead))} expected in 5 min"),
        card(
            "Replicas ready", count(states["ready"]), "", f"{count(target)} wanted" + (f"; {others}" if others else "")
        ),
        _queue_card(tick, pools),
        card(
            "Mode",
            tick.decision.mode.value,
            "",
            _SAID_OF_MODE[tick.decision.mode],
            "warn" if tick.fell_back else "",
        ),
    ]


def _cost_card(tick: SeenTick, pools: np.ndarray) -> Card:
    cost, rule = float(tick.rent_usd_per_hr[pools].sum()), float(tick.rule_usd_per_hr[pools].sum())
    if not math.isfinite(rule):
        return card("Cost rate", fixed(cost), "$/h", "the record does not tell the fallback rule's")
    more = f"{tick.fallback} would rent {fixed(rule)} $/h"
    saves = rule - cost
    return card("Cost rate", fixed(cost), "$/h", more, "good" if saves > 0.005 else "")


def _attainment_card(tick: SeenTick, classes: np.ndarray) -> Card:
    attained, names = tick.snapshot.attainment, tick.cluster.class_names
    asked = tick.cluster.targets.attainment
    known = np.flatnonzero(classes & ~np.isnan(attained))
    if not known.size:
        return card("Attainment, worst class", UNKNOWN, "", "no request finished in the last minute", "muted")
    worst = int(known[np.argmin((attained - asked)[known])])
    met = attained[worst] >= asked[worst]
    return card(
        "Attainment, worst class",
        percent(attained[worst]),
        "%",
        f"{names[worst]}, wanted {percent(asked[worst])} %",
        "good" if met else "bad",
    )


def _queue_card(tick: SeenTick, pools: np.ndarray) -> Card:
    waiting, used = tick.snapshot.waiting[pools], tick.snapshot.kv_used_frac[pools]
    names = [name for name, own in zip(tick.cluster.pool_names, pools, strict=True) if own]
    if np.isnan(used).all():
        more = "KV cache unknown"
    else:
        fullest = int(np.nanargmax(used))
        more = f"KV cache {percent(used[fullest], 0)} % full in {names[fullest]}"
    return card("Queue in the engines", count(_sum(waiting)), "requests", more)


def _sum(values: FloatArray) -> float:
    """Of what is known; NaN where nothing is."""
    return math.nan if np.isnan(values).all() else float(np.nansum(values))


def warnings(tick: SeenTick, wanted: Filter, stale_after_s: float) -> list[Warned]:
    """What a reader should look at, the worst first."""
    found = [*_of_decision(tick), *_of_classes(tick, wanted), *_of_pools(tick, wanted, stale_after_s)]
    return sorted(found, key=lambda warned: warned["tone"] != "bad")


def _of_decision(tick: SeenTick) -> Iterator[Warned]:
    for reason in tick.decision.reasons:
        if reason.code in TROUBLES:
            yield _warned("bad", f"{_begun(why(reason))}.", "See the decision; docs/modes.md says when it ends.")
        elif reason.code is ReasonCode.VERSION:
            yield _warned("warn", f"{_begun(why(reason))}.", "poolpilot policies lists the versions.")
        elif reason.code in NEWS:
            yield _warned(
                "warn", f"The mode changed to {tick.decision.mode.value}: {why(reason)}.", "See the decision."
            )


def _of_classes(tick: SeenTick, wanted: Filter) -> Iterator[Warned]:
    snapshot, cluster = tick.snapshot, tick.cluster
    short = wanted.class_mask(cluster) & (snapshot.attainment < cluster.targets.attainment)
    for c in np.flatnonzero(short):
        name, seen, asked = cluster.class_names[c], snapshot.attainment[c], cluster.targets.attainment[c]
        tone: Tone = "bad" if seen < asked - 0.02 else "warn"
        yield _warned(
            tone,
            f"{name} met its targets in {percent(seen)} % of the last minute's requests, wanted {percent(asked)} %.",
            "See its queue and its pools below; one bad minute is no trend.",
        )
    # A class with a deadline may be put off: that is what its deadline is for.
    put_off = wanted.class_mask(cluster) & (snapshot.shed_per_s > 0) & ~cluster.targets.deferrable
    for c in np.flatnonzero(put_off):
        turned = (
            f"{number(float(snapshot.shed_per_s[c]))} requests/s of {cluster.class_names[c]} are turned away with 429."
        )
        yield _warned("warn", turned, "It has no deadline and should not be put off: see the decision for why.")


def _of_pools(tick: SeenTick, wanted: Filter, stale_after_s: float) -> Iterator[Warned]:
    snapshot, cluster = tick.snapshot, tick.cluster
    for p in np.flatnonzero(wanted.pool_mask(cluster)):
        name, held = cluster.pool_names[p], tick.stands.replicas[p] > 0 or snapshot.ready[p] > 0
        age = snapshot.telemetry_age_s[p]
        if held and age > stale_after_s:
            yield _warned(
                "bad",
                f"{name}: the newest telemetry is {lasting(float(age))} old.",
                "Are its metrics pages up? The guard holds the pool as it is.",
            )
        if snapshot.ready[p] == 0 and tick.stands.replicas[p] > 0:
            yield _warned(
                "warn",
                f"{name}: no replica is ready, {count(tick.stands.replicas[p])} wanted.",
                "Requests spill to other pools until one is.",
            )
        if snapshot.throttled[p] > 0:
            yield _warned(
                "warn",
                f"{name}: {percent(float(snapshot.throttled[p]), 0)} % of its GPUs are slowed by heat or power.",
                "Check cooling and power limits.",
            )
        elif snapshot.gpu_temp_c[p] >= _HOT_C:
            yield _warned(
                "warn", f"{name}: a GPU is at {number(float(snapshot.gpu_temp_c[p]))} °C.", "Check its cooling."
            )
        if snapshot.kv_used_frac[p] >= _KV_FULL:
            yield _warned(
                "warn",
                f"{name}: the KV cache is {percent(float(snapshot.kv_used_frac[p]), 0)} % full.",
                "Sequences are thrown out and computed again.",
            )
        if snapshot.coverage_frac[p] < _COVERED:
            yield _warned(
                "muted",
                f"{name}: {percent(float(snapshot.coverage_frac[p]), 0)} % of its tokens are inside the calibrated range.",
                "poolpilot profile measures the pool's own law.",
            )


def _warned(tone: Tone, text: str, todo: str) -> Warned:
    return {"tone": tone, "text": text, "todo": todo}


def pools_table(tick: SeenTick, wanted: Filter, *, brief: bool = False) -> Table:
    """A row for each pool; `brief` leaves out what a decision does not turn on."""
    columns = [
        column("Pool", number=False),
        column("Ready / wanted", "replicas"),
        column("On the way", number=False),
        column("Running / cap", "sequences"),
        column("Waiting", "requests"),
        column("KV cache", "%"),
        column("GPU busy", "%"),
        column("Hottest GPU", "°C"),
        column("Power", "W"),
        column("Price", "$/h each"),
        column("Rent", "$/h"),
        column("Telemetry", "age"),
    ]
    rows = [_pool_row(tick, int(p)) for p in np.flatnonzero(wanted.pool_mask(tick.cluster))]
    said = "Running: in all replicas; cap: of one."
    if brief:
        return _without(("Power", "GPU busy", "Rent", "Telemetry"), table(said, columns, rows))
    return table(f"{said} Rent: of all that is held, whatever it does.", columns, rows)


def _pool_row(tick: SeenTick, p: int) -> list[Cell]:
    snapshot, cluster = tick.snapshot, tick.cluster
    on_the_way = ", ".join(
        f"{count(getattr(snapshot, state)[p])} {state}"
        for state in ("starting", "draining", "asleep")
        if getattr(snapshot, state)[p] > 0
    )
    used = snapshot.kv_used_frac[p]
    return [
        cell(cluster.pool_names[p], "spot" if cluster.spot[p] else ""),
        cell(f"{count(snapshot.ready[p])} / {count(tick.stands.replicas[p])}"),
        cell(on_the_way or UNKNOWN, tone="" if on_the_way else "muted"),
        cell(f"{count(snapshot.running[p])} / {count(snapshot.batch_cap[p])}"),
        cell(count(snapshot.waiting[p])),
        cell(percent(used, 0), tone="warn" if used >= _KV_FULL else ""),
        cell(percent(snapshot.gpu_util_frac[p], 0)),
        cell(fixed(snapshot.gpu_temp_c[p], 0), tone="warn" if snapshot.gpu_temp_c[p] >= _HOT_C else ""),
        cell(fixed(snapshot.power_w[p], 0)),
        cell(fixed(float(tick.price[p]))),
        cell(fixed(float(tick.rent_usd_per_hr[p]))),
        cell(lasting(float(snapshot.telemetry_age_s[p]))),
    ]


def classes_table(tick: SeenTick, wanted: Filter, *, brief: bool = False) -> Table:
    """A row for each class; `brief` leaves out what a decision does not turn on."""
    columns = [
        column("Class", number=False),
        column("Arriving", "requests/s"),
        column("In 5 min", "requests/s"),
        column("In flight", "requests"),
        column("Within targets", "%"),
        column("TTFT p50", "s"),
        column("TTFT p95", "s"),
        column("TPOT p50", "ms"),
        column("TPOT p95", "ms"),
        column("Turned away", "requests/s"),
        column("Goes to", number=False),
    ]
    rows = [_class_row(tick, int(c)) for c in np.flatnonzero(wanted.class_mask(tick.cluster))]
    said = (
        "Over the last minute. TTFT: time to the first token; TPOT: time for each further one. Targets in small print."
    )
    if brief:
        hidden = ("TTFT p50", "TPOT p50", "Turned away", "Goes to")
        return _without(hidden, table("Over the last minute; targets in small print.", columns, rows))
    return table(said, columns, rows)


def _without(names: tuple[str, ...], given: Table) -> Table:
    """A table without some columns."""
    kept = [i for i, own in enumerate(given["columns"]) if own["name"] not in names]
    rows = [[row[i] for i in kept] for row in given["rows"]]
    return table(given["caption"], [given["columns"][i] for i in kept], rows, given["empty"])


def _class_row(tick: SeenTick, c: int) -> list[Cell]:
    snapshot, cluster = tick.snapshot, tick.cluster
    targets = cluster.targets
    attained, asked = snapshot.attainment[c], targets.attainment[c]
    tone: Tone = "" if np.isnan(attained) else ("good" if attained >= asked else "bad")
    ttft, tpot = targets.ttft_s[c], targets.tpot_s[c]
    deadline = targets.deadline_s[c]
    name = cell(cluster.class_names[c], "" if np.isnan(deadline) else f"deadline {lasting(float(deadline))}")
    route = tick.stands.route[c]
    order = [p for p in np.argsort(-route) if route[p] >= 0.005]
    return [
        name,
        cell(number(float(snapshot.arrival_rate_per_s[c]))),
        cell(number(float(snapshot.forecast_per_s[c, _HORIZON]))),
        cell(count(snapshot.in_flight[c])),
        cell(percent(attained), f"of {percent(asked)}", tone),
        cell(duration_s(float(snapshot.ttft_p50_s[c]))),
        cell(duration_s(float(snapshot.ttft_p95_s[c])), "" if np.isnan(ttft) else f"of {number(float(ttft))}"),
        cell(number(float(snapshot.tpot_p50_s[c]) * 1000.0)),
        cell(
            number(float(snapshot.tpot_p95_s[c]) * 1000.0),
            "" if np.isnan(tpot) else f"of {number(float(tpot) * 1000.0)}",
        ),
        cell(number(float(snapshot.shed_per_s[c]))),
        listing([f"{cluster.pool_names[p]} {percent(route[p], 0)} %" for p in order], ",", UNKNOWN),
    ]


def _begun(text: str) -> str:
    """With a capital; what follows keeps its own."""
    return text[:1].upper() + text[1:]
