"""What a policy would have come to on steps that another one made: doubly robust, with its interval and what it rests on.

A step `(s, a, G)` was made by a policy that drew `a` with density `b(a | s)`; `G` is what followed. The candidate would have
drawn it with density `p(a | s)`. The mean of `w G`, with `w = p / b`, estimates what the candidate would have come to, but
swings wildly where the two differ; a fitted model of `G` alone is steady and wrong. The doubly robust estimate

    mean of  m(s, p) + w (G - m(s, a))

takes the model `m` for most of it and the weights for what the model leaves, and is right if either of the two is (M. Dudik,
J. Langford, L. Li, ICML 2011; for sequences: N. Jiang, L. Li, ICML 2016, P. Thomas, E. Brunskill, ICML 2016). The
incumbent's own return is estimated in the same way, with weights of 1, and the gain is the difference: who does what the
incumbent does gains nothing, whatever the draws happened to be. Weights are
divided by their mean (self-normalised, as in Thomas and Brunskill), cut at `MOST_WEIGHT`, and the model of each step is
fitted to blocks of steps that it is not in (V. Chernozhukov et al., Econometrics Journal 21 (2018)).

`G` sums the rewards of the next few steps, in which the logging policy goes on: what is estimated is the gain of acting as
the candidate once and as the incumbent afterwards, averaged over the incumbent's own states. For a candidate that is held
near the incumbent that is the gain to first order (S. Kakade, J. Langford, ICML 2002); it is no promise about a far one, and
the effective sample size, `(sum w)^2 / (sum w^2)` (A. Kong, 1992), falls towards 1 to say so.

Symbols: `S` steps, `F` features of a state, `A` numbers of an action, `B` blocks, `D` draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ....env.contract import BoolArray, FloatArray, IntArray
from ...evaluation.bootstrap import Interval, interval

MOST_WEIGHT: Final = 20.0
RIDGE: Final = 1.0
"""Of the model, on features of unit deviation; in steps."""
DRAWS: Final = 1000
FOLDS: Final = 4


@dataclass(frozen=True)
class Steps:
    """Logged steps, in their order."""

    returns: FloatArray
    """`[S]` `G`, more is better; NaN where what followed is not known."""
    features: FloatArray
    """`[S, F]` of the state."""
    noise: FloatArray
    """`[S, A]` by how much the logged action differs from the logging policy's mean."""
    shift: FloatArray
    """`[S, A]` by how much the candidate's mean differs from it."""
    log_ratio: FloatArray
    """`[S]` logarithm of `w`; NaN where the logging policy was deterministic."""
    block: IntArray
    """`[S]` steps of one block hang together; blocks hardly do."""


@dataclass(frozen=True)
class Estimate:
    """What the log says."""

    gain: Interval
    """The candidate's return less the incumbent's, a step."""
    weighted: Interval
    """The same by weights alone: far from `gain` if the model does most of it."""
    effective: float
    """Sample size of the weights."""
    steps: int
    """With known returns and densities."""
    deterministic: int
    """Steps that were left out because the logging policy drew nothing."""
    cut_frac: float
    """Of the weights, those beyond `MOST_WEIGHT`."""
    scale: float
    """Deviation of the returns, to hold `gain` against."""


def returns_of(rewards: FloatArray, follows: BoolArray, horizon: int) -> FloatArray:
    """`[S]` the sum of each step's reward and of those that follow it, `horizon` in all; NaN where one is not known."""
    total, chained = rewards.astype(np.float64), np.ones(len(rewards), dtype=np.bool_)
    for k in range(1, horizon):
        linked, ahead = np.zeros(len(rewards), dtype=np.bool_), np.full(len(rewards), np.nan)
        linked[:-k], ahead[:-k] = follows[k - 1 : -1], rewards[k:]
        chained &= linked
        total = np.where(chained, total + ahead, np.nan)
    return total


def blocks_of(follows: BoolArray, length: int) -> IntArray:
    """`[S]` numbers of blocks of up to `length` steps that follow each other."""
    starts = np.ones(len(follows), dtype=np.bool_)
    since = 0
    for s in range(1, len(follows)):
        since = since + 1 if follows[s - 1] else 0
        starts[s] = since % length == 0
    numbers: IntArray = np.cumsum(starts) - 1
    return numbers


