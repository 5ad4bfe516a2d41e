"""How a plan is told to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...agents.planner.explaining.explain import PlannedPool
from ...agents.planner.explaining.sensitivity import BreakEven, Change, Sensitivity
from ...agents.planner.problem import OWN_POOLS
from ...env.contract import BILL_LAYERS
from ...env.scenario.classes import RequestClass
from ..printing import percent, seconds, table
from .asked import Asked
from .compared import Rival
from .found import Found
from .frontier import Point
from .simulated import Simulated

_BILL_NAMES = {"compute": "compute", "software": "software inefficiency", "idle": "idle", "energy": "energy, cooling"}
_NOTHING = "-"
_NOTES_SHOWN = 6
_NOTHINGS_SHOWN = 12
_LEFT_OUT_SHOWN = 4


def plan_tables(found: Found, asked: Asked) -> Iterator[RenderableType]:
    """The plan and its explanation, in the order in which they are asked about."""
    yield _pools(found, asked)
    yield _classes(found)
    yield _rent(found)
    yield _bill(found)
    if found.composition.bounds:
        yield _limits(found)
    if found.sensitivity is not None:
        yield from _sensitivity(found, found.sensitivity)
    if found.left_out:
        yield _left_out(found)
    for warning in found.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    notes = tuple(dict.fromkeys(found.problem.notes))
    for note in notes[:_NOTES_SHOWN]:
        yield Text(f"note: {note}", style="dim")
    if len(notes) > _NOTES_SHOWN:
        yield Text(f"and {len(notes) - _NOTES_SHOWN} more notes: --json has them all", style="dim")


def _pools(found: Found, asked: Asked) -> Table:
    rows = [_pool(pool) for pool in found.pools]
    composition, wishes = found.composition, found.problem.wishes
    said = [f"{composition.usd_per_hr:.2f} $/h in all, for the {asked.load} load times {wishes.headroom:g}"]
    if composition.objective == "goodput":
        served = float(composition.served_per_s.sum())
        said.append(
            f"serves {served:.2f} of {float(found.problem.demand.rate_per_s.sum()):.2f} requests/s within target, and no"
            f" plan more than {composition.bound:.2f}"
        )
    else:
        said.append(f"no plan costs less than {composition.bound:.2f}")
    said.append(f"found in {composition.solve_s:.2f} s" + ("" if composition.proven else ", when time ran out"))
    changes = asked.changes()
    title = f"Plan for {found.scenario.name}" + (f" ({', '.join(changes)})" if changes else "")
    columns = ("pool", "GPUs", "precision", "from", "replicas", "$/h each", "$/h", "load", "used")
    return table(
        escape(title),
        columns,
        rows,
        "; ".join(said)
        + ". GPUs: of one replica. Load: share of the requests. Used: share of what the replicas carry within"
        " target, head-room included.",
    )


def _pool(pool: PlannedPool) -> tuple[str, ...]:
    own = pool.provider == OWN_POOLS
    where = "" if own else " ".join(part for part in (pool.provider, pool.region) if part)
    kind = pool.kind.replace("_", " ")
    return (
        pool.name,
        pool.layout,
        pool.precision,
        escape(f"{where}, {kind}" if where else kind),
        str(pool.replicas),
        f"{pool.usd_per_hr_each:.2f}",
        f"{pool.usd_per_hr:.2f}",
        percent(pool.share_of_requests, 0),
        percent(pool.used_frac, 0),
    )


def _classes(found: Found) -> Table:
    rows = []
    for c in found.classes:
        quality = percent(found.quality[c.name].mean_frac) if c.name in found.quality else _NOTHING
        own = (
            c.name,
            targets(found.scenario.classes[c.name]),
            f"{c.rate_per_s:.2f}",
            percent(c.attainment_wanted),
            percent(c.attainment),
            quality,
        )
        served = sorted(c.shares.items(), key=lambda share: -share[1]) or [("nobody", 0.0)]
        for i, (pool, share) in enumerate(served):
            per_s = c.capacity_per_s.get(pool)
            carries = _NOTHING if per_s is None else f"{per_s:.2f}/s"
            rows.append((*(own if i == 0 else ("",) * len(own)), pool, percent(share, 0), carries))
    columns = ("class", "targets", "requests/s", "wanted", "expected", "quality", "to", "share", "a replica carries")
    return table(
        "Routing",
        columns,
        rows,
        "Expected: share of the requests within target. Quality: share of the 16-bit model's score on published evaluations"
        " that the precisions keep. A replica carries: of this class alone, within its targets.",
    )


def targets(requests: RequestClass) -> str:
    """A class's targets, short."""
    target = requests.target
    pairs = (("TTFT", target.ttft_s), ("TPOT", target.tpot_s), ("E2E", target.e2e_s), ("deadline", target.deadline_s))
    return ", ".join(f"{label} {seconds(value)}" for label, value in pairs if value is not None)


