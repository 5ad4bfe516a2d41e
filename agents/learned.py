"""The learned policy as the sidecar runs it: rules' proposals, blended and bent by a network in ONNX Runtime.

No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnxruntime

from ..env.bending import Bending
from ..env.codec import Observation, Outputs
from ..env.contract import Action, Answer, Cluster, FloatArray, Memory, Plan, Snapshot
from .blend import MakeRule, PortfolioError, rules_of
from .checkpoint import CARD, ONNX, Checkpoint, CheckpointError
from .exploring import DRAWN, SPREAD, log_probability, noise_in, without_noise
from .ranges import CARD_FIELD, Ranges, RangesError, ranges_from_json

INPUTS: Final = ("classes", "pools", "whole", "class_mask", "pool_mask")
"""Of the network, as the parts of an `Observation` are called."""
OUTPUTS: Final = ("class_output", "pool_output", "whole_output")
"""Of the network, in the order of the parts of `Outputs`."""


@dataclass(frozen=True)
class LearnedPolicy:
    """A checkpoint at work on one cluster."""

    bending: Bending
    session: onnxruntime.InferenceSession = field(repr=False)
    miss_price: float
    name: str
    policy_hash: str
    ranges: Ranges | None = None
    """Between what the features lay in training; None where its card does not tell."""
    watch: Callable[[Observation], None] | None = field(default=None, repr=False)
    """Told what the network sees at every decision."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The bent blend. A network output that is not finite is passed on: the guard refuses it, loudly."""
        action, memory, _ = self.decide_with_answer(snapshot, plan, memory)
        return action, memory

    def decide_with_answer(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory, Answer]:
        """As `decide`, with the network's answer: deterministic, but for noise that the memory holds (`exploring`)."""
        noise = noise_in(memory)
        if noise is not None:
            spread, drawn, memory = float(memory[SPREAD]), bool(memory[DRAWN]), without_noise(memory)
        price = np.full(snapshot.time_s.shape, self.miss_price)
        look, memory = self.bending.look(snapshot, plan, memory, price)
        single = look.seen.whole.ndim == 1  # the network takes batches: one cluster is a batch of one
        rows = {name: getattr(look.seen, name).astype(np.float32) for name in INPUTS}
        answers = self.session.run(OUTPUTS, {name: row[None] if single else row for name, row in rows.items()})
        outputs = Outputs(*(_double(answer[0] if single else answer) for answer in answers))
        if self.watch is not None:
            self.watch(look.seen)
        density = math.nan
        if noise is not None:
            outputs = Outputs(outputs.classes + noise.classes, outputs.pools + noise.pools, outputs.whole + noise.whole)
            if drawn:
                density = log_probability(noise, spread, self.bending.cluster)
        outside, features = self.ranges.outside(look.seen) if self.ranges and single else (math.nan, ())
        answer = Answer(outputs.classes, outputs.pools, outputs.whole, density, outside, features)
        return self.bending.act(outputs, look), memory, answer


def learned_policies(
    checkpoint: Checkpoint, make_rule: MakeRule, miss_price: float | None = None, headroom: float = 1.0
) -> Callable[[Cluster], LearnedPolicy]:
    """What sets a checkpoint to work on a cluster, or on a batch of clusters.

    Args:
        make_rule: makes the rules of the checkpoint's portfolio.
        miss_price: what it should act by instead of its card's.
        headroom: times that of its card.

    Raises:
        CheckpointError: the network cannot be loaded, or does not have the inputs and outputs of the codec, or there is
            no rule or knob that its card names.
    """
    session = network_session(checkpoint)
    try:
        make_rules = rules_of(checkpoint.portfolio, make_rule)
        told = checkpoint.card.get(CARD_FIELD)
        ranges = None if told is None else ranges_from_json(told)
    except (PortfolioError, RangesError) as error:
        raise CheckpointError(f"{checkpoint.folder / CARD}: {error}") from None
    return lambda cluster: LearnedPolicy(
        bending=Bending(cluster, make_rules(cluster), checkpoint.headroom * headroom),
        session=session,
        miss_price=checkpoint.miss_price if miss_price is None else miss_price,
        name=checkpoint.name,
        policy_hash=checkpoint.policy_hash,
        ranges=ranges,
    )


def learned_policy(
    checkpoint: Checkpoint,
    cluster: Cluster,
    make_rule: MakeRule,
    miss_price: float | None = None,
    headroom: float = 1.0,
) -> LearnedPolicy:
    """A checkpoint on one cluster, or on one batch of clusters; see `learned_policies`."""
    return learned_policies(checkpoint, make_rule, miss_price, headroom)(cluster)


def network_session(checkpoint: Checkpoint) -> onnxruntime.InferenceSession:
    """The network of a checkpoint, ready to be asked.

    Raises:
        CheckpointError: it cannot be loaded, or does not have the inputs and outputs of the codec.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the network is tiny; threads only add jitter
    options.log_severity_level = 3
    path = checkpoint.folder / ONNX
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # onnxruntime's own exception types share no public base
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:200]}") from None
    for kind, wanted, items in (("inputs", INPUTS, session.get_inputs()), ("outputs", OUTPUTS, session.get_outputs())):
        seen = sorted(item.name for item in items)
        if seen != sorted(wanted):
            raise CheckpointError(f"{path}: {kind} {seen}, wanted {sorted(wanted)}")
    return session


def _double(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
