"""The learned policy as the sidecar runs it: a rule's proposal, bent by a network in ONNX Runtime. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime

from ..env.bending import Bending
from ..env.codec import Proposer
from ..env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from .checkpoint import ONNX, Checkpoint, CheckpointError


@dataclass(frozen=True)
class LearnedPolicy:
    """A checkpoint at work on one cluster."""

    bending: Bending
    session: onnxruntime.InferenceSession = field(repr=False)
    miss_price: float
    name: str
    policy_hash: str

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The bent proposal. A network output that is not finite is passed on: the guard refuses it, loudly."""
        price = np.full(snapshot.time_s.shape, self.miss_price)
        seen, proposal, memory = self.bending.look(snapshot, plan, memory, price)
        inputs = {
            "classes": seen.classes,
            "pools": seen.pools,
            "whole": seen.whole,
            "class_mask": seen.class_mask,
            "pool_mask": seen.pool_mask,
        }
        single = seen.whole.ndim == 1  # the network takes batches: one cluster is a batch of one
        rows = {name: value[None] if single else value for name, value in inputs.items()}
        outputs = self.session.run(None, {name: value.astype(np.float32) for name, value in rows.items()})
        class_output, pool_output = (_double(output[0] if single else output) for output in outputs)
        action = self.bending.act(class_output, pool_output, proposal)
        return action, memory


def learned_policy(
    checkpoint: Checkpoint, cluster: Cluster, rule: Proposer, miss_price: float | None = None
) -> LearnedPolicy:
    """A checkpoint on a cluster; `rule` is the proposer that it was trained to bend.

    Raises:
        CheckpointError: the network cannot be loaded or does not have the inputs that the codec makes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the network is tiny; threads only add jitter
    options.log_severity_level = 3
    path = checkpoint.folder / ONNX
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # onnxruntime's own exception types share no public base
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {str(error)[:200]}") from None
    wanted = {"classes", "pools", "whole", "class_mask", "pool_mask"}
    seen = {item.name for item in session.get_inputs()}
    if seen != wanted:
        raise CheckpointError(f"{path}: inputs {sorted(seen)}, wanted {sorted(wanted)}")
    return LearnedPolicy(
        bending=Bending(cluster, rule),
        session=session,
        miss_price=checkpoint.miss_price if miss_price is None else miss_price,
        name=checkpoint.name,
        policy_hash=checkpoint.policy_hash,
    )


def _double(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
