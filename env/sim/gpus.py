"""The GPUs of all replica slots: what they draw, how hot they are, which are slowed.

Symbols: `B` clusters, `P` pools, `R` slots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ..contract import BoolArray, FloatArray
from .engine_state import PS_PER_S
from .power import Thermal, power_w, throttles, warmed_c
from .state import GONE, Clusters
from .world import WorldSpec


@dataclass(frozen=True, eq=False)
class GpuReadings:
    """What a tick did to each pool's GPUs, `[B, P]`; NaN where a pool has none."""

    energy_j: FloatArray
    busy_frac: FloatArray
    """Of the time that replicas were loaded."""
    hottest_c: FloatArray
    throttled_frac: FloatArray


def nothing_read(clusters: int, pools: int) -> GpuReadings:
    """Before the first tick."""
    return GpuReadings(*(np.full((clusters, pools), np.nan) for _ in fields(GpuReadings)))


class GpuBank:
    """Draw and temperature of every slot. A slot that is given up is at room temperature again."""

    def __init__(self, clusters: int, pools: int, slots: int) -> None:
        """Room for so many; each cluster's figures come with `load`."""
        self._tdp_w, self._idle_w, self._gpus = (np.zeros((clusters, pools)) for _ in range(3))
        self._thermal = {field.name: np.ones((clusters, 1)) for field in fields(Thermal)}
        self._temp_c = np.zeros((clusters, slots))
        self._slow: BoolArray = np.zeros((clusters, slots), dtype=np.bool_)

    def load(self, b: int, spec: WorldSpec, slots: int) -> None:
        """Take over a world's GPUs; `slots` is how many the batch has now."""
        more = slots - self._temp_c.shape[1]
        self._temp_c = np.pad(self._temp_c, ((0, 0), (0, more)))
        self._slow = np.pad(self._slow, ((0, 0), (0, more)))
        for held, own in ((self._tdp_w, spec.tdp_w), (self._idle_w, spec.idle_w), (self._gpus, spec.gpus_per_replica)):
            held[b] = 0.0
            held[b, : len(own)] = own
        for name, held in self._thermal.items():
            held[b] = getattr(spec.thermal, name)
        self._temp_c[b] = spec.thermal.room_c
        self._slow[b] = False

    def pass_tick(self, every: Clusters, tick_s: float) -> GpuReadings:
        """Warm and cool by what the tick's spans say; replicas that became hot (or cool) get their law changed."""
        heat = self._thermal
        pool = every.slots["pool"]
        tdp_w, idle_w, gpus = (
            np.take_along_axis(held, pool, axis=1) for held in (self._tdp_w, self._idle_w, self._gpus)
        )
        slots = every.slots
        rented_s, useful_s = slots["rented_ps"] / PS_PER_S, slots["useful_ps"] / PS_PER_S
        busy_s = useful_s + slots["wasted_ps"] / PS_PER_S
        rented_frac = np.where(rented_s > 0, rented_s, 1.0)
        watts = power_w(busy_s / rented_frac, useful_s / rented_frac, tdp_w, idle_w)
        watts = np.where(rented_s > 0, watts, 0.0)
        here = every.slots["state"] != GONE
        warmed = warmed_c(
            self._temp_c, watts, tdp_w, heat["room_c"], heat["rise_at_tdp_c"], heat["time_constant_s"], tick_s
        )
        self._temp_c = np.where(here, warmed, heat["room_c"])
        slow = here & throttles(self._slow, self._temp_c, heat["slow_above_c"], heat["recover_c"])
        for b, slot in np.argwhere(slow != self._slow):
            factor = heat["slow_factor"][b, 0] if slow[b, slot] else 1.0
            every.engine.laws[b, slot] = np.rint(every.laws[b, pool[b, slot]] * factor)
        self._slow = slow
        pools = every.pools
        busy_ps, loaded_ps = pools["useful_ps"] + pools["wasted_ps"], pools["rented_ps"] - pools["start_ps"]
        count = _by_pool(every, here.astype(np.float64))
        return GpuReadings(
            energy_j=_by_pool(every, watts * gpus * rented_s),
            busy_frac=_ratio(busy_ps.astype(np.float64), loaded_ps.astype(np.float64)),
            hottest_c=self._hottest(every, here),
            throttled_frac=_ratio(_by_pool(every, slow.astype(np.float64)), count),
        )

    def _hottest(self, every: Clusters, here: BoolArray) -> FloatArray:
        hottest = np.full(every.pools.shape, -np.inf)
        rows = np.broadcast_to(np.arange(len(here))[:, None], here.shape)
        np.maximum.at(hottest, (rows[here], every.slots["pool"][here]), self._temp_c[here])
        return np.where(np.isfinite(hottest), hottest, np.nan)


def _by_pool(every: Clusters, per_slot: FloatArray) -> FloatArray:
    """`[B, P]` sums of `[B, R]` over the slots of each pool."""
    n_clusters, n_pools = every.pools.shape
    place = (np.arange(n_clusters)[:, None] * n_pools + every.slots["pool"]).ravel()
    sums = np.bincount(place, weights=per_slot.ravel(), minlength=n_clusters * n_pools).astype(np.float64)
    return sums.reshape(n_clusters, n_pools)


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)
