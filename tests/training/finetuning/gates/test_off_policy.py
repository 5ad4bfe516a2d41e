"""The log's gate over real networks: what the noise showed to be worse is refused, and a log without noise says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.blend import portfolio_as_json
from poolpilot.agents.checkpoint import Checkpoint
from poolpilot.agents.registry import Verdict
from poolpilot.env.contract import FloatArray
from poolpilot.env.spaces import SpaceLayout
from poolpilot.training.finetuning.gates.off_policy import answers, off_policy_gate

from .judged import made

LAYOUT = SpaceLayout()
REPLICAS = LAYOUT.action_sizes[0]
"""Place of the first pool's replicas among the numbers of an action."""
STD = 0.2


@dataclass(frozen=True)
class Logged:
    seen: np.ndarray
    actions: np.ndarray
    explored: np.ndarray
    log_prob: FloatArray
    rewards: FloatArray
    follows: np.ndarray


def a_log(incumbent: Checkpoint, slope: float, n: int = 1500, explored: int = REPLICAS) -> tuple[Logged, FloatArray]:
    """An incumbent that explores one output, `explored`, which the reward follows with `slope`."""
    rng = np.random.default_rng(0)
    seen = rng.uniform(-1.0, 1.0, (n, sum(LAYOUT.sizes))).astype(np.float32)
    log_std = np.full((n, sum(LAYOUT.action_sizes)), np.nan)
    log_std[:, explored] = np.log(STD)
    noise = np.zeros(log_std.shape)
    noise[:, explored] = rng.normal(0.0, STD, n)
    rewards = slope * noise[:, explored] + 0.3 * seen[:, 0] + rng.normal(0.0, 0.3, n)
    follows = np.append(np.ones(n - 1, dtype=np.bool_), False)
    actions = (answers(incumbent, seen) + noise).astype(np.float32)
    return Logged(seen, actions, np.ones(n, dtype=np.bool_), np.zeros(n), rewards, follows), log_std


@pytest.mark.parametrize(
    ("slope", "verdict", "said"),
    [
        (2.0, Verdict.PASS, "not worse on the log: gain a step +"),
        (-2.0, Verdict.FAIL, "worse on the log: gain a step -"),
    ],
)
def test_what_the_noise_showed_decides(tmp_path: Path, slope: float, verdict: Verdict, said: str) -> None:
    incumbent, candidate = made(tmp_path, "old"), made(tmp_path, "new", pool_output=(0.1, 0.0, 0.0, 0.0))
    logged, log_std = a_log(incumbent, slope)
    found = off_policy_gate(logged, log_std, incumbent, candidate, {"log": "ab12"})
    assert (found.verdict, said in found.reason) == (verdict, True), found.reason
    assert found.figures["effective"] > 500
    assert found.inputs == {"log": "ab12"}


@pytest.mark.parametrize(
    ("card", "verdict"), [({"headroom": 1.1}, Verdict.FAIL), ({"headroom": 0.9}, Verdict.PASS)], ids=["more", "less"]
)
def test_a_head_room_of_the_card_is_a_bend_of_the_answer(
    tmp_path: Path, card: dict[str, object], verdict: Verdict
) -> None:
    incumbent, candidate = made(tmp_path, "old"), made(tmp_path, "new", card=card)
    logged, log_std = a_log(incumbent, -2.0, n=600, explored=0)
    found = off_policy_gate(logged, log_std, incumbent, candidate, {})
    assert found.verdict is verdict, found.reason
    assert 100.0 < found.figures["effective"] < len(logged.seen)


def test_the_log_tells_nothing_of_who_blends_other_rules(tmp_path: Path) -> None:
    incumbent = made(tmp_path, "old")
    portfolio = portfolio_as_json(tuple(reversed(incumbent.portfolio)))
    candidate = made(tmp_path, "new", card={"portfolio": portfolio})
    logged, log_std = a_log(incumbent, 2.0, n=200)
    found = off_policy_gate(logged, log_std, incumbent, candidate, {})
    assert (found.verdict, "blends other rules" in found.reason) == (Verdict.UNKNOWN, True)


def test_a_candidate_far_from_all_that_was_tried_cannot_be_told(tmp_path: Path) -> None:
    incumbent, candidate = made(tmp_path, "old"), made(tmp_path, "new", pool_output=(0.95, 0.0, 0.0, 0.0))
    logged, log_std = a_log(incumbent, 2.0, n=400)
    found = off_policy_gate(logged, log_std, incumbent, candidate, {})
    assert found.verdict is Verdict.UNKNOWN
    assert found.reason.startswith("effective sample size ")


def test_a_log_without_exploration_tells_nothing(tmp_path: Path) -> None:
    incumbent = made(tmp_path, "old")
    found = off_policy_gate(None, None, incumbent, incumbent, {}, "the incumbent decided without noise")
    assert found.verdict is Verdict.UNKNOWN
    assert found.reason == "the log tells nothing of other actions: the incumbent decided without noise"
