"""The requests of a training world: which classes, how long, how they come; fitted to published traces.

Lengths, clients, bursts and how far a service's rate wanders are those of `env.workload.published`, which names source
and measure of each figure; what is made up (targets, shares, how a day is compressed) is told apart below.

Symbols: `d` difficulty, 0 to `clusters.HARDEST`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from ..env.contract import FloatArray
from ..env.workload.published import (
    CHAT_LENGTHS,
    CLASSIFICATION_LENGTHS,
    CLIENT_BURST_FACTORS,
    CLIENT_BURST_S,
    CLIENT_ZIPF,
    DAY_BY_HOUR,
    REASONING_LENGTHS,
    SHORT_ANSWER_LENGTHS,
    SUMMARISATION_LENGTHS,
    TEN_MINUTE_MOVES,
    Lengths,
)
from ..env.workload.spec import Lognormal

DURATION_S: Final = 3600.0
MOST_DEFERRABLE: Final = 0.5
"""Work that may wait is this much rarer than other work: a batch must not be the whole of a cluster's load."""
MAX_MODEL_LEN: Final = 8192
"""Context of every engine; prompts and answers are cut to what fits."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of work."""

    name: str
    lengths: Lengths
    weight: float
    """How often it is drawn."""
    ttft_s: float = math.nan
    tpot_s: float = math.nan
    """Usual targets; NaN: none. What users ask for differs widely: each world has its own, within a factor of 1.5."""
    attainments: tuple[float, ...] = (0.95, 0.98, 0.99, 0.995)
    most_cv: float = 2.25
    """Most burstiness of one client; the default is the third quartile of ServeGen m-large."""

    @property
    def deferrable(self) -> bool:
        """Whether it has a deadline in place of targets."""
        return math.isnan(self.ttft_s)


KINDS: Final = (
    Kind("chat", CHAT_LENGTHS, 3.0, 2.0, 0.1, (0.98, 0.99, 0.99, 0.995), 1.6),
    Kind("summarisation", SUMMARISATION_LENGTHS, 1.5, 5.0, 0.12),
    Kind("code", SHORT_ANSWER_LENGTHS, 1.5, 1.5, 0.09),
    Kind("classification", CLASSIFICATION_LENGTHS, 1.0, 1.5),
    Kind("reasoning", REASONING_LENGTHS, 1.0, 4.0, 0.09),
    Kind("batch", SUMMARISATION_LENGTHS, 1.5, attainments=(0.95, 0.98)),
)


@dataclass(frozen=True)
class DrawnClass:
    """One class of a world before its rate is known."""

    name: str
    kind: Kind
    model: str
    target: dict[str, Any]
    load: dict[str, Any]
    """As in a scenario file, but for the rate."""
    cells: tuple[FloatArray, FloatArray, FloatArray]
    """`[M]` prompt tokens, output tokens and share of its requests, of kinds of alike length."""
    share: float
    """Of the world's requests."""
    peak: float
    """Highest rate over the mean one, as far as that is planned: bursts of luck come on top."""
    opening: float
    """Rate of the first minutes over the mean one."""

    @property
    def targets(self) -> tuple[float, float, float, float]:
        """TTFT, TPOT and end to end (a deadline is one) in seconds, infinity for none, and the wanted attainment."""
        wanted = self.target
        end_s = wanted.get("deadline_s", wanted.get("e2e_s", math.inf))
        return wanted.get("ttft_s", math.inf), wanted.get("tpot_s", math.inf), end_s, wanted["attainment"]

    def at_rate(self, rate_per_s: float) -> dict[str, Any]:
        """Its load, as a scenario file has it, with this mean rate."""
        if self.load.get("kind") == "jobs":
            return {**self.load, "requests_mean": rate_per_s * DURATION_S / len(self.load["at_s"])}
        return {**self.load, "rate_per_s": rate_per_s}


