"""Clusters drawn at random to train in: pools, prices, traffic, targets and what goes wrong, as validated scenarios.

Everything comes from one seed. What `held_out` names is never drawn. Each world is sized so that some policy can hold
its targets: pools on demand carry the peak even where replicas are slower than believed.

Symbols: `d` difficulty, 0 (a steady load on machines on demand, nothing goes wrong) to 1 (everything).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..env.scenario import Scenario, parse_scenario
from .drawn_pools import MODELS, MOST_REPLICAS, DrawnPool, draw_pools, supply_of
from .drawn_traffic import DURATION_S, DrawnClass, draw_classes

TICK_S: Final = 10.0
REPLICAS: Final = (3.0, 30.0)
"""Of the cheapest pools, for the mean load."""
MOST_PER_S: Final = 14.0
"""Mean requests per second of a world: an hour then has some 50,000, which is what a rollout's time goes into."""
COLD_START_S: Final = (20.0, 240.0)
LEAST_PER_S: Final = 0.7
"""With fewer a miss or two decide about an hour."""
MARGIN: Final = 1.6
"""By how much pools on demand exceed the peak: true speeds are up to 15 % below those believed."""
MOST_ATTEMPTS: Final = 200


HARDEST: Final = 1.5
"""Most difficulty: half as far again as services are known to stray. Beyond, shapes of a day would go below nothing."""


class ClusterError(ValueError):
    """Nothing can be drawn as asked; the message is one line."""


def random_scenario(seed: int, difficulty: float = 1.0) -> Scenario:
    """The random cluster of a seed, an hour long, called `random-<seed>`.

    Args:
        difficulty: 0 to `HARDEST`; 1 is what real services show. How far rates move and burst, how slow starts may be, how often there are spot pools, price
            moves, stock-outs, stuck starts, crashes, storms and heat, and how far true speeds are from those believed.

    Raises:
        ClusterError: a difficulty that is not from 0 to `HARDEST`, or a negative seed.
    """
    if not 0.0 <= difficulty <= HARDEST:
        raise ClusterError(f"difficulty: {difficulty!r}, wanted 0 to {HARDEST:g}")
    if seed < 0:
        raise ClusterError(f"seed: {seed}, wanted 0 or more")
    rng = np.random.default_rng(np.random.SeedSequence((seed, _OWN_STREAM)))
    for _ in range(MOST_ATTEMPTS):
        drawn = _fleet(rng, difficulty)
        if drawn is not None:
            return parse_scenario(_document(rng, seed, drawn, difficulty), Path(f"random-{seed}"))
    raise ClusterError(f"seed {seed}: no cluster of {MOST_ATTEMPTS} could serve its classes")


_OWN_STREAM: Final = 0xC1
"""Keeps the draws apart from others that begin with the same seed."""


@dataclass(frozen=True)
class _Fleet:
    """Pools and classes that fit, with counts."""

    models: tuple[str, ...]
    classes: list[DrawnClass]
    pools: list[DrawnPool]
    rate_per_s: float
    most: list[int]
    start: list[int]


