"""An audit as one JSON document. Pure.

NaN becomes null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ..env.contract import BILL_LAYERS, IDLE_PARTS
from ..training.evaluation.bootstrap import Interval
from ..training.matching import IN_POINTS, TOLERANCES, Match, in_words
from .auditing import Audit
from .findings import saves
from .instead import Compared, Option

FORMAT: Final = 1
HOURS_PER_MONTH: Final = 730.0


def document_of(audit: Audit) -> dict[str, Any]:
    """Everything that an audit found, JSON-ready."""
    measured, spent = audit.measured, audit.spent
    hours = measured.duration_s / 3600.0
    usd = spent.bill.usd
    return {
        "format": FORMAT,
        "source": measured.source,
        "began_at": None
        if measured.began_at_s is None
        else datetime.fromtimestamp(measured.began_at_s, UTC).isoformat(timespec="seconds"),
        "duration_s": measured.duration_s,
        "known_frac": measured.known_frac,
        "requests": measured.request_count,
        "spent": {
            "usd": spent.total_usd,
            "usd_per_hr": spent.total_usd / hours,
            "usd_per_month": spent.total_usd / hours * HOURS_PER_MONTH,
            "idle_usd": float(spent.bill.layer_usd("idle")),
            "usd_by_layer": {layer: float(spent.bill.layer_usd(layer)) for layer in BILL_LAYERS},
            "usd_idle_by_part": {part: float(spent.bill.idle_part_usd(part)) for part in IDLE_PARTS},
            "usd_by_pool": dict(zip(measured.pool_names, usd.sum(axis=(1, 2)).tolist(), strict=True)),
            "usd_by_class": dict(zip(measured.class_names, usd.sum(axis=(0, 2)).tolist(), strict=True)),
            "layers_from_replay": list(spent.guessed_layers),
        },
        "pools": {
            name: {
                "hardware": audit.scenario.pools[name].hardware,
                "mean_replicas": float((measured.up[:, p] * measured.step_s).sum() / measured.duration_s),
                "replica_hr": float(measured.replica_hr[p]),
                "usd": float(usd[p].sum()),
                "idle_usd": float(spent.bill.idle_usd[p].sum()),
                "usd_by_layer": dict(zip(BILL_LAYERS, usd[p].sum(axis=0).tolist(), strict=True)),
            }
            for p, name in enumerate(measured.pool_names)
        },
        "classes": {name: _class(audit, name) for name in measured.class_names},
        "match": _match(audit.match),
        "covered_frac": _number(audit.covered_frac),
        "instead": None if audit.compared is None else _instead(audit.compared, audit),
        "first": [{"do": found.words, "usd": found.usd} for found in audit.findings],
        "assumptions": list(audit.assumptions),
    }


def _class(audit: Audit, name: str) -> dict[str, Any]:
    seen, (low, high) = audit.measured.classes[name], audit.measured.attainment[name]
    simulated = audit.replay.observed.classes[name]
    figures = (
        "ttft_mean_s",
        "ttft_p50_s",
        "ttft_p95_s",
        "tpot_mean_s",
        "tpot_p50_s",
        "tpot_p95_s",
        "e2e_p50_s",
        "e2e_p95_s",
    )
    return {
        "wanted": float(audit.scenario.classes[name].target.attainment),
        "attainment": _number(seen.attainment),
        "attainment_between": [low, high],
        "attainment_replayed": _number(simulated.attainment),
        "requests": _number(seen.requests),
        **{figure: _number(getattr(seen, figure)) for figure in figures},
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "verdict": match.verdict.value,
        "reasons": list(match.reasons),
        "figures": [
            {
                "figure": own.figure,
                "class": own.of or None,
                "measured": _number(own.measured),
                "simulated": _number(own.simulated),
                "error": _number(own.error),
                "error_is": "points" if own.figure in IN_POINTS else "parts",
                "verdict": own.verdict.value,
                "words": in_words(own),
            }
            for own in match.figures
        ],
        "not_compared": list(match.not_compared),
        "tolerances": {name: {"good": own.good, "rough": own.rough} for name, own in TOLERANCES.items()},
    }


def _instead(compared: Compared, audit: Audit) -> dict[str, Any]:
    best = compared.best
    spent_usd, hours = audit.spent.total_usd, audit.measured.duration_s / 3600.0
    saved = {end: (spent_usd - value) / hours for end, value in _ends(best.usd).items()}
    return {
        "best": best.name,
        "best_holds_targets": best.holds,
        "cheaper_beyond_doubt": saves(best),
        "saves_usd_per_hr": {
            "mean": _number(saved["mean"]),
            "low": _number(saved["high"]),
            "high": _number(saved["low"]),
        },
        "saves_usd_per_month": _number(saved["mean"] * HOURS_PER_MONTH),
        "seeds": compared.seeds,
        "speed_error_frac": audit.error_frac,
        "rules_tried": {name: _number(value) for name, value in compared.rules_tried.items()},
        "as_it_was": _option(compared.own),
        "options": [_option(option) for option in compared.others],
    }


def _option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "kind": option.kind,
        "what": option.words,
        "usd": option.usd.as_json(),
        "ratio": option.ratio.as_json(),
        "holds_targets": option.holds,
        "shortfall": option.shortfall,
        "attainment": {name: _interval(own) for name, own in option.attainment.items()},
        "usd_by_layer": dict(option.usd_by_layer),
        "usd_idle_by_part": dict(option.usd_idle_by_part),
        "usd_by_pool": dict(option.usd_by_pool),
        "usd_by_class": dict(option.usd_by_class),
        "mean_replicas": dict(option.mean_replicas),
        "covered_frac": _number(option.covered_frac),
    }


def _interval(own: Interval) -> dict[str, float | None]:
    return {end: _number(value) for end, value in _ends(own).items()}


def _ends(own: Interval) -> Mapping[str, float]:
    return {"mean": own.mean, "low": own.low, "high": own.high}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
