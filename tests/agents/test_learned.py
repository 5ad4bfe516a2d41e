"""The sidecar's policy: an untrained network is the rule, and every decision can be computed again."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from poolpilot.agents.checkpoint import CARD as CARD_FILE
from poolpilot.agents.checkpoint import ONNX, CheckpointError, load_checkpoint, write_card
from poolpilot.agents.learned import LearnedPolicy, learned_policy
from poolpilot.agents.portfolio import make_rule, portfolio_of
from poolpilot.agents.rules import Rule
from poolpilot.env.contract import Cluster, Memory
from poolpilot.env.wire import memory_from_json, memory_to_json
from poolpilot.tests.env.clusters import Situation, a_cluster, a_plan, a_snapshot, row, same

from .ppo.networks import CARD, a_folder, a_network


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_folder(tmp_path_factory.mktemp("neutral"))


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_folder(tmp_path_factory.mktemp("lively"), a_network())


def day(seed: int, b: int = 1, c: int = 2, p: int = 3, ticks: int = 6) -> list[Situation]:
    """Some ticks of one batch of clusters."""
    rng = np.random.default_rng(seed)
    cluster = a_cluster(rng, b, c, p)
    plan = a_plan(rng, cluster)
    return [
        Situation(cluster, plan, replace(a_snapshot(rng, cluster), time_s=np.full(b, 10.0 * tick)))
        for tick in range(ticks)
    ]


def policy(folder: Path, at: Situation, **settings: float) -> LearnedPolicy:
    return learned_policy(load_checkpoint(folder), at.cluster, make_rule, **settings)


def first_rule(cluster: Cluster) -> Rule:
    """The one that a neutral network follows."""
    first = portfolio_of()[0]
    return make_rule(first.rule, first.knobs)(cluster)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 2)], ids=str)
def test_a_neutral_network_is_the_rule_through_a_real_export(neutral: Path, shape: tuple[int, int]) -> None:
    ticks = [row(at, 0) for at in day(0, 1, *shape)]
    rule, learned = first_rule(ticks[0].cluster), policy(neutral, ticks[0])
    own: Memory = {}
    memory: Memory = {}
    for at in ticks:
        expected, own = rule.decide(at.snapshot, at.plan, own)
        action, memory = learned.decide(at.snapshot, at.plan, memory)
        assert same(action, expected)


def test_a_trained_network_bends_the_rule(lively: Path) -> None:
    at = row(day(1)[0], 0)
    expected, _ = first_rule(at.cluster).decide(at.snapshot, at.plan, {})
    action, _ = policy(lively, at).decide(at.snapshot, at.plan, {})
    differs = [f.name for f in fields(action) if not same(getattr(action, f.name), getattr(expected, f.name))]
    assert "route" in differs


@pytest.mark.parametrize("seed", range(3))
def test_a_logged_decision_is_computed_again_bit_for_bit(lively: Path, seed: int) -> None:
    ticks = [row(at, 0) for at in day(seed)]
    learned = policy(lively, ticks[0])
    memory: Memory = {}
    for at in ticks:
        logged = json.dumps(memory_to_json(memory), allow_nan=False)
        action, after = learned.decide(at.snapshot, at.plan, memory)
        again, after_again = policy(lively, at).decide(at.snapshot, at.plan, memory_from_json(json.loads(logged)))
        assert same(again, action)
        assert after.keys() == after_again.keys()
        assert all(same(after[name], after_again[name]) for name in after)
        memory = after


def test_a_batch_is_decided_as_each_cluster_alone(lively: Path) -> None:
    ticks = day(2, b=3)
    together, alone = policy(lively, ticks[0]), [policy(lively, row(ticks[0], b)) for b in range(3)]
    memory: Memory = {}
    memories: list[Memory] = [{}, {}, {}]
    for at in ticks:
        action, memory = together.decide(at.snapshot, at.plan, memory)
        for b in range(3):
            mine, memories[b] = alone[b].decide(row(at.snapshot, b), row(at.plan, b), memories[b])
            for f in fields(mine):
                assert np.allclose(getattr(mine, f.name), getattr(action, f.name)[b], atol=1e-5, equal_nan=True), f.name


def test_the_price_of_a_miss_is_the_cards_unless_asked_otherwise(lively: Path) -> None:
    at = row(day(3)[0], 0)
    assert policy(lively, at).miss_price == CARD["miss_price"]
    dearer = policy(lively, at, miss_price=3.0)
    assert dearer.miss_price == 3.0
    plain = policy(lively, at).decide(at.snapshot, at.plan, {})[0]
    assert not same(dearer.decide(at.snapshot, at.plan, {})[0].route, plain.route)


def test_head_room_multiplies_the_need_of_what_is_blended_and_nothing_else(lively: Path) -> None:
    at = row(day(3, p=4)[0], 0)
    plain = policy(lively, at).decide(at.snapshot, at.plan, {})[0]
    roomy = policy(lively, at, headroom=2.0).decide(at.snapshot, at.plan, {})[0]
    lean = policy(lively, at, headroom=0.5).decide(at.snapshot, at.plan, {})[0]
    assert (lean.replicas <= plain.replicas).all()
    assert (plain.replicas <= roomy.replicas).all()
    assert lean.replicas.sum() < roomy.replicas.sum()
    assert same(roomy.route, plain.route)
    assert same(roomy.batch_cap, plain.batch_cap)


def test_it_says_who_it_is(lively: Path) -> None:
    at = row(day(3)[0], 0)
    checkpoint = load_checkpoint(lively)
    assert (policy(lively, at).name, policy(lively, at).policy_hash) == ("untrained", checkpoint.policy_hash)


def test_a_network_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / ONNX).write_bytes(b"no network")
    write_card(tmp_path, CARD)
    with pytest.raises(CheckpointError, match=rf"{ONNX}: ONNX Runtime cannot load it"):
        policy(tmp_path, row(day(0)[0], 0))


def test_a_network_with_other_outputs_is_refused(neutral: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(neutral, tmp_path / "copy"))
    network = onnx.load(str(folder / ONNX))
    del network.graph.output[2]
    onnx.save(network, str(folder / ONNX))
    write_card(folder, CARD)
    with pytest.raises(CheckpointError, match=rf"{ONNX}: outputs \['class_output', 'pool_output'\], wanted"):
        policy(folder, row(day(0)[0], 0))


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ({"rule": "wishful-thinking", "knobs": {}}, r"portfolio\[2\]: .*wishful-thinking"),
        ({"rule": "plan-tracking", "knobs": {"courage": 1.0}}, r"portfolio\[2\]: plan-tracking: no knob 'courage'"),
    ],
    ids=["rule", "knob"],
)
def test_a_card_with_unknown_rules_or_knobs_is_refused_in_one_line(
    neutral: Path, tmp_path: Path, member: dict[str, object], said: str
) -> None:
    folder = Path(shutil.copytree(neutral, tmp_path / "copy"))
    portfolio = list(CARD["portfolio"])
    portfolio[2] = member
    write_card(folder, {**CARD, "portfolio": portfolio})
    with pytest.raises(CheckpointError, match=rf"{CARD_FILE}: {said}") as caught:
        policy(folder, row(day(0)[0], 0))
    assert "\n" not in str(caught.value)


def test_rules_that_are_tuned_anew_do_not_change_what_a_checkpoint_blends(neutral: Path, tmp_path: Path) -> None:
    """The card's knobs count, not those that a rule has by itself."""
    folder = Path(shutil.copytree(neutral, tmp_path / "copy"))
    roomy = {"rule": "plan-tracking", "knobs": {"headroom": 5.0}}
    write_card(folder, {**CARD, "portfolio": [roomy, *CARD["portfolio"][1:]]})
    differs = False
    for at in day(4, 1, 2, 3):
        alone = row(at, 0)
        expected, _ = make_rule("plan-tracking", roomy["knobs"])(alone.cluster).decide(alone.snapshot, alone.plan, {})
        assert same(policy(folder, alone).decide(alone.snapshot, alone.plan, {})[0], expected)
        differs |= not same(policy(neutral, alone).decide(alone.snapshot, alone.plan, {})[0], expected)
    assert differs