def _rent(found: Found) -> Table:
    rent = found.rent
    parts = (
        ("load, within its targets", rent.load_usd_per_hr),
        ("head-room", rent.headroom_usd_per_hr),
        ("rest of whole replicas", rent.whole_replicas_usd_per_hr),
        ("GPUs that come along unused", rent.unused_gpus_usd_per_hr),
    )
    rows = [(what, f"{usd:.2f}", _of(usd, rent.usd_per_hr)) for what, usd in parts]
    return table("What the rent is for", ("part", "$/h", "share"), [*rows, _total(rent.usd_per_hr)])


def _bill(found: Found) -> Table:
    usd = {layer: float(found.bill.layer_usd(layer)) for layer in BILL_LAYERS}
    total = sum(usd.values())
    rows = [(_BILL_NAMES.get(layer, layer), f"{value:.2f}", _of(value, total)) for layer, value in usd.items()]
    return table(
        "The bill by layer, expected at the planned load",
        ("layer", "$/h", "share"),
        [*rows, _total(total)],
        "The first three are the rent. A replica that runs anything is busy: head-room shows as batches smaller than the"
        " hardware's best, which is software inefficiency, and as idle only where nothing runs.",
    )


def _of(usd: float, total: float) -> str:
    return percent(usd / total) if total > 0 else _NOTHING


def _total(usd: float) -> tuple[str, str, str]:
    return "in all", f"{usd:.2f}", ""


def _limits(found: Found) -> Table:
    rows = [
        (
            bound.kind,
            escape(bound.subject),
            f"{bound.used:.4g}",
            f"{bound.limit:.4g}",
            bound.unit,
            "binds" if bound.tight else "",
        )
        for bound in sorted(found.composition.bounds, key=lambda bound: not bound.tight)
    ]
    return table("Limits", ("limit", "of", "used", "limit", "unit", ""), rows)


def _sensitivity(found: Found, own: Sensitivity) -> Iterator[Table]:
    """What one more of each limit, looser wishes, and cheaper GPUs would change."""
    goodput = found.composition.objective == "goodput"
    rows = [
        (
            escape(_asked(change)),
            escape(change.now),
            escape(change.then),
            f"{change.usd_per_hr:+.2f} $/h",
            *((f"{change.served_per_s:+.3g}/s",) if goodput else ()),
        )
        for change in own.changes
        if not change.noise
    ]
    columns = ("if", "now", "were", "the bill", *(("served in time",) if goodput else ()))
    said = []
    nothing = [f"{_asked(change)} {change.then}" for change in own.changes if change.noise]
    if nothing:
        said.append(f"Nothing would change with: {_some(nothing, _NOTHINGS_SHOWN)}.")
    if own.marginals:
        each = ", ".join(f"{m.name} {m.usd_per_million_requests:.0f} $" for m in own.marginals)
        said.append(f"A million more requests cost, where load grows much: {each}.")
    if own.left_out:
        said.append(f"Left out for want of time: {_some(own.left_out, _LEFT_OUT_SHOWN)}.")
    if rows or said:
        yield table("What would change it, each alone and planned again", columns, rows, escape(" ".join(said)))
    waiting = [(escape(offer.offer), f"{offer.usd_per_gpu_hr:.3f}", _below(offer)) for offer in own.break_even]
    if waiting:
        yield table("Not rented, and the price below which it would be", ("offer", "$/h a GPU", "below"), waiting)


def _asked(change: Change) -> str:
    return f"{change.kind} {change.subject}".strip()


def _some(parts: Sequence[str], most: int) -> str:
    """The first of many, and how many more."""
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def _below(offer: BreakEven) -> str:
    return f"{offer.below_usd_per_gpu_hr:.3f}" if offer.below_usd_per_gpu_hr > 0 else "at no price"


