"""A spoilt checkpoint beside the sidecar: its words at every decision, and the policy as soon as it can be had."""

import numpy as np

from poolpilot.agents.checkpoint import CheckpointError
from poolpilot.agents.portfolio import PolicyFactory, policy_factory
from poolpilot.controller.deciding import Minds, propose
from poolpilot.controller.reloading import Reloading
from poolpilot.env.contract import ReasonCode

from .ticks import Careful, a_plan, a_sitting, a_snapshot


def test_the_fallback_decides_until_the_files_are_whole() -> None:
    cluster = a_sitting().cluster
    whole = [False]

    def load() -> PolicyFactory:
        if not whole[0]:
            raise CheckpointError("policy.onnx: cut short")
        return policy_factory("plan-tracking")

    policy, fallback, minds = Reloading("mine", load, cluster), Careful(cluster), Minds(policy={}, fallback={})
    snapshot = a_snapshot(cluster, 10.0, np.random.default_rng(0))
    spoilt, minds = propose(policy, fallback, snapshot, a_plan(cluster), minds)
    assert spoilt.policy_name == "careful"
    assert spoilt.trouble is not None
    assert spoilt.trouble.code is ReasonCode.POLICY_ERROR
    assert spoilt.trouble.detail == "CheckpointError: policy.onnx: cut short"
    assert (policy.name, policy.policy_hash) == ("mine", "")
    whole[0] = True
    mended, _ = propose(policy, fallback, snapshot, a_plan(cluster), minds)
    assert (mended.policy_name, mended.trouble) == ("plan-tracking", None)


def test_what_was_loaded_once_is_kept() -> None:
    cluster = a_sitting().cluster
    loads = []

    def load() -> PolicyFactory:
        loads.append(1)
        return policy_factory("plan-tracking")

    policy, snapshot = Reloading("mine", load, cluster), a_snapshot(cluster, 10.0, np.random.default_rng(0))
    for _ in range(3):
        policy.decide(snapshot, a_plan(cluster), {})
    assert loads == [1]
