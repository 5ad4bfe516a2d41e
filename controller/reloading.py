"""A policy whose files cannot be used: it says so whenever it is asked, until they can."""

from __future__ import annotations

from collections.abc import Callable

from ..agents.answering import decide_with_answer
from ..agents.portfolio import PolicyFactory
from ..env.contract import Action, Answer, Cluster, Memory, Plan, Policy, Snapshot


class Reloading:
    """Tries to load a policy at every decision until that succeeds; meanwhile `decide` raises what the loader raised.

    So a sidecar that comes up beside a spoilt checkpoint decides by its fallback, says why, and takes up the policy when
    its files are whole.
    """

    def __init__(self, name: str, load: Callable[[], PolicyFactory], cluster: Cluster) -> None:
        """`load` raises a CheckpointError while the files cannot be used."""
        self._name, self._load, self._cluster = name, load, cluster
        self._policy: Policy | None = None

    @property
    def name(self) -> str:
        """The policy's own, once there is one."""
        return str(getattr(self._policy, "name", self._name))

    @property
    def policy_hash(self) -> str:
        """Of the policy; empty while there is none."""
        return str(getattr(self._policy, "policy_hash", ""))

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """What the policy decides.

        Raises:
            CheckpointError: its files still cannot be used.
        """
        action, memory, _ = self.decide_with_answer(snapshot, plan, memory)
        return action, memory

    def decide_with_answer(
        self, snapshot: Snapshot, plan: Plan, memory: Memory
    ) -> tuple[Action, Memory, Answer | None]:
        """As `decide`, with the policy's answer."""
        if self._policy is None:
            self._policy = self._load()(self._cluster)
        return decide_with_answer(self._policy, snapshot, plan, memory)
