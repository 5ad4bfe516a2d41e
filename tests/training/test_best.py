"""The choice of a checkpoint and of its price of a miss."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.blend import Member
from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.agents.portfolio import policy_factory
from poolpilot.env.scenario import load_scenario
from poolpilot.training.best import CHOOSING_PRICES, BestCheckpoint
from poolpilot.training.config import TrainConfig
from poolpilot.training.criterion import HELD, Outcome, loss
from poolpilot.training.days import CHOOSING_SEED
from poolpilot.training.judging import Judge, PricedFactory
from poolpilot.training.learner import LearnerPolicy
from poolpilot.training.ppo import new_model, policy_of
from poolpilot.training.setting import training_env, training_sources
from poolpilot.training.vec_env import ClusterVecEnv

from .clusters import tiny


class MadeUp(Judge):
    """Outcomes by price, whoever is asked; a policy is as good as `gain`."""

    def __init__(self) -> None:
        self.names, self.gain, self.asked = ("made up",), 0.0, []  # type: list[list[float]]
        self.days = []

    def by_scenario(self, make: PricedFactory, miss_prices: list[float]) -> list[list[Outcome]]:  # type: ignore[override]
        self.asked.append(list(miss_prices))
        return [[Outcome(1.0 + 0.1 * p - self.gain, 0.0 if p >= 0.5 else 0.02)] for p in miss_prices]


@pytest.fixture
def policy(tmp_path: Path) -> LearnerPolicy:
    config = a_config(tmp_path)
    return policy_of(new_model(config, ClusterVecEnv(training_env(config, training_sources(config)))))


def a_config(folder: Path) -> TrainConfig:
    return TrainConfig(scenarios=(str(tiny(folder)),), clusters=2, steps_per_update=2, width=8, bank=4)


def test_a_better_policy_takes_the_place_of_the_best_and_a_worse_one_does_not(
    tmp_path: Path, policy: LearnerPolicy
) -> None:
    judge = MadeUp()
    keeper = BestCheckpoint(tmp_path / "run", "made", judge, a_config(tmp_path))
    first = keeper(policy, 100)
    judge.gain = -0.2
    assert keeper(policy, 200) > first
    assert (keeper.best_steps, keeper.best_loss) == (100, first)
    judge.gain = 0.3
    assert keeper(policy, 300) < first
    assert load_checkpoint(keeper.checkpoint).card["steps"] == keeper.best_steps == 300
    history = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    assert [entry["steps"] for entry in history] == [100, 200, 300]
    assert all(entry["neutral_loss"] == loss(Outcome(1.1, 0.0)) for entry in history)


def test_a_policy_is_as_good_as_at_its_best_price(tmp_path: Path, policy: LearnerPolicy) -> None:
    judge = MadeUp()
    keeper = BestCheckpoint(tmp_path / "run", "made", judge, a_config(tmp_path))
    assert keeper(policy, 0) == pytest.approx(1.0 + 0.1 * 1.2)  # the only one that holds
    assert judge.asked[-1] == list(CHOOSING_PRICES)
    assert load_checkpoint(keeper.checkpoint).card["miss_price"] == 1.2


def test_the_card_gets_the_price_that_holds_and_the_frontier(tmp_path: Path, policy: LearnerPolicy) -> None:
    keeper = BestCheckpoint(tmp_path / "run", "made", MadeUp(), a_config(tmp_path))
    keeper(policy, 100)
    settled = keeper.settle(policy, halvings=5)
    card = load_checkpoint(keeper.checkpoint).card
    assert card["miss_price"] == settled.chosen.miss_price
    assert 0.5 <= card["miss_price"] < 0.52
    assert card["frontier"]["monotone"] is True
    held = {point["miss_price"]: point["held"] for point in card["frontier"]["points"]}
    assert all(held[price] == (price >= 0.5) for price in held)
    assert HELD < 0.02


def test_the_head_room_whose_answer_is_cheapest_goes_on_the_card(tmp_path: Path, policy: LearnerPolicy) -> None:
    class Roomy(MadeUp):
        """Half the head-room is half the bill, and misses; what counts is the least loss."""

        def by_scenario(self, make: PricedFactory, miss_prices: list[float]) -> list[list[Outcome]]:  # type: ignore[override]
            own = make(load_scenario(str(tiny(tmp_path))).cluster(), np.ones(())).bending.headroom  # type: ignore[attr-defined]
            return [[Outcome(own, 0.0 if own >= 0.8 else 0.1)] for _ in miss_prices]

    keeper = BestCheckpoint(tmp_path / "run", "made", MadeUp(), a_config(tmp_path))
    keeper(policy, 100)
    settled = keeper.settle(policy, halvings=0, headrooms=(0.5, 0.8, 1.0), judge=Roomy())
    checkpoint = load_checkpoint(keeper.checkpoint)
    assert settled.headroom == checkpoint.headroom == 0.8
    assert [entry["headroom"] for entry in checkpoint.card["settled_among"]] == [0.5, 0.8, 1.0]
    cluster = load_scenario(str(tiny(tmp_path))).cluster()
    wider = policy_factory(str(keeper.checkpoint), headroom=1.5)(cluster)
    assert wider.bending.headroom == pytest.approx(0.8 * 1.5)  # type: ignore[attr-defined]


def test_best_weights_are_settled_not_the_last(tmp_path: Path, policy: LearnerPolicy) -> None:
    judge = MadeUp()
    keeper = BestCheckpoint(tmp_path / "run", "made", judge, a_config(tmp_path))
    keeper(policy, 100)
    best = {name: value.clone() for name, value in policy.network.state_dict().items()}
    judge.gain = -1.0
    for parameter in policy.network.parameters():
        parameter.data.add_(1.0)
    keeper(policy, 200)
    keeper.settle(policy, prices=(0.5, 1.0), halvings=0)
    assert all((value == best[name]).all() for name, value in policy.network.state_dict().items())


def test_a_policy_that_answers_zeros_is_the_first_rule(tmp_path: Path, policy: LearnerPolicy) -> None:
    """To the last cent, on the same days, whatever the price."""
    for parameter in policy.network.parameters():
        parameter.data.zero_()
    judge = Judge([load_scenario(str(tiny(tmp_path)))], CHOOSING_SEED, 2)
    keeper = BestCheckpoint(tmp_path / "run", "zeros", judge, a_config(tmp_path))
    outcomes = judge.by_price(keeper.making(policy), [0.1, 1.0])
    assert outcomes == [keeper.neutral, keeper.neutral]


def test_another_portfolio_is_another_neutral_policy(tmp_path: Path) -> None:
    judge = Judge([load_scenario(str(tiny(tmp_path)))], CHOOSING_SEED, 2)
    config = a_config(tmp_path)
    lavish = tuple(
        Member(m.rule, {**m.knobs, "headroom": 3.0}) if k == 0 else m for k, m in enumerate(config.portfolio)
    )
    plain = BestCheckpoint(tmp_path / "a", "a", judge, config).neutral
    dear = BestCheckpoint(tmp_path / "b", "b", judge, replace(config, portfolio=lavish)).neutral
    assert dear.bill_ratio > plain.bill_ratio
    assert np.isfinite(dear.shortfall)
