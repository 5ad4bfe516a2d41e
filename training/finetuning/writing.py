"""A refit as a folder: what was found, and, where the twin does the recorded days again, scenarios to learn and judge in.

    refit.json          every figure with its interval, before and after, defects, the verdict
    scenario.yaml       the refitted twin, with traffic drawn from what was fitted
    prices/POOL.csv     of pools whose price moved
    days/NAME.yaml      a recorded stretch: its requests, prices and first replicas, in the refitted twin
    days/NAME.csv       its requests

Where the twin does not reproduce what was held out there is `refit.json` alone.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...agents.planner.written import scenario_yaml
from ...env.scenario import Scenario, load_scenario
from ...env.scenario.market import PriceSeries
from ...env.workload.requests import Workload
from ...env.workload.spec import GeneratedSpec, TraceSpec
from ..matching import Compared, Match
from ..observed import Observed
from .estimates import Estimate
from .refit import Judged, Refit
from .stretches import Stretch
from .twin import as_recorded, longest_tokens

REPORT: Final = "refit.json"
SCENARIO: Final = "scenario.yaml"
VERSION: Final = 1
"""Of `refit.json`."""
LEAST_ERROR_FRAC: Final = 0.02
"""True times of the refitted world are drawn at least so far around those that were fitted: an interval is of the mean over
the record, not of the next day."""
_FITTED, _HELD_OUT = "fitted", "held-out"


def document_of(refit: Refit, sources: Sequence[str]) -> dict[str, Any]:
    """All that was found, JSON-ready."""
    return {
        "kind": "poolpilot-refit",
        "version": VERSION,
        "scenario": refit.scenario.name,
        "record": list(sources),
        "verdict": refit.verdict.value,
        "reproduces": refit.reproduces,
        "error": _number(refit.error),
        "time_factors": {name: own.as_json() for name, own in refit.speeds.factors.items()},
        "time_factors_unknown": refit.speeds.unknown,
        "cold_start_s": _estimates(refit.cold_starts),
        "losses_per_hr": _estimates(refit.losses),
        "returning_share": refit.returning.as_json() if refit.returning else None,
        "prices": {name: own.as_json() if own else None for name, own in refit.prices.items()},
        "traffic": {name: own.as_json() if own else None for name, own in refit.traffic.items()},
        "fitted": _judged(refit.fitted),
        "held_out": _judged(refit.held_out),
        "stretches": [
            {
                "name": own.stretches[0].name,
                "held_out": own.stretches[0].held_out,
                "ticks": own.stretches[0].ticks,
                "before": own.before.verdict.value,
                "after": own.after.verdict.value,
            }
            for own in refit.each
        ],
        "defects": [{**asdict(d), "kind": d.kind.value} for d in refit.defects],
    }


def write_refit(refit: Refit, folder: Path, sources: Sequence[str]) -> list[Path]:
    """Write the folder; which files it holds.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / REPORT]
    # Of an earlier refit: nobody may learn in a twin that does not hold, or in half of one.
    for stale in (folder / REPORT, folder / SCENARIO, *sorted((folder / "days").glob("*"))):
        stale.unlink(missing_ok=True)
    if refit.reproduces:
        written += _write_scenario(refit, folder)
        written += _write_days(refit, folder / "days")
    text = json.dumps(document_of(refit, sources), indent=2, allow_nan=False) + "\n"
    part = folder / f"{REPORT}.part"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / REPORT)
    return written


def refitted_scenario(refit: Refit) -> Scenario:
    """The refitted twin with traffic drawn from what was fitted, and times drawn within their intervals."""
    own = refit.scenario
    longest = longest_tokens(own)
    classes = {
        name: traffic.load(float(longest[c]))
        for c, (name, traffic) in enumerate(refit.traffic.items())
        if traffic is not None
    }
    periods = [t.step_s * len(t.factors) for t in refit.traffic.values() if t is not None]
    return own.model_copy(
        update={
            "name": own.name if own.name.endswith("-refitted") else f"{own.name}-refitted",
            "summary": f"{own.summary.rstrip('.')}. Refitted to its record.",
            "workload": GeneratedSpec.model_validate({"kind": "generated", "classes": classes}),
            "world": own.world.model_copy(update=errors(refit)),
            "duration_s": max(periods, default=own.duration_s),
        }
    )


def errors(refit: Refit) -> dict[str, float]:
    """How far the true times and cold starts of a world of the twin may be from the fitted ones: within their intervals."""
    halves = [math.log(e.high / e.low) / 2.0 for e in refit.speeds.factors.values() if e.low > 0]
    found = {"performance_error_frac": round(min(0.9, max([LEAST_ERROR_FRAC, *halves])), 4)}
    starts = [e for e in refit.cold_starts.values() if e is not None and e.low > 0]
    if starts:
        # One share for all pools: those of which many starts were seen count for more.
        sizes = [math.log(e.high / e.low) / 2.0 for e in starts]
        share = max(LEAST_ERROR_FRAC, float(np.average(sizes, weights=[e.n for e in starts])))
        found["cold_start_error_frac"] = round(min(0.9, share), 4)
    return found


