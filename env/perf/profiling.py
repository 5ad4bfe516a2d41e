"""From timed probes to a law, and to how well it holds on probes that the fit never saw.

A decode probe times one iteration. A prefill probe times the iterations of one prompt, in chunks of the token budget, and
what comes on top of each answer: network, HTTP, tokenising, scheduling (`answer_s`). The same constant stands on top of
every prompt, and decoding has none, so the two kinds together tell it from the law.

Symbols: `N` observations, `J` knots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import least_squares, nnls

from ..catalog.gpus import Gpu
from ..catalog.models import Model
from .correction import Correction, corrected_law
from .law import TOKENS_GRID, FloatArray, IterationLaw
from .law_file import LawTable

_BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
"""What `max_num_batched_tokens` may be, where nobody said."""
_DEFAULT_BUDGETS = (2048, 8192)
"""vLLM's own defaults for online servers: taken where the prompts cannot tell."""
_LAST_KNOT = 2048.0
"""Beyond it the table goes on with its last slope: products of so many tokens are bound by compute on any GPU, and free
points out there would take the attended pairs for their own."""
_NO_WORSE = 1.1
_SMALL_ERROR = 1e-4
"""Sum of squared shares: a hundredth of one probe."""
_ROUNDS = 8
_HUBER = 0.05
"""Residuals beyond this share of the measured time count less: a probe that something else disturbed."""
_LEAST_DECODES, _LEAST_PREFILLS = 3, 3


class ProfileError(ValueError):
    """Too little was measured, or what was measured makes no law; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One probe, timed."""

    kind: Literal["decode", "prefill"]
    sequences: int
    """Decoding together; 1 for a prompt."""
    prompt_tokens: int
    context_tokens: float
    """Mean KV tokens that one decode iteration reads, all sequences together; 0 for a prompt."""
    seconds: float
    """Of one decode iteration, or until a lone prompt's first token."""
    held_out: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """How far a fit is off, as shares of the measured time."""

    count: int
    median: float
    p90: float
    bias: float
    """Mean of predicted over measured, minus 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A fitted endpoint."""

    law: IterationLaw
    table: LawTable
    """The law at the token counts that were measured."""
    token_budget: int
    """Tokens of one iteration, as given or as the long prompts tell."""
    answer_s: float
    """What comes on top of every answer before its first token, beyond its iterations."""
    correction: Correction | None = None

    def predicted_s(self, observation: Observation) -> float:
        """What the fit says a probe takes."""
        return _predicted_s(self.law, self.token_budget, self.answer_s, observation)


def chunks(prompt_tokens: int, token_budget: int) -> list[tuple[int, float]]:
    """(tokens, attended pairs) of each iteration that a lone prompt takes."""
    starts = range(0, prompt_tokens, token_budget)
    sizes = [min(token_budget, prompt_tokens - start) for start in starts]
    return [(size, size * (start + size / 2.0)) for start, size in zip(starts, sizes, strict=True)]


def fit_table(observations: Sequence[Observation], token_budget: int | None = None) -> Profile:
    """The law's own parameters: a monotone table at the token counts measured, attention, KV reads, sequences.

    Raises:
        ProfileError: too few probes of one kind.
    """
    fitted = _enough(observations)
    budgets = [token_budget] if token_budget else _possible_budgets(fitted)
    return _best([_fit_linear(fitted, budget) for budget in budgets])


def fit_correction(
    observations: Sequence[Observation],
    gpu: Gpu,
    model: Model,
    precision: str,
    tensor_parallel: int,
    token_budget: int | None = None,
) -> Profile:
    """Few factors over the performance model's law of this GPU, model and layout.

    Raises:
        ProfileError: too few probes of one kind.
        LayoutError: the GPU cannot run the model so.
    """
    fitted = _enough(observations)
    believed = corrected_law(gpu, model, precision, tensor_parallel, Correction())
    fixed_low = -0.9 * float(believed.linear_s[0])
    budgets = [token_budget] if token_budget else _possible_budgets(fitted)
    tries = [
        _fit_factors(fitted, lambda c: corrected_law(gpu, model, precision, tensor_parallel, c), budget, fixed_low)
        for budget in budgets
    ]
    return _best(tries)


