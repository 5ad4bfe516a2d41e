"""How machines come, sleep and go in one cluster's world: what is true, beside what policies believe.

Symbols: `P` pools, `D` kinds of delay, `W` width of a delay's row.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from zlib import crc32

import numpy as np

from ..beliefs import believed_preemptions_per_hr
from ..contract import FloatArray
from ..market.load import machines
from ..scenario import Fault, Scenario
from ..scenario.delays import Delay
from .delays import delay_row
from .state import DELAY_WIDTH, FALL_ASLEEP, HANG, LOAD, N_DELAYS, PROVISION, WAKE


@dataclass(frozen=True, eq=False)
class Supply:
    """All true; what policies know of cold starts is `Cluster.cold_start_s`."""

    delays: FloatArray
    """`[P, D, W]` (`delays`)."""
    stuck_start_frac: FloatArray
    """`[P]`"""
    give_up_s: FloatArray
    """`[P]` a start that does not serve so long after it was asked for is given up."""
    crashes_per_hr: FloatArray
    """`[P]` per replica that serves."""
    preemptions_per_hr: FloatArray
    """`[P]` machine preemptions per replica."""
    believed_preemptions_per_hr: FloatArray
    """`[P]` what snapshots say of them."""
    notice_s: FloatArray
    """`[P]` warning before a machine goes."""
    sleep_max: FloatArray
    """`[P]` most replicas asleep."""
    keep_asleep_s: FloatArray
    """`[P]` one that slept so long is stopped."""
    asleep_rent_frac: FloatArray
    """`[P]` share of the rent paid for one asleep."""
    faults: tuple[Fault, ...] = ()
    """What happens at set times: those of the scenario, drawn stock-outs, and every move of the machines available."""

    def __post_init__(self) -> None:
        """Check what compiled code relies on."""
        n_pools = len(self.notice_s)
        for field in fields(self):
            if field.name == "faults":
                continue
            wanted = (n_pools, N_DELAYS, DELAY_WIDTH) if field.name == "delays" else (n_pools,)
            values = getattr(self, field.name)
            if values.shape != wanted or np.isnan(values).any() or (values < 0).any():
                raise ValueError(f"supply.{field.name}: shape {values.shape}, wanted {wanted} of numbers of 0 or more")


def supply_of(scenario: Scenario, seed: int) -> Supply:
    """Draw how one episode's machines truly come and go. Each pool draws by its own name, whatever the others are.

    Raises:
        SeriesError: a file of available machines cannot be used.
    """
    names, pools, world = scenario.pool_names, list(scenario.pools.values()), scenario.world
    draws = [np.random.default_rng([seed, crc32(name.encode())]) for name in names]
    slower = [1.0 + rng.uniform(-1.0, 1.0) * world.cold_start_error_frac for rng in draws]
    riskier = [1.0 + rng.uniform(-1.0, 1.0) * world.preemption_error_frac for rng in draws]
    believed, true, faults = believed_preemptions_per_hr(scenario), np.zeros(len(pools)), list(scenario.faults)
    for p, (name, pool) in enumerate(scenario.pools.items()):
        if pool.spot is not None and pool.spot.availability is not None:
            moves, _ = machines(name, pool.spot.availability, scenario.duration_s, scenario.base_dir)
            faults += [
                Fault(kind="capacity", pool=name, at_s=at_s, count=int(count))
                for at_s, count in zip(moves.from_s, moves.values, strict=True)
            ]
        elif pool.spot is not None:
            true[p] = believed[p] * riskier[p]
        faults += _stock_outs(scenario, name, draws[p])
    return Supply(
        delays=np.stack([_delays(scenario, name, factor) for name, factor in zip(names, slower, strict=True)]),
        stuck_start_frac=np.array([pool.cold_start.stuck_start_frac for pool in pools]),
        give_up_s=np.array([pool.cold_start.give_up_s for pool in pools]),
        crashes_per_hr=np.array([pool.crashes_per_hr for pool in pools]),
        preemptions_per_hr=true,
        believed_preemptions_per_hr=believed,
        notice_s=np.array([pool.spot.notice_s if pool.spot else 0.0 for pool in pools]),
        sleep_max=np.array([float(pool.sleep.max) if pool.sleep else 0.0 for pool in pools]),
        keep_asleep_s=np.array([pool.sleep.keep_s or np.inf if pool.sleep else np.inf for pool in pools]),
        asleep_rent_frac=np.array([pool.sleep.rent_frac if pool.sleep else 1.0 for pool in pools]),
        faults=tuple(faults),
    )


def _delays(scenario: Scenario, name: str, factor: float) -> FloatArray:
    """`[D, W]` of one pool, truly so many times as long as believed."""
    pool, weight_bytes = scenario.pools[name], scenario.weight_bytes(name)
    start = scenario.cold_start(name)
    rows = np.zeros((N_DELAYS, DELAY_WIDTH))
    by_kind: dict[int, Delay | None] = {PROVISION: start.provision, LOAD: start.load, HANG: pool.cold_start.stuck_s}
    if pool.sleep is not None:
        by_kind[WAKE], by_kind[FALL_ASLEEP] = pool.sleep.delays(weight_bytes)
    for kind, delay in by_kind.items():
        rows[kind] = delay_row(delay.scaled(factor) if delay is not None and kind != HANG else delay)
    return rows


def _stock_outs(scenario: Scenario, name: str, rng: np.random.Generator) -> list[Fault]:
    """The drawn stock-outs of a pool: exponential times between, each begins after the one before has ended."""
    own = scenario.pools[name].stock_outs
    found: list[Fault] = []
    at_s = 0.0
    while own is not None and at_s < scenario.duration_s:
        at_s += rng.exponential(3600.0 / own.per_hr)
        duration_s = own.duration.at(rng.random())
        if at_s < scenario.duration_s:
            found.append(Fault(kind="stock_out", pool=name, at_s=at_s, duration_s=duration_s, left=own.left))
        at_s += duration_s
    return found
