"""Training learns: on a scenario whose rule carries far too much head-room, the bill falls and the targets hold."""

from pathlib import Path

import pytest

from poolpilot.agents.blend import Member
from poolpilot.env.scenario import load_scenario
from poolpilot.training.best import BestCheckpoint
from poolpilot.training.config import TrainConfig
from poolpilot.training.criterion import HELD, loss
from poolpilot.training.judging import Judge
from poolpilot.training.ppo import train

LAVISH = """\
schema: 1
name: lavish
summary: A steady load on a pool that has plenty of room.
duration_s: 200
tick_s: 10
model: qwen2.5-0.5b
pools:
  cheap:
    gpu: L40S-48GB
    precision: bf16
    price: {usd_per_hr: 1.861}
    replicas: {min: 1, max: 20, start: 6}
    engine: {max_num_seqs: 4}
    cold_start: {provision_s: 5, load_s: 5}
classes:
  chat:
    target: {ttft_s: 2.0, tpot_s: 0.08, attainment: 0.9}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 8.0
      prompt_tokens: {kind: lognormal, median: 200, sigma: 0.5, max: 1000}
      output_tokens: {kind: lognormal, median: 200, sigma: 0.4, max: 500}
"""
RULE = Member("plan-tracking", {"headroom": 2.0, "burst": 1.0, "hold_s": 60.0})


def test_training_improves_over_its_start(tmp_path: Path) -> None:
    (tmp_path / "lavish.yaml").write_text(LAVISH)
    scenario = load_scenario(str(tmp_path / "lavish.yaml"))
    config = TrainConfig(
        scenarios=(str(tmp_path / "lavish.yaml"),),
        portfolio=(RULE, RULE, RULE, RULE),
        steps=16 * 16 * 22,
        seed=0,
        clusters=16,
        steps_per_update=16,
        batch_size=128,
        learning_rate=2e-3,
        gamma=0.9,
        width=16,
        bank=32,
        evaluate_every=1_000_000,
    )
    keeper = BestCheckpoint(tmp_path / "run", "lavish", Judge([scenario], 0, 4), config)
    train(config, tmp_path / "run", False, lambda *_: None, keeper)
    first, last = keeper.history[0], keeper.history[-1]
    assert first["loss"] == pytest.approx(loss(keeper.neutral), rel=0.05), (
        "it starts as the rule, give or take a replica"
    )
    assert last["bill_ratio"] < 0.93 * first["bill_ratio"]
    assert last["shortfall"] <= HELD
    assert last["loss"] < first["loss"]
