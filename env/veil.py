"""What policies see of a snapshot where telemetry is late, noisy, partly missing or silent.

Pure but for the frames that a `VeilState` holds. A veil takes away or blurs; it never makes up: each figure that is let
through is one that was there, `delay_s` ago, times a factor near 1. What is drawn is drawn from seed, tick, row and
column alone, so that a cluster sees the same alone and inside any batch, under every policy.

Symbols: `B` clusters, `C` classes, `P` pools, `G` gaps, `D` frames kept, `H` forecast steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .contract import CLASS_COLUMNS, FORECAST_HORIZON_S, POOL_COLUMNS, BoolArray, FloatArray, IntArray, Snapshot
from .scenario.telemetry import LIVE_POOL_COLUMNS, MAX_DELAY_S, STACK_LACKS, Telemetry

_LIVE: Final = np.array([column.name in LIVE_POOL_COLUMNS for column in POOL_COLUMNS])
_AGE: Final = next(column.index for column in POOL_COLUMNS if column.name == "telemetry_age_s")
_HIGH_CLASSES: Final = np.array([column.high for column in CLASS_COLUMNS])
_HIGH_POOLS: Final = np.array([column.high for column in POOL_COLUMNS])
_DROP, _NOISE = 1, 2
_CLASS_ROWS, _POOL_ROWS = 0, 1 << 20


@dataclass(frozen=True, eq=False)
class Veil:
    """The veil of one cluster for one run."""

    seed: int
    delay_s: float
    noise_frac: float
    drop_frac: float
    lacks_classes: BoolArray
    """`[len(CLASS_COLUMNS)]` figures of classes that are missing throughout."""
    lacks_pools: BoolArray
    """`[len(POOL_COLUMNS)]`"""
    gap_from_s: FloatArray
    """`[G]`"""
    gap_until_s: FloatArray
    """`[G]`"""
    gap_classes: BoolArray
    """`[G, C]` whose figures are missing meanwhile."""
    gap_pools: BoolArray
    """`[G, P]`"""


def veil_of(telemetry: Telemetry, class_names: Sequence[str], pool_names: Sequence[str], seed: int) -> Veil:
    """The veil that a scenario asks for; which sources the stack lacks is drawn from the seed."""
    rng = np.random.default_rng(seed)
    lacks = set(telemetry.lacks)
    for group in STACK_LACKS:
        if rng.random() < telemetry.lacks_frac:
            lacks |= set(group)
    every = [gap.pool is None and gap.class_name is None for gap in telemetry.gaps]
    return Veil(
        seed=int(rng.integers(2**62)),
        delay_s=telemetry.delay_s,
        noise_frac=telemetry.noise_frac,
        drop_frac=telemetry.drop_frac,
        lacks_classes=np.array([column.name in lacks for column in CLASS_COLUMNS]),
        lacks_pools=np.array([column.name in lacks for column in POOL_COLUMNS]),
        gap_from_s=np.array([gap.at_s for gap in telemetry.gaps]),
        gap_until_s=np.array([gap.at_s + gap.duration_s for gap in telemetry.gaps]),
        gap_classes=_touched(every, [gap.class_name for gap in telemetry.gaps], class_names),
        gap_pools=_touched(every, [gap.pool for gap in telemetry.gaps], pool_names),
    )


def _touched(every: list[bool], wanted: list[str | None], names: Sequence[str]) -> BoolArray:
    rows = [[all_ or own == name for name in names] for all_, own in zip(every, wanted, strict=True)]
    return np.array(rows, dtype=np.bool_).reshape(len(every), len(names))


class VeilState:
    """The veils of a batch of clusters, and the last frames of what there was to see."""

    def __init__(self, veils: Sequence[Veil | None], n_classes: int, n_pools: int, tick_s: float) -> None:
        """One veil a cluster, None for those that are seen as they are; sizes are the batch's maxima."""
        self._tick_s, self._shape = tick_s, (n_classes, n_pools)
        self._veils = list(veils)
        self._frames: list[FloatArray] = []
        self._held = np.full((len(self._veils), n_classes, len(FORECAST_HORIZON_S)), np.nan)
        self._lay_out()

    def replace(self, seats: IntArray, veils: Sequence[Veil | None]) -> None:
        """Put other veils at places `seats` `[K]`; what was seen there before is forgotten."""
        for b, veil in zip(seats.tolist(), veils, strict=True):
            self._veils[b] = veil
        self._lay_out()
        self._held[seats] = np.nan
        for frames in self._frames:
            frames[:, seats] = np.nan

    @property
    def bare(self) -> bool:
        """Whether nobody has a veil."""
        return all(veil is None for veil in self._veils)

    def through(self, snapshot: Snapshot) -> Snapshot:
        """`[B, ...]` what is seen of a snapshot. Looking twice at the same moment sees the same.

        Ticks must come one after another: frames are kept by their number.
        """
        if self.bare:
            return snapshot
        blocks = (snapshot.classes, snapshot.pools, snapshot.forecast_per_s)
        tick = np.rint(snapshot.time_s / self._tick_s).astype(np.int64)
        classes, pools, forecast = self._late(blocks, tick)
        veiled = self._veiled
        silent_classes = self._silent_s(snapshot.time_s, self._gap_classes) >= 0.0
        pools_s = self._silent_s(snapshot.time_s, self._gap_pools)
        silent_pools = pools_s >= 0.0
        hidden = self._lacks_classes[:, None, :] | self._dropped(tick, classes.shape, _CLASS_ROWS)
        hidden |= silent_classes[..., None]
        classes = np.where(hidden, np.nan, self._noisy(classes, tick, _HIGH_CLASSES, _CLASS_ROWS))
        hidden = self._lacks_pools[:, None, :] | self._dropped(tick, pools.shape, _POOL_ROWS) | silent_pools[..., None]
        live = np.where(hidden, np.nan, self._noisy(pools, tick, _HIGH_POOLS, _POOL_ROWS))
        seen = np.where(_LIVE, live, snapshot.pools)
        delay_s = (self._delay * self._tick_s)[:, None]
        age_s = np.maximum(pools_s, 0.0) + np.minimum(delay_s, snapshot.time_s[:, None])
        seen[..., _AGE] = snapshot.pools[..., _AGE] + age_s
        # A live forecast keeps its last state while nothing comes.
        forecast = self._last_forecast(forecast, silent_classes)
        return replace(
            snapshot,
            classes=np.where(veiled, classes, snapshot.classes),
            pools=np.where(veiled, seen, snapshot.pools),
            forecast_per_s=np.where(veiled, forecast, snapshot.forecast_per_s),
        )

    def _lay_out(self) -> None:
        """Everything about the veils as arrays of the batch."""
        n_classes, n_pools = self._shape
        own = [veil or _NO_VEIL for veil in self._veils]
        n_gaps = max(len(veil.gap_from_s) for veil in own)
        count = len(own)
        self._veiled = np.array([veil is not None for veil in self._veils])[:, None, None]
        self._seed = np.array([veil.seed for veil in own], dtype=np.uint64)
        self._delay = np.array([np.ceil(veil.delay_s / self._tick_s - 1e-9) for veil in own]).astype(np.int64)
        self._noise_frac = np.array([veil.noise_frac for veil in own])[:, None, None]
        self._drop_frac = np.array([veil.drop_frac for veil in own])[:, None, None]
        self._lacks_classes = np.stack([veil.lacks_classes for veil in own])
        self._lacks_pools = np.stack([veil.lacks_pools for veil in own])
        self._gap_from_s = np.full((count, n_gaps), np.inf)
        self._gap_until_s = np.full((count, n_gaps), np.inf)
        self._gap_classes = np.zeros((count, n_gaps, n_classes), dtype=np.bool_)
        self._gap_pools = np.zeros((count, n_gaps, n_pools), dtype=np.bool_)
        for b, veil in enumerate(own):
            g = len(veil.gap_from_s)
            self._gap_from_s[b, :g], self._gap_until_s[b, :g] = veil.gap_from_s, veil.gap_until_s
            self._gap_classes[b, :g, : veil.gap_classes.shape[1]] = veil.gap_classes
            self._gap_pools[b, :g, : veil.gap_pools.shape[1]] = veil.gap_pools

    def _late(self, blocks: tuple[FloatArray, ...], tick: IntArray) -> list[FloatArray]:
        """Keep this frame, and give that of `delay_s` ago; unknown before the run."""
        kept = math.ceil(MAX_DELAY_S / self._tick_s) + 1
        if not self._frames:
            self._frames = [np.full((kept, *block.shape), np.nan) for block in blocks]
        each = np.arange(len(tick))
        for frames, block in zip(self._frames, blocks, strict=True):
            frames[tick % kept, each] = block
        known = (tick >= self._delay)[:, None, None]
        return [np.where(known, frames[(tick - self._delay) % kept, each], np.nan) for frames in self._frames]

    def _silent_s(self, now_s: FloatArray, touched: BoolArray) -> FloatArray:
        """`[B, C]` or `[B, P]` for how long nothing was heard, below 0 where all is well; `touched` `[B, G, ...]`."""
        since_s = now_s[:, None] - self._gap_from_s
        inside = (since_s >= 0.0) & (now_s[:, None] < self._gap_until_s)
        silent_s: FloatArray = np.where(touched & inside[..., None], since_s[..., None], -1.0).max(axis=1, initial=-1.0)
        return silent_s

    def _dropped(self, tick: IntArray, shape: tuple[int, ...], rows: int) -> BoolArray:
        if not self._drop_frac.any():
            return np.zeros(shape, dtype=np.bool_)
        return np.asarray(_uniform(self._seed, tick, shape, _DROP, rows) < self._drop_frac)

    def _noisy(self, block: FloatArray, tick: IntArray, high: FloatArray, rows: int) -> FloatArray:
        """Times a factor of mean 1, uniform so that it is bounded; no figure leaves what is plausible."""
        if not self._noise_frac.any():
            return block
        spread = np.sqrt(3.0) * (2.0 * _uniform(self._seed, tick, block.shape, _NOISE, rows) - 1.0)
        noisy: FloatArray = np.clip(block * (1.0 + self._noise_frac * spread), 0.0, high)
        return noisy

    def _last_forecast(self, forecast: FloatArray, silent: BoolArray) -> FloatArray:
        """The forecast before the silence; unknown where a run begins with one."""
        self._held = np.where(silent[..., None], self._held, forecast)
        return self._held


def _uniform(seed: NDArray[np.uint64], tick: IntArray, shape: tuple[int, ...], what: int, rows: int) -> FloatArray:
    """`shape` `[B, rows, columns]` numbers in [0, 1): SplitMix64 (Steele et al., 2014) over seed, tick and place."""
    place = (np.arange(shape[1])[:, None] * 64 + np.arange(shape[2]) + rows).astype(np.uint64)
    with np.errstate(over="ignore"):
        z: NDArray[Any] = _mixed(seed + tick.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(what))
        z = _mixed(z[:, None, None] ^ (place * np.uint64(0xD1B54A32D192ED03)))
    return np.asarray((z >> np.uint64(11)) * (1.0 / 9007199254740992.0), dtype=np.float64)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


_NO_VEIL: Final = veil_of(Telemetry(), (), (), 0)