def scores(profile: Profile, observations: Sequence[Observation]) -> Scores | None:
    """How far the profile is off on these; None if there are none."""
    if not observations:
        return None
    measured = np.array([o.seconds for o in observations])
    off = np.array([profile.predicted_s(o) for o in observations]) / measured - 1.0
    return Scores(len(off), float(np.median(np.abs(off))), float(np.quantile(np.abs(off), 0.9)), float(off.mean()))


def _predicted_s(law: IterationLaw, token_budget: int, answer_s: float, observation: Observation) -> float:
    if observation.kind == "decode":
        return float(law.iteration_s(0.0, 0.0, observation.sequences, observation.context_tokens))
    parts = chunks(observation.prompt_tokens, token_budget)
    return answer_s + sum(float(law.iteration_s(size, pairs, 0.0, 0.0)) for size, pairs in parts)


def _enough(observations: Sequence[Observation]) -> list[Observation]:
    fitted = [o for o in observations if not o.held_out]
    for kind, least in (("decode", _LEAST_DECODES), ("prefill", _LEAST_PREFILLS)):
        shapes = {(o.sequences, o.prompt_tokens) for o in fitted if o.kind == kind}
        if len(shapes) < least:
            raise ProfileError(
                f"{len(shapes)} {kind} probes of different shapes, wanted at least {least}; allow more tokens or time"
            )
    return fitted


def _best(tries: Sequence[tuple[float, Profile]]) -> Profile:
    """The profile with the least error; of those about as good, the one with a default budget."""
    least = min(error for error, _ in tries)
    good = [profile for error, profile in tries if error <= _NO_WORSE * least + _SMALL_ERROR]
    wanted = [*_DEFAULT_BUDGETS, *(profile.token_budget for profile in good)]
    return min(good, key=lambda profile: wanted.index(profile.token_budget))


def _possible_budgets(observations: Sequence[Observation]) -> list[int]:
    """Budgets that would cut the prompts differently: those below the longest, and one that cuts none."""
    longest = max(o.prompt_tokens for o in observations if o.kind == "prefill")
    most = max(o.sequences for o in observations)
    whole = next((budget for budget in _BUDGETS if budget >= longest), longest)
    return [budget for budget in _BUDGETS if most <= budget < whole] + [whole]


def _fit_linear(observations: Sequence[Observation], token_budget: int) -> tuple[float, Profile]:
    """The robust error over the fitted probes, and the profile."""
    knots = _knots(observations, token_budget)
    design = np.array([_row(o, token_budget, knots) for o in observations])
    measured = np.array([o.seconds for o in observations])
    weights = np.ones(len(measured))
    solution = np.zeros(design.shape[1])
    for _ in range(_ROUNDS):
        scaled = design * (weights / measured)[:, None]
        # Columns of one size, or nnls takes the small ones for nothing.
        size = np.maximum(np.linalg.norm(scaled, axis=0), 1e-300)
        solution = nnls(scaled / size, weights)[0] / size
        off = np.abs(design @ solution / measured - 1.0)
        weights = np.sqrt(_HUBER / np.maximum(off, _HUBER))
    linear_s = np.cumsum(solution[: len(knots)])
    attend, kv_read, seq, answer_s = solution[len(knots) :]
    if linear_s[0] <= 0:
        raise ProfileError("an iteration of one token takes no time by this fit; were the probes disturbed?")
    table = LawTable(
        tokens=tuple(knots.tolist()),
        linear_s=tuple(linear_s.tolist()),
        attend_s_per_pair=float(attend),
        kv_read_s_per_token=float(kv_read),
        seq_s=float(seq),
    )
    error = float((np.minimum(off, _HUBER) ** 2 + 2 * _HUBER * np.maximum(off - _HUBER, 0.0)).sum())
    return error, Profile(table.law(), table, token_budget, float(answer_s))