def _left_out(found: Found) -> Table:
    rows = [(entry.what, escape(entry.reason)) for entry in found.left_out]
    return table("Not chosen", ("GPU and precision", "why"), rows)


def rivals_table(rivals: Sequence[Rival]) -> Table:
    """Other fleets beside the plan."""
    plan = next(rival.usd_per_hr for rival in rivals if rival.name == "plan")
    rows = []
    for rival in rivals:
        usd, more = rival.usd_per_hr, _NOTHING
        if usd is not None and plan:
            more = f"{(usd / plan - 1.0) * 100:+.1f} %" if rival.name != "plan" else ""
        rows.append((rival.name, _NOTHING if usd is None else f"{usd:.2f}", more, escape(rival.fleet or rival.note)))
    return table(
        "Beside other fleets for the same load and targets", ("fleet", "$/h", "against the plan", "replicas"), rows
    )


def frontier_table(points: Sequence[Point]) -> Table:
    """Cost against attainment: a row for each attainment, dollars of each fleet, and what the plan is made of."""
    series = list(dict.fromkeys(point.series for point in points))
    rows = []
    for attainment in dict.fromkeys(point.attainment for point in points):
        own = {point.series: point for point in points if point.attainment == attainment}
        usd = [own[name].usd_per_hr for name in series]
        told = ["no fleet" if value is None else f"{value:.2f}" for value in usd]
        rows.append((percent(attainment, 2), *told, escape(own[series[0]].fleet or own[series[0]].note)))
    columns = ("attainment", *(f"{name}, $/h" for name in series), f"replicas of the {series[0]}")
    return table("Cost against wanted attainment", columns, rows)


def _reached(simulated: Simulated) -> str:
    short = [
        f"{c.name} by {(c.wanted - c.attainment) * 100:.1f} points"
        for c in simulated.classes
        if c.attainment is not None and c.attainment < c.wanted
    ]
    return f"Short of what was wanted: {', '.join(short)}." if short else "Every class reached what was wanted."


def simulated_tables(found: Found, simulated: Simulated) -> Iterator[Table]:
    """What became of the plan in the simulator, beside what was planned."""
    planned = {c.name: c for c in found.classes}
    rows = [
        (
            c.name,
            f"{planned[c.name].rate_per_s:.2f}",
            f"{c.arrived_per_s:.2f}",
            f"{c.finished_per_s:.2f}",
            f"{c.met_per_s:.2f}",
            percent(c.wanted),
            percent(c.attainment),
            percent(c.worst),
            str(c.lost),
            str(c.turned_away),
        )
        for c in simulated.classes
    ]
    columns = ("class", "planned/s", "ended/s", "finished/s", "met/s", "wanted", "met", "worst seed", "lost", "429s")
    yield table(
        f"Simulated: the plan held for {simulated.duration_s / 60:.0f} min of the scenario's own load, {simulated.seeds} seeds",
        columns,
        rows,
        f"{_reached(simulated)} True iteration times differ from the believed ones by up to"
        f" {percent(simulated.performance_error_frac, 0)} a pool and seed, cold starts and preemptions too.",
    )
    latencies = [
        (c.name, *(seconds(value) for value in chain(c.ttft_s.values(), c.tpot_s.values()))) for c in simulated.classes
    ]
    shares = ("p50", "p95", "p99")
    yield table(
        "Latency, simulated",
        ("class", *(f"TTFT {share}" for share in shares), *(f"TPOT {share}" for share in shares)),
        latencies,
        f"{simulated.prompt_tokens_per_s:,.0f} prompt and {simulated.output_tokens_per_s:,.0f} output tokens/s;"
        f" {percent(simulated.covered_frac, 0)} of the tokens inside the calibrated range.",
    )
    expected = {layer: float(found.bill.layer_usd(layer)) for layer in BILL_LAYERS}
    layers = [
        (_BILL_NAMES.get(layer, layer), f"{expected[layer]:.2f}", f"{usd:.2f}")
        for layer, usd in simulated.layers_usd_per_hr.items()
    ]
    layers.append(("in all", f"{sum(expected.values()):.2f}", f"{simulated.usd_per_hr:.2f}"))
    yield table("The bill, $/h", ("layer", "expected at the planned load", "simulated"), layers)