def _write_scenario(refit: Refit, folder: Path) -> list[Path]:
    scenario, files = refitted_scenario(refit), [folder / SCENARIO]
    pools = {}
    for p, (name, pool) in enumerate(scenario.pools.items()):
        own = refit.prices[name]
        if own is not None and own.mean_usd_per_hr is not None:
            price: dict[str, Any] = {"usd_per_hr": round(own.mean_usd_per_hr.value, 6), "series": None}
            if own.high_usd_per_hr > own.low_usd_per_hr:
                path = folder / "prices" / f"{name}.csv"
                path.parent.mkdir(exist_ok=True)
                _write_rows(path, ("t_s", "usd_per_hr"), _price_steps(refit, p))
                files.append(path)
                price["series"] = PriceSeries(path=path.resolve())
            pool = pool.model_copy(update={"price": pool.price.model_copy(update=price)})
        pools[name] = pool
    _write_and_check(scenario.model_copy(update={"pools": pools}), folder / SCENARIO, "Refitted to a live record.")
    return files


def _price_steps(refit: Refit, p: int) -> list[tuple[float, float]]:
    """The price over all fitted stretches, one behind the other."""
    steps: list[tuple[float, float]] = []
    began = 0.0
    for stretch in refit.fitted.stretches:
        episode = stretch.episode.between(stretch.warm, len(stretch.episode))
        for at_s, price in zip(episode.time_s - episode.time_s[0], episode.snapshot.usd_per_hr[:, p], strict=True):
            if np.isfinite(price) and price > 0 and (not steps or steps[-1][1] != price):
                steps.append((began + float(at_s) if steps else 0.0, float(price)))
        began += episode.duration_s
    return steps


def _write_days(refit: Refit, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files: list[Path] = []
    counts = {_FITTED: 0, _HELD_OUT: 0}
    for own, requests in zip(refit.each, refit.requests, strict=True):
        stretch = own.stretches[0]
        kind = _HELD_OUT if stretch.held_out else _FITTED
        counts[kind] += 1
        name = f"{kind}-{counts[kind]}"
        day = day_of(refit, stretch, requests, folder / f"{name}.csv")
        _write_requests(requests, folder / f"{name}.csv")
        _write_and_check(
            day.model_copy(update={"name": f"{refit.scenario.name}-{name}"}),
            folder / f"{name}.yaml",
            f"Recorded from {stretch.name}, in the refitted twin.",
        )
        files += [folder / f"{name}.csv", folder / f"{name}.yaml"]
    return files


def day_of(refit: Refit, stretch: Stretch, requests: Workload, trace: Path) -> Scenario:
    """A recorded stretch as a scenario that any policy can be run on: its own requests, prices and first replicas; times,
    cold starts and losses by chance, as refitted."""
    scenario = refit.scenario
    alike = as_recorded(scenario, stretch)
    pools = {}
    for name, pool in scenario.pools.items():
        then = alike.pools[name]
        replicas = pool.replicas.model_copy(
            update={"start": int(np.clip(then.replicas.start, pool.replicas.min, pool.replicas.max))}
        )
        price = pool.price.model_copy(update={"series": then.price.series})
        pools[name] = pool.model_copy(update={"replicas": replicas, "price": price})
    kind = TraceSpec.model_validate({"kind": "trace", "path": trace.resolve(), "format": "plain"})
    world = scenario.world.model_copy(update={"cold_start_error_frac": 0.0, **errors(refit)})
    return scenario.model_copy(
        update={
            "pools": pools,
            "world": world,
            "workload": kind,
            "tick_s": alike.tick_s,
            "duration_s": alike.duration_s,
        }
    )


def _write_and_check(scenario: Scenario, path: Path, header: str) -> None:
    path.write_text(scenario_yaml(scenario, path.parent, [header]), encoding="utf-8")
    load_scenario(path)


def _write_requests(requests: Workload, path: Path) -> None:
    rows = zip(
        (round(float(at), 4) for at in requests.arrival_s),
        requests.prompt_tokens.tolist(),
        requests.output_tokens.tolist(),
        (requests.class_names[c] for c in requests.class_index),
        strict=True,
    )
    _write_rows(path, ("arrival_s", "input_tokens", "output_tokens", "class"), rows)


def _write_rows(path: Path, columns: Sequence[str], rows: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _estimates(found: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: own.as_json() if own is not None else None for name, own in found.items()}


def _judged(own: Judged) -> dict[str, Any]:
    return {
        "stretches": [stretch.name for stretch in own.stretches],
        "before": _match(own.before),
        "after": _match(own.after),
        "queue": _curves(own),
    }


def _match(own: Match) -> dict[str, Any]:
    return {
        "verdict": own.verdict.value,
        "figures": [_figure(figure) for figure in own.figures],
        "not_compared": list(own.not_compared),
        "reasons": list(own.reasons),
    }


def _figure(own: Compared) -> dict[str, Any]:
    figures = {name: _number(getattr(own, name)) for name in ("measured", "simulated", "error")}
    return {"figure": own.figure, "of": own.of, **figures, "verdict": own.verdict.value}


_POINTS: Final = 400
"""Of a curve in the report."""


def _curves(own: Judged) -> dict[str, Any]:
    """Waiting requests over time, measured and simulated."""
    keep = np.unique(np.linspace(0, len(own.measured.time_s) - 1, _POINTS).astype(np.int64))
    curves: dict[str, Observed] = {
        "measured": own.measured,
        "before": own.simulated_before,
        "after": own.simulated_after,
    }
    times = [round(float(own.measured.time_s[i]), 3) for i in keep]
    return {"time_s": times, **{name: [round(float(c.waiting[i]), 3) for i in keep] for name, c in curves.items()}}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
