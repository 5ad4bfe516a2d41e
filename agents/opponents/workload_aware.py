"""Cheap GPUs for short and simple requests, premium GPUs for long ones; greedy, class by class.

Source: workload-aware serving on unlike GPUs: which GPU is the most cost-efficient depends on the size of requests,
small ones belonging on low-end and large ones on high-end GPUs (Melange, arXiv:2404.14527, section 4; "Demystifying
Cost-Efficiency in LLM Serving over Heterogeneous GPUs", arXiv:2502.00722). Their programs assign sizes by measured
profiles; the rule that operators make of it is this one.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.codec import Proposal
from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec
from .parts.figures import Pools, over
from .parts.filling import usd_per_request
from .parts.sizing import Sizing, proposal_by_rate

OUTPUT_WEIGHT = 4.0
"""A token of the answer counts as so many of the prompt: each takes an iteration of its own, and price lists of model
APIs ask three to five times as much for it."""
SPAN = 16.0
"""From this much longer than the boundary between short and long, or shorter, a class is as long or short as can be."""


@dataclass(frozen=True)
class WorkloadAware:
    """The rule and its knobs."""

    cluster: Cluster
    headroom: float = 1.2
    """Need is load times this."""
    burst: float = 0.3
    """Plus this times the square root of the load in replicas."""
    hold_s: float = 120.0
    """A load that has passed fades over about this long before replicas go."""
    long_tokens: float = 2000.0
    """Prompt tokens, with those of the answer weighed in, from which a class belongs rather on premium than on cheap GPUs."""
    strictness: float = 1.0
    """A class on the wrong end counts as exp(this) times as dear there."""
    spot_aversion: float = 0.1
    """A spot machine counts as this much dearer than it is: 0.5 by a half."""
    name: str = "workload-aware"
    follows_plan: ClassVar[bool] = True
    """Of the plan it takes what a replica can carry, which changes with the length of requests."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Counts and weights from loads on the pools that suit their lengths."""
        sizing = Sizing(self.headroom, self.burst, self.hold_s)
        return proposal_by_rate(sizing, self._costs, snapshot, plan, self.cluster, memory)

    def _costs(self, snapshot: Snapshot, load: FloatArray, capacity: FloatArray, pools: Pools) -> FloatArray:
        """`[..., C, P]` cost of the work, times what the mismatch of length and grade of the GPU adds."""
        cost = usd_per_request(load, capacity, pools, self.cluster, self.spot_aversion)
        mismatch = np.abs(self._grade(capacity) - self._length(snapshot)[..., None])
        return np.where(np.isfinite(cost), cost * np.exp(self.strictness * mismatch), np.inf)

    def _length(self, snapshot: Snapshot) -> FloatArray:
        """`[..., C]` from 0, as short as can be, to 1; a half where unknown."""
        prompt = snapshot.plausible("prompt_tokens_mean", np.nan)
        size = prompt + OUTPUT_WEIGHT * snapshot.plausible("output_tokens_mean", np.nan)
        size = np.where(np.isnan(size), self.long_tokens, size)
        above = np.log(np.maximum(size, 1.0) / max(self.long_tokens, 1.0))
        length: FloatArray = np.clip(0.5 + above / (2.0 * np.log(SPAN)), 0.0, 1.0)
        return length

    def _grade(self, capacity: FloatArray) -> FloatArray:
        """`[..., C, P]` from 0, the cheapest replica that serves the class by base price, to 1, the dearest; a half
        where there is one only."""
        price = np.log(np.maximum(self.cluster.usd_per_hr, 1e-6))[..., None, :]
        low = np.where(capacity > 0, price, np.inf).min(axis=-1, keepdims=True)
        high = np.where(capacity > 0, price, -np.inf).max(axis=-1, keepdims=True)
        served = (capacity > 0) & (high > low)
        above = np.where(served, price - np.where(np.isfinite(low), low, 0.0), 0.0)
        return np.where(served, over(above, np.where(served, high - low, 1.0)), 0.5)


def _made(cluster: Cluster, knobs: Knobs) -> WorkloadAware:
    return WorkloadAware(
        cluster,
        headroom=knobs["headroom"],
        burst=knobs["burst"],
        hold_s=knobs["hold_s"],
        long_tokens=knobs["long_tokens"],
        strictness=knobs["strictness"],
        spot_aversion=knobs["spot_aversion"],
    )


SPEC = RuleSpec(
    name="workload-aware",
    summary="Short classes on cheap GPUs, long ones on premium GPUs, as far as cost allows; sized to load, forecast and queue",
    source="Melange (arXiv:2404.14527); Demystifying Cost-Efficiency in LLM Serving over Heterogeneous GPUs (arXiv:2502.00722)",
    make=_made,
    knobs=(
        Knob("headroom", 1.2, 0.9, 2.0, "need is load times this", log=True),
        Knob("burst", 0.3, 0.0, 1.2, "plus this times the square root of the load in replicas"),
        Knob("hold_s", 120.0, 20.0, 900.0, "a load that has passed fades over about this long", log=True),
        Knob(
            "long_tokens",
            2000.0,
            300.0,
            10000.0,
            "prompt tokens plus four for each of the answer: long from here",
            log=True,
        ),
        Knob("strictness", 1.0, 0.3, 3.0, "a class on the wrong end counts as exp(this) times as dear"),
        Knob("spot_aversion", 0.1, 0.0, 2.0, "a spot machine counts as this much dearer than it is"),
    ),
    headroom="headroom",
)