def estimate(steps: Steps, seed: int = 0) -> Estimate:
    """The doubly robust estimate, with an interval over blocks drawn again."""
    explored = np.isfinite(steps.log_ratio)
    usable = explored & np.isfinite(steps.returns)
    n = int(usable.sum())
    if n < 2:
        nothing = Interval(float("nan"), float("nan"), float("nan"))
        return Estimate(nothing, nothing, 0.0, n, int((~explored).sum()), 0.0, float("nan"))
    returns, block = steps.returns[usable], np.unique(steps.block[usable], return_inverse=True)[1]
    raw = np.exp(np.minimum(steps.log_ratio[usable], 50.0))
    weights = np.minimum(raw, MOST_WEIGHT)
    at_logged, at_incumbent, at_candidate = _modelled(
        returns, steps.features[usable], steps.noise[usable], steps.shift[usable], block
    )
    n_blocks = int(block.max()) + 1
    sums = np.stack(
        [
            np.bincount(block, values, minlength=n_blocks)
            for values in (
                np.ones(n),
                weights,
                at_candidate - at_incumbent,
                weights * (returns - at_logged),
                returns - at_logged,
                returns,
                weights * returns,
            )
        ]
    )

    def combined(totals: FloatArray) -> tuple[FloatArray, FloatArray]:
        count, weight, modelled, corrected, left, logged, weighted = totals
        heavy = np.maximum(weight, 1e-12)
        return modelled / count + corrected / heavy - left / count, weighted / heavy - logged / count

    gain, by_weights = combined(sums.sum(axis=1))
    picked = np.random.default_rng(seed).integers(n_blocks, size=(DRAWS, n_blocks))
    drawn_gain, drawn_weights = combined(sums[:, picked].sum(axis=2))
    return Estimate(
        gain=interval(float(gain), drawn_gain),
        weighted=interval(float(by_weights), drawn_weights),
        effective=float(weights.sum() ** 2 / np.maximum((weights**2).sum(), 1e-300)),
        steps=n,
        deterministic=int((~explored).sum()),
        cut_frac=float((raw > MOST_WEIGHT).mean()),
        scale=float(returns.std()),
    )


def _modelled(
    returns: FloatArray, features: FloatArray, noise: FloatArray, shift: FloatArray, block: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`[S]` the model at what was done, and at what incumbent and candidate would do in the mean: linear in both, so that the mean
    over either's own noise is its value at the mean. Each step's is fitted without its fold."""
    spread: FloatArray = np.asarray(features.std(axis=0) + 1e-9, dtype=np.float64)
    state: FloatArray = np.concatenate(
        [np.ones((len(features), 1)), (features - features.mean(axis=0)) / spread], axis=1
    )
    wide: FloatArray = np.asarray(noise.std(axis=0) + 1e-9, dtype=np.float64)
    fold = block % FOLDS
    at_logged: FloatArray = np.zeros(len(returns))
    at_incumbent: FloatArray = np.zeros(len(returns))
    at_candidate: FloatArray = np.zeros(len(returns))
    for k in range(FOLDS):
        inside = fold == k
        if not inside.any() or inside.all():
            continue
        rows: FloatArray = np.concatenate([state, noise / wide], axis=1)
        fitted = _ridge(rows[~inside], returns[~inside])
        at_logged[inside] = rows[inside] @ fitted
        there: FloatArray = np.concatenate([state, np.zeros_like(noise)], axis=1)
        at_incumbent[inside] = there[inside] @ fitted
        elsewhere: FloatArray = np.concatenate([state, shift / wide], axis=1)
        at_candidate[inside] = elsewhere[inside] @ fitted
    return at_logged, at_incumbent, at_candidate


def _ridge(rows: FloatArray, values: FloatArray) -> FloatArray:
    """`[columns]` least squares with a penalty on all but the first column."""
    penalty = RIDGE * np.eye(rows.shape[1])
    penalty[0, 0] = 0.0
    return np.asarray(np.linalg.solve(rows.T @ rows + penalty, rows.T @ values), dtype=np.float64)