def draw_classes(rng: np.random.Generator, models: tuple[str, ...], difficulty: float) -> list[DrawnClass]:
    """One to four classes; every model has at least one that is served at once."""
    count = max(len(models), int(rng.integers(1, 5)))
    shares = rng.dirichlet(np.full(count, 2.0))
    world_moves = _moves(rng, difficulty)
    classes: list[DrawnClass] = []
    for i in range(count):
        served_at_once = i < len(models)
        wanted = [
            kind
            for kind in KINDS
            if not (served_at_once and kind.deferrable)
            and sum(kind is c.kind for c in classes) < (1 if kind.deferrable else 2)
        ]
        weights = np.array([kind.weight for kind in wanted])
        kind = wanted[int(rng.choice(len(wanted), p=weights / weights.sum()))]
        taken = sum(kind is c.kind for c in classes)
        name = kind.name if not taken else f"{kind.name}-{taken + 1}"
        model = models[i] if served_at_once else str(rng.choice(models))
        # Services of one company share the hour of the day, hardly more.
        moves = world_moves if rng.random() < 0.5 else _moves(rng, difficulty)
        share = float(shares[i]) * (MOST_DEFERRABLE if kind.deferrable else 1.0)
        classes.append(_class(rng, name, kind, model, share, moves, difficulty))
    total = sum(c.share for c in classes)
    return [replace(c, share=c.share / total) for c in classes]


