"""Gate (b): what the log of the incumbent says of the candidate, without the twin. See `estimators` for how, and how far.

A policy that does not explore leaves no trace of what else it might have done: a log without exploration tells nothing, and
that is what the gate says then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ....agents.blend import portfolio_as_json
from ....agents.checkpoint import Checkpoint
from ....agents.learned import INPUTS, OUTPUTS, network_session
from ....agents.registry import OFF_POLICY, Verdict
from ....env.codec import CLASS_OUTPUTS, HEADROOM_BEND
from ....env.contract import BoolArray, FloatArray
from ....env.spaces import SpaceLayout
from ...priced import at_price
from .estimators import Estimate, Steps, blocks_of, estimate, returns_of
from .finding import Finding
from .paired import told

LEAST_EFFECTIVE: Final = 50.0
"""With a smaller effective sample size the log cannot tell."""
SLACK: Final = 0.05
"""In deviations of the returns: a loss that is known to be smaller is none."""
HORIZON: Final = 6
"""Steps whose rewards count for one action: what it started is up, and its queue is gone, by then."""
BLOCK: Final = 24
"""Steps that are drawn again together: some horizons."""


class LoggedSteps(Protocol):
    """Recorded steps, as the learner reads them."""

    @property
    def seen(self) -> NDArray[np.float32]:
        """`[S, N]` observations, flat."""
        ...

    @property
    def actions(self) -> NDArray[np.float32]:
        """`[S, A]` as they were answered, noise included."""
        ...

    @property
    def explored(self) -> NDArray[np.bool_]:
        """`[S]` whether there was noise."""
        ...

    @property
    def log_prob(self) -> FloatArray:
        """`[S]` at which density the action was drawn."""
        ...

    @property
    def rewards(self) -> FloatArray:
        """`[S]`"""
        ...

    @property
    def follows(self) -> NDArray[np.bool_]:
        """`[S]` whether the next row is the step after."""
        ...


def off_policy_gate(
    logged: LoggedSteps | None,
    log_std: FloatArray | None,
    incumbent: Checkpoint,
    candidate: Checkpoint,
    inputs: Mapping[str, str],
    why_nothing: str = "no recorded step with exploration",
) -> Finding:
    """Whether the candidate is worse than the incumbent on what the incumbent did.

    Args:
        logged: steps; None if there are none.
        log_std: `[S, A]` logarithm of the noise's deviation in each step; NaN for outputs that mean nothing.
        incumbent: who made them.
        candidate: to be judged.
        inputs: hashes of the log.
        why_nothing: why there are no steps.
    """
    if logged is None or log_std is None or not logged.explored.any():
        said = f"the log tells nothing of other actions: {why_nothing}"
        return Finding(OFF_POLICY, Verdict.UNKNOWN, said, {"effective": 0.0}, inputs)
    if portfolio_as_json(candidate.portfolio) != portfolio_as_json(incumbent.portfolio):
        said = "the candidate blends other rules than the incumbent: what the log shows of answers tells nothing of its own"
        return Finding(OFF_POLICY, Verdict.UNKNOWN, said, {"effective": 0.0}, inputs)
    steps = steps_of(logged, log_std, incumbent, candidate)
    found = estimate(steps)
    figures = figures_of(found)
    if found.effective < LEAST_EFFECTIVE:
        said = (
            f"effective sample size {found.effective:.1f} of {found.steps} steps, wanted at least {LEAST_EFFECTIVE:g}"
        )
        return Finding(OFF_POLICY, Verdict.UNKNOWN, said, figures, inputs)
    slack = SLACK * found.scale
    said = f"gain a step {told(found.gain)}, effective sample size {found.effective:.0f}"
    if found.gain.high < 0.0:
        return Finding(OFF_POLICY, Verdict.FAIL, f"worse on the log: {said}", figures, inputs)
    if found.gain.low > -slack:
        return Finding(OFF_POLICY, Verdict.PASS, f"not worse on the log: {said}", figures, inputs)
    return Finding(OFF_POLICY, Verdict.UNKNOWN, f"{said}, wanted known above {-slack:.4f}", figures, inputs)


def figures_of(found: Estimate) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "gain": found.gain.as_json(),
        "gain_by_weights_alone": found.weighted.as_json(),
        "effective": found.effective,
        "steps": found.steps,
        "steps_without_exploration": found.deterministic,
        "weights_cut_frac": found.cut_frac,
        "returns_deviation": found.scale,
    }


def steps_of(logged: LoggedSteps, log_std: FloatArray, incumbent: Checkpoint, candidate: Checkpoint) -> Steps:
    """The logged steps with what both networks answer there.

    A step's noise may have been held over some ticks: then it is one draw, and its density is that of one.
    """
    seen, layout = np.asarray(logged.seen, dtype=np.float32), SpaceLayout()
    theirs = answers(incumbent, seen)
    # At work the candidate is told its own price of a miss.
    own = answers(candidate, at_price(seen, np.full(len(seen), candidate.miss_price), layout))
    # Its own head-room is as much more of the output that bends it.
    of_class = layout.action_sizes[0]
    own[:, :of_class:CLASS_OUTPUTS] += np.log(candidate.headroom / incumbent.headroom) / HEADROOM_BEND
    actions = np.asarray(logged.actions, dtype=np.float64)
    live = np.isfinite(log_std)
    noise = np.where(live, actions - theirs, 0.0)
    shift = np.where(live, own - theirs, 0.0)
    std = np.exp(np.where(live, log_std, 0.0))
    ratio = 0.5 * (np.where(live, noise**2 - (noise - shift) ** 2, 0.0) / std**2).sum(axis=1)
    follows: BoolArray = np.asarray(logged.follows, dtype=np.bool_)
    return Steps(
        returns=returns_of(np.asarray(logged.rewards, dtype=np.float64), follows, HORIZON),
        features=_varying(seen),
        noise=noise[:, live.any(axis=0)],
        shift=shift[:, live.any(axis=0)],
        log_ratio=np.where(logged.explored, ratio, np.nan),
        block=blocks_of(follows, BLOCK),
    )


def answers(checkpoint: Checkpoint, seen: NDArray[np.float32], layout: SpaceLayout | None = None) -> FloatArray:
    """`[S, A]` what a network answers to flat observations `[S, N]`, in the order of the layout's actions."""
    own = layout or SpaceLayout()
    parts = dict(zip(INPUTS, own.parts(seen), strict=True))
    asked = {name: np.ascontiguousarray(part, dtype=np.float32) for name, part in parts.items()}
    outputs = network_session(checkpoint).run(OUTPUTS, asked)
    return np.concatenate([np.asarray(out, dtype=np.float64).reshape(len(seen), -1) for out in outputs], axis=1)


def _varying(seen: NDArray[np.float32], most: int = 24) -> FloatArray:
    """`[S, F]` the directions in which observations vary most: a model of some hundred columns fits a short log too well."""
    rows = seen[:, seen.std(axis=0) > 0].astype(np.float64)
    centred = rows - rows.mean(axis=0)
    n = min(most, max(len(seen) // 20, 1))
    _, directions = np.linalg.eigh(centred.T @ centred)
    varying: FloatArray = centred @ directions[:, ::-1][:, :n]
    return varying