def _fleet(rng: np.random.Generator, difficulty: float) -> _Fleet | None:
    """One attempt; None if nothing can serve a class, or the load would need too few or too many replicas."""
    n_models = 2 if rng.random() < 0.25 else 1
    models = tuple(str(name) for name in rng.choice(MODELS, n_models, replace=False))
    classes = draw_classes(rng, models, difficulty)
    count = int(rng.integers(2, 7)) if n_models == 1 else int(rng.integers(4, 7))
    by_model = {}
    for i, name in enumerate(models):
        own = [c for c in classes if c.model == name]
        pools = draw_pools(rng, name, own, (count + i) // n_models, difficulty)
        if not pools:
            return None
        by_model[name] = (own, pools)
    if sum(len(pools) for _, pools in by_model.values()) < 2:
        return None
    wanted = math.exp(rng.uniform(math.log(REPLICAS[0]), math.log(REPLICAS[1])))
    per_rate = sum(
        next(pool for pool in pools if pool.serves_all(own)).replicas_per_rate(own) for own, pools in by_model.values()
    )
    rate_per_s = min(wanted / per_rate, MOST_PER_S)
    replicas = rate_per_s * per_rate
    # Where the most requests need few replicas, the attempt that wanted many is made again more often than not.
    if rate_per_s < LEAST_PER_S or replicas < 0.9 * REPLICAS[0] or (replicas < 0.35 * wanted and rng.random() < 0.7):
        return None
    kept, most, start = [], [], []
    for own, pools in by_model.values():
        counts = _most(rng, own, pools, rate_per_s)
        if counts is None:
            return None
        kept += pools
        most += counts
        start += _start(own, pools, counts, rate_per_s)
    return _Fleet(models, classes, kept, rate_per_s, most, start)


def _most(
    rng: np.random.Generator, classes: Sequence[DrawnClass], pools: list[DrawnPool], rate_per_s: float
) -> list[int] | None:
    """Maxima of a model's pools, 1.5 to 3 times what carries the mean load, the cheapest sometimes less."""
    alone = [rate_per_s * pool.replicas_per_rate(classes) for pool in pools]
    most = [min(MOST_REPLICAS, max(2, math.ceil(rng.uniform(1.5, 3.0) * need))) for need in alone]
    steady = [i for i, pool in enumerate(pools) if not pool.spot and pool.serves_all(classes)]
    if len(pools) > 1 and rng.random() < 0.4:  # short of the best machines, as most people are
        most[0] = max(1, math.ceil(rng.uniform(0.25, 0.7) * alone[0]))
    peak = sum(c.share * c.peak for c in classes) / sum(c.share for c in classes)
    missing = MARGIN * peak - sum(most[i] / alone[i] for i in steady)
    others = [i for i in steady if i != 0] or steady
    if missing > 0.0:
        more = others[0]
        most[more] += math.ceil(missing * alone[more])
        if most[more] > 2 * MOST_REPLICAS:
            return None
    return most


def _start(classes: Sequence[DrawnClass], pools: list[DrawnPool], most: list[int], rate_per_s: float) -> list[int]:
    """What serves when the run begins: the opening load with head-room, on the cheapest that serves every class."""
    left = 1.25 * sum(c.share * c.opening for c in classes) / sum(c.share for c in classes)
    start = []
    for pool, high in zip(pools, most, strict=True):
        alone = rate_per_s * pool.replicas_per_rate(classes)
        usable = pool.serves_all(classes)
        own = min(high if not pool.spot else high // 2, math.ceil(left * alone)) if usable and left > 0.0 else 0
        left -= own / alone
        start.append(own)
    return start


def _document(rng: np.random.Generator, seed: int, drawn: _Fleet, difficulty: float) -> dict[str, Any]:
    low_s, high_s = COLD_START_S
    high_s = low_s * (high_s / low_s) ** (0.4 + 0.6 * difficulty)
    cold_start_s = math.exp(rng.uniform(math.log(low_s), math.log(high_s)))
    names = _names(drawn.pools)
    # With work that may wait, half of all people let it wait in the engines too.
    by_priority = any(c.kind.deferrable for c in drawn.classes) and bool(rng.random() < 0.5)
    pools, limited = {}, 0
    for name, pool, most, start in zip(names, drawn.pools, drawn.most, drawn.start, strict=True):
        parts = supply_of(rng, pool, most, cold_start_s, difficulty)
        steps = parts.get("spot", {}).get("availability", {}).get("steps")
        if not pool.spot and rng.random() < 0.25 * difficulty and 2 * (limited + 1) <= len(names):
            limited += 1
            parts["stock_outs"] = {
                "per_hr": round(float(rng.uniform(0.4, 2.0)), 2),
                "duration": {
                    "kind": "lognormal",
                    "mean_s": round(float(rng.uniform(120.0, 600.0))),
                    "spread_frac": 0.5,
                },
                "left": int(rng.integers(0, 3)),
            }
        pools[name] = {
            "gpu": pool.layout.gpu,
            "precision": pool.layout.precision,
            "tensor_parallel": pool.layout.tensor_parallel,
            **({"model": pool.model} if len(drawn.models) > 1 else {}),
            "replicas": {"min": 0, "max": most, "start": min(start, int(steps[0][1])) if steps else start},
            "engine": {
                **pool.engine.model_dump(exclude_defaults=True),
                **({"scheduling": "priority"} if by_priority else {}),
            },
            **parts,
        }
    fleet = sum(drawn.start)
    return {
        "schema": 1,
        "name": f"random-{seed}",
        "summary": f"Drawn at random: {', '.join(names)}; {', '.join(c.name for c in drawn.classes)}.",
        "duration_s": DURATION_S,
        "tick_s": TICK_S,
        "model": drawn.models[0],
        "pools": pools,
        "classes": _classes(drawn, names),
        "workload": {
            "kind": "generated",
            "classes": {c.name: c.at_rate(drawn.rate_per_s * c.share) for c in drawn.classes},
        },
        "guard": {
            "scale_up_step": max(4, math.ceil(fleet / 3)),
            "scale_down_step": int(rng.integers(1, max(3, fleet // 6) + 1)),
            "scale_down_cooldown_s": float(rng.choice((30.0, 60.0))),
        },
        "energy": _energy(rng, difficulty),
        "network": {"egress_usd_per_gb": float(rng.choice((0.0, 0.0, 0.09)))},
        "world": {
            "performance_error_frac": round(0.05 + 0.1 * difficulty, 3),
            "cold_start_error_frac": round(0.05 + 0.15 * difficulty, 3),
        },
        "faults": _faults(rng, names, drawn, difficulty),
        **_telemetry(rng, names, difficulty),
    }


def _names(pools: list[DrawnPool]) -> list[str]:
    """Each pool's own: a second of the same kind of machine, for another model, gets a number."""
    names: list[str] = []
    for pool in pools:
        taken = sum(other == pool.name or other.startswith(f"{pool.name}.") for other in names)
        names.append(pool.name if not taken else f"{pool.name}.{taken + 1}")
    return names


def _classes(drawn: _Fleet, names: list[str]) -> dict[str, Any]:
    classes = {}
    for c in drawn.classes:
        able = [name for name, pool in zip(names, drawn.pools, strict=True) if c.name in pool.serves]
        own = [name for name, pool in zip(names, drawn.pools, strict=True) if pool.model == c.model]
        able = [name for name in able if name in own]
        classes[c.name] = {
            "target": c.target,
            **({"model": c.model} if len(drawn.models) > 1 else {}),
            **({"pools": able} if able != own else {}),
            **({"priority": 10} if c.kind.deferrable else {}),
        }
    return classes


def _energy(rng: np.random.Generator, difficulty: float) -> dict[str, Any]:
    """Paid by some; a room that gets too hot for a while in one of six."""
    room_c = round(float(rng.uniform(18.0, 30.0)), 1)
    energy: dict[str, Any] = {
        "paid_by_user": bool(rng.random() < 0.4),
        "usd_per_kwh": round(float(rng.uniform(0.06, 0.3)), 3),
        "pue": round(float(rng.uniform(1.1, 1.6)), 2),
        "room_c": room_c,
    }
    if rng.random() < difficulty / 6.0:
        from_s = float(rng.uniform(300.0, 0.7 * DURATION_S))
        energy["room_steps"] = [
            {"at_s": round(from_s), "room_c": round(float(rng.uniform(33.0, 40.0)), 1)},
            {"at_s": round(from_s + float(rng.uniform(400.0, 1200.0))), "room_c": room_c},
        ]
    return energy


def _faults(rng: np.random.Generator, names: list[str], drawn: _Fleet, difficulty: float) -> list[dict[str, Any]]:
    """Now and then a storm over a spot pool and a stock-out after it, or a crash."""
    faults: list[dict[str, Any]] = []
    for name, pool, most in zip(names, drawn.pools, drawn.most, strict=True):
        if rng.random() > 0.2 * difficulty:
            continue
        at_s = round(float(rng.uniform(200.0, 0.9 * DURATION_S)))
        count = max(1, round(most * float(rng.uniform(0.2, 0.6))))
        if pool.spot:
            faults.append({"kind": "preempt", "pool": name, "at_s": at_s, "count": count})
            away_s = round(float(rng.uniform(120.0, 900.0)))
            faults.append({"kind": "stock_out", "pool": name, "at_s": at_s, "duration_s": away_s})
        else:
            faults.append({"kind": "crash", "pool": name, "at_s": at_s, "count": 1})
    return faults


def _telemetry(rng: np.random.Generator, names: list[str], difficulty: float) -> dict[str, Any]:
    """Half of all users see less than there is: late, noisy, with sources that they lack, now and then nothing."""
    if rng.random() > 0.5 * difficulty:
        return {}
    gaps = [
        {
            "at_s": round(float(rng.uniform(0.0, 0.95 * DURATION_S))),
            "duration_s": round(float(rng.uniform(20.0, 180.0))),
            **({} if rng.random() < 0.3 else {"pool": str(rng.choice(names))}),
        }
        for _ in range(int(rng.integers(0, 3)))
    ]
    return {
        "telemetry": {
            "delay_s": float(rng.choice((0.0, 0.0, 10.0, 20.0))),
            "noise_frac": round(float(rng.uniform(0.0, 0.08)), 3),
            "drop_frac": round(float(rng.uniform(0.0, 0.08)), 3),
            "lacks_frac": 0.15,
            "gaps": gaps,
        }
    }