def _class(
    rng: np.random.Generator,
    name: str,
    kind: Kind,
    model: str,
    share: float,
    moves: list[dict[str, Any]],
    difficulty: float,
) -> DrawnClass:
    prompt = _lengths(rng, kind.lengths.prompt_tokens, MAX_MODEL_LEN * 3 // 4)
    output = _lengths(rng, kind.lengths.output_tokens, MAX_MODEL_LEN // 4)
    load: dict[str, Any] = {
        "prompt_tokens": _document(prompt),
        "output_tokens": _document(output),
        "correlation": kind.lengths.correlation,
    }
    peak, opening = 1.0, 1.0
    if kind.deferrable and rng.random() < 0.5:
        batches = int(rng.integers(2, 7))
        at_s = np.sort(rng.uniform(0.0, 0.85 * DURATION_S, batches)).round(0)
        load |= {
            "kind": "jobs",
            "every_s": DURATION_S,
            "at_s": np.unique(at_s).tolist(),
            "over_s": float(rng.uniform(200.0, 900.0)),
        }
        opening, peak = 0.5, DURATION_S / (len(load["at_s"]) * load["over_s"])
    else:
        bursts = _bursts(rng, difficulty)
        most_cv = 1.0 + (kind.most_cv - 1.0) * difficulty
        load |= {"arrivals": "gamma", "cv": float(rng.uniform(1.0, most_cv)), "shape": moves + bursts}
        if rng.random() < 0.7 * difficulty:
            load["clients"] = {"count": int(rng.integers(5, 60)), "zipf": CLIENT_ZIPF * float(rng.uniform(0.7, 1.3))}
        levels = _levels(moves)
        opening = float(levels[:3].mean())
        peak = float(levels.max()) * max((burst["factor"] for burst in bursts), default=1.0)
    return DrawnClass(
        name=name,
        kind=kind,
        model=model,
        target=_target(rng, kind),
        load=load,
        cells=_cells(prompt, output),
        share=share,
        peak=min(peak, 4.0),
        opening=opening,
    )


def _target(rng: np.random.Generator, kind: Kind) -> dict[str, Any]:
    """Made up about what is usual."""
    attainment = float(rng.choice(kind.attainments))
    if kind.deferrable:
        return {"deadline_s": round(_log_uniform(rng, 300.0, 1500.0)), "attainment": attainment}
    target: dict[str, Any] = {
        "ttft_s": round(kind.ttft_s * _spread(rng, 0.4), 2),
        **({} if math.isnan(kind.tpot_s) else {"tpot_s": round(kind.tpot_s * _spread(rng, 0.25), 3)}),
        "attainment": attainment,
    }
    if math.isnan(kind.tpot_s):  # a label is wanted whole
        return {"e2e_s": round(target["ttft_s"] + 1.0, 2), "attainment": attainment}
    return target


def _lengths(rng: np.random.Generator, published: Lognormal, most: int) -> Lognormal:
    """The published lengths, longer or shorter as services differ, cut to the context."""
    mu, sigma = published.mu_sigma
    median = math.exp(mu) * _spread(rng, 0.35)
    return Lognormal(median=min(median, most / 2), sigma=sigma * _spread(rng, 0.15), min=1, max=most)


_PROMPT_ENDS: Final = (0.0, 0.4, 0.8, 0.95, 0.99, 1.0)
_OUTPUT_ENDS: Final = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Where lengths are cut into kinds: the longest prompts and the shortest answers miss their targets first."""


def _cells(prompt: Lognormal, output: Lognormal) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Kinds of alike length, each by the length in the middle of its share."""

    def middles(lengths: Lognormal, ends: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
        shares = np.diff(ends)
        mu, sigma = lengths.mu_sigma
        normal = NormalDist()
        tokens = [math.exp(mu + sigma * normal.inv_cdf(a + b / 2.0)) for a, b in zip(ends, shares, strict=False)]
        return np.clip(tokens, lengths.min, lengths.max), shares

    (prompts, of_prompts), (outputs, of_outputs) = middles(prompt, _PROMPT_ENDS), middles(output, _OUTPUT_ENDS)
    grid = np.meshgrid(prompts, outputs, indexing="ij")
    return grid[0].ravel(), grid[1].ravel(), np.outer(of_prompts, of_outputs).ravel()


def _document(lengths: Lognormal) -> dict[str, Any]:
    return {name: value for name, value in lengths.model_dump().items() if value is not None}


def _moves(rng: np.random.Generator, difficulty: float) -> list[dict[str, Any]]:
    """How the rate of a service moves within the hour, mean 1: wandering, and a day or a part of it."""
    if difficulty <= 0.0:
        return []
    shapes: list[dict[str, Any]] = []
    times_s = np.arange(0.0, DURATION_S + 1.0, 300.0)
    # Half of a 10-minute move's variance in 5 minutes; large services move least, small ones most.
    quiet, lively = (TEN_MINUTE_MOVES[name][0] for name in ("m-large", "deepseek-r1"))
    scale = _log_uniform(rng, quiet, lively) / 0.816 / math.sqrt(2.0) * difficulty  # 0.816: median of |t| with 2 d.f.
    steps = np.clip(rng.standard_t(2, len(times_s)) * scale, -0.4 * difficulty, 0.4 * difficulty)
    shapes.append(_ramp(times_s, np.exp(np.clip(np.cumsum(steps), -0.5, 0.5))))
    how = rng.random()
    if how < 0.45:  # a swing as deep as a day's, in an hour or two, so that a training episode has one
        period_s = _log_uniform(rng, 1500.0, 7200.0)
        amplitude = float(rng.uniform(0.1, 0.45)) * difficulty
        shapes.append(
            {
                "kind": "diurnal",
                "period_s": period_s,
                "amplitude": amplitude,
                "peak_at_s": float(rng.uniform(0.0, period_s)),
            }
        )
    elif how < 0.7:  # some hours of a day, compressed
        hours = int(rng.integers(3, 9))
        first = int(rng.integers(24))
        factors = np.array([DAY_BY_HOUR.factors[(first + i) % 24] for i in range(hours + 1)])
        factors = 1.0 + (factors / factors.mean() - 1.0) * difficulty
        shapes.append(_ramp(np.linspace(0.0, DURATION_S, hours + 1), factors))
    return shapes


def _ramp(times_s: np.ndarray[Any, Any], factors: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Straight from point to point, scaled to a mean of 1."""
    mean = float(np.trapezoid(factors, times_s)) / float(times_s[-1] - times_s[0])
    return {"kind": "ramp", "times_s": times_s.round(1).tolist(), "factors": (factors / mean).round(4).tolist()}


def _bursts(rng: np.random.Generator, difficulty: float) -> list[dict[str, Any]]:
    """A large client's bursts, as the class sees them: its share of the load times its own burst.

    The published windows of 10 minutes do not tell shorter bursts apart: these are as likely here.
    """
    if rng.random() > 0.5 * difficulty:
        return []
    low, high = CLIENT_BURST_FACTORS
    factor = 1.0 + float(rng.uniform(0.05, 0.3)) * (_log_uniform(rng, low, high) - 1.0)
    duration_s = _log_uniform(rng, 60.0, CLIENT_BURST_S)
    every_s = duration_s + _log_uniform(rng, 900.0, 5400.0)
    return [{"kind": "bursts", "every_s": every_s, "duration_s": duration_s, "factor": factor}]


def _levels(moves: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The product of the moves, every minute."""
    at_s = np.arange(0.0, DURATION_S, 60.0)
    level = np.ones(len(at_s))
    for shape in moves:
        if shape["kind"] == "ramp":
            level *= np.interp(at_s, shape["times_s"], shape["factors"])
        else:
            level *= 1.0 + shape["amplitude"] * np.cos(2 * np.pi * (at_s - shape["peak_at_s"]) / shape["period_s"])
    return level


def _spread(rng: np.random.Generator, width: float) -> float:
    """A factor of exp(-width) to exp(width)."""
    return float(np.exp(rng.uniform(-width, width)))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
