"""The demo's figures: what clients measured, what the bill says, what the proxy added. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...env.contract import BILL_LAYERS, FloatArray, Targets
from ...env.emulator.replay import ClientRecord


@dataclass(frozen=True)
class ClassFigures:
    """What one class's clients saw, in scenario seconds; NaN where nothing was measured."""

    name: str
    sent: int
    served: int
    met: int
    shed: int
    lost: int
    ttft_p50_s: float
    ttft_p95_s: float
    tpot_p50_s: float
    tpot_p95_s: float

    @property
    def attainment(self) -> float:
        """Share of all requests sent that met their targets: shed and lost ones count as missed."""
        return self.met / self.sent if self.sent else float("nan")


@dataclass(frozen=True)
class RunFigures:
    """One policy's run."""

    policy: str
    usd_per_hr: float
    usd: float
    usd_by_layer: dict[str, float]
    classes: tuple[ClassFigures, ...]
    proxy_added_p50_ms: float
    proxy_added_p95_ms: float
    """Wall-clock milliseconds that the proxy added before the first byte."""
    fallback_ticks: int
    """Ticks in which the fallback decided instead of the policy."""
    ticks: int

    @property
    def sent(self) -> int:
        """Requests sent, each counted once however often it was tried."""
        return sum(c.sent for c in self.classes)

    @property
    def lost(self) -> int:
        """Requests that ended in an error or a cut stream."""
        return sum(c.lost for c in self.classes)

    @property
    def met(self) -> int:
        """Requests that met all their targets."""
        return sum(c.met for c in self.classes)

    @property
    def usd_per_1000_met(self) -> float:
        """Dollars per 1,000 requests that met their target."""
        return self.usd / self.met * 1000.0 if self.met else float("nan")


def class_figures(records: Sequence[ClientRecord], names: Sequence[str], targets: Targets) -> tuple[ClassFigures, ...]:
    """What each class's clients saw."""
    return tuple(
        _of_class([r for r in records if r.class_index == c], name, targets, c) for c, name in enumerate(names)
    )


def as_json(run: RunFigures) -> dict[str, Any]:
    """For `--json`; unknown figures are null."""
    return {
        "policy": run.policy,
        "usd_per_hr": run.usd_per_hr,
        "usd": run.usd,
        "usd_per_1000_met": _null(run.usd_per_1000_met),
        "usd_by_layer": {layer: run.usd_by_layer[layer] for layer in BILL_LAYERS},
        "requests": {
            "sent": run.sent,
            "served": sum(c.served for c in run.classes),
            "met": run.met,
            "shed": sum(c.shed for c in run.classes),
            "lost": run.lost,
        },
        "classes": {
            c.name: {
                "attainment": _null(c.attainment),
                "sent": c.sent,
                "served": c.served,
                "shed": c.shed,
                "lost": c.lost,
                "ttft_p50_s": _null(c.ttft_p50_s),
                "ttft_p95_s": _null(c.ttft_p95_s),
                "tpot_p50_s": _null(c.tpot_p50_s),
                "tpot_p95_s": _null(c.tpot_p95_s),
            }
            for c in run.classes
        },
        "proxy_added_ms": {"p50": _null(run.proxy_added_p50_ms), "p95": _null(run.proxy_added_p95_ms)},
        "ticks": run.ticks,
        "fallback_ticks": run.fallback_ticks,
    }


def quantile(values: FloatArray, share: float) -> float:
    """A quantile of what is known; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if known.size else float("nan")


def _of_class(records: Sequence[ClientRecord], name: str, targets: Targets, c: int) -> ClassFigures:
    served = [r for r in records if r.outcome == "served"]
    ttft_s = np.array([_since(r.first_token_s, r) if r.streamed else float("nan") for r in served])
    tpot_s = np.array([_tpot_s(r) for r in served])
    total_s = np.array([_since(r.end_s, r) for r in served])
    met = np.ones(len(served), dtype=np.bool_)
    limits = (
        (ttft_s, targets.ttft_s),
        (tpot_s, targets.tpot_s),
        (total_s, targets.e2e_s),
        (total_s, targets.deadline_s),
    )
    for measured, limit in limits:
        met &= ~(measured > limit[c])  # an unknown value or target is not held against the request
    return ClassFigures(
        name=name,
        sent=len(records),
        served=len(served),
        met=int(met.sum()),
        shed=sum(r.outcome == "shed" for r in records),
        lost=sum(r.outcome not in ("served", "shed") for r in records),
        ttft_p50_s=quantile(ttft_s, 0.5),
        ttft_p95_s=quantile(ttft_s, 0.95),
        tpot_p50_s=quantile(tpot_s, 0.5),
        tpot_p95_s=quantile(tpot_s, 0.95),
    )


def _since(moment_s: float | None, record: ClientRecord) -> float:
    return float("nan") if moment_s is None else moment_s - record.sent_s


def _tpot_s(record: ClientRecord) -> float:
    if record.end_s is None or record.first_token_s is None or record.output_tokens < 2 or not record.streamed:
        return float("nan")
    return (record.end_s - record.first_token_s) / (record.output_tokens - 1)


def _null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