def _knots(observations: Sequence[Observation], token_budget: int) -> FloatArray:
    """`[J]` token counts at which the table is free: batches that were decoded, and chunks of 2^k or 3 * 2^k.

    A prompt just over the budget is no knot: it must be explained by an iteration more, or the budget is another one.
    """
    batches = {o.sequences for o in observations if o.kind == "decode"}
    chunk_sizes = {
        size for o in observations if o.kind == "prefill" for size, _ in chunks(o.prompt_tokens, token_budget)
    }
    round_sizes = {size for size in chunk_sizes if _is_power(size) or (size % 3 == 0 and _is_power(size // 3))}
    return np.array(sorted(float(t) for t in batches | round_sizes if t <= _LAST_KNOT))


def _is_power(size: int) -> bool:
    return size & (size - 1) == 0


def _row(observation: Observation, token_budget: int, knots: FloatArray) -> FloatArray:
    """`[J + 4]` seconds per unit of: each rise of the table, a pair, a KV token, a sequence, an answer."""
    steps = np.tril(np.ones((len(knots), len(knots))))  # the value at a knot is the sum of the rises up to it

    def table(tokens: float) -> FloatArray:
        beyond = max(tokens - knots[-1], 0.0) / (knots[-1] - knots[-2])  # goes on with the last slope
        last = steps[-1] - steps[-2]
        inside = np.array([float(np.interp(tokens, knots, steps[:, j])) for j in range(len(knots))])
        return np.asarray(inside + beyond * last, dtype=np.float64)

    if observation.kind == "decode":
        tail = [0.0, observation.context_tokens, float(observation.sequences), 0.0]
        return np.concatenate([table(observation.sequences), tail])
    parts = chunks(observation.prompt_tokens, token_budget)
    tables = np.sum([table(size) for size, _ in parts], axis=0)
    return np.concatenate([tables, [sum(pairs for _, pairs in parts), 0.0, 0.0, 1.0]])


def _fit_factors(
    observations: Sequence[Observation],
    law_of: Callable[[Correction], IterationLaw],
    token_budget: int,
    fixed_low_s: float,
) -> tuple[float, Profile]:
    measured = np.array([o.seconds for o in observations])
    unit_s = max(-fixed_low_s, 1e-6)

    def unpacked(p: FloatArray) -> tuple[Correction, float]:
        ratios = np.exp(p[:5])
        correction = Correction(
            compute=float(ratios[0]),
            memory=float(ratios[1]),
            prefill_attention=float(ratios[2]),
            decode_attention=float(ratios[3]),
            sequence=float(ratios[4]),
            iteration_s=float(p[5] * unit_s),
        )
        return correction, float(p[6] * unit_s)

    def residuals(p: FloatArray) -> FloatArray:
        correction, answer_s = unpacked(p)
        try:
            law = law_of(correction)
        except ValueError:
            return np.full(len(measured) + 6, 10.0)
        predicted = np.array([_predicted_s(law, token_budget, answer_s, o) for o in observations])
        # A weak pull to the shipped factors decides what the probes cannot: which of two terms that look alike changed.
        return np.concatenate([np.log(predicted / measured), 1e-3 * p[:6]])

    bound = np.log(10.0)
    low = np.array([-bound] * 5 + [-1.0, 0.0])
    high = np.array([bound] * 5 + [10.0, 100.0])
    start = np.array([0.0] * 6 + [0.05])
    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=_HUBER)
    correction, answer_s = unpacked(found.x)
    law = law_of(correction)
    table = LawTable(
        tokens=tuple(TOKENS_GRID.tolist()),
        linear_s=tuple(law.linear_s.tolist()),
        attend_s_per_pair=law.attend_s_per_pair,
        kv_read_s_per_token=law.kv_read_s_per_token,
        seq_s=law.seq_s,
    )
    return float(found.cost), Profile(law, table, token_budget, answer_s, correction)
