"""Runs of policies: nothing made up, nothing lost on the way to the sums, the same worlds for all."""

import json
from dataclasses import replace

import numpy as np
import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING, STATIC, policy_factory
from poolpilot.env.contract import BILL_LAYERS
from poolpilot.env.scenario import load_scenario
from poolpilot.env.window import ARRIVED, FINISHED, LOST, MET, MET_OUTPUT_SUM, OUTPUT_SUM, SHED
from poolpilot.training.rollout import RunResult, rollout
from poolpilot.training.worlds import Variation, episode_of, varied

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 180.0})
RULE = policy_factory(PLAN_TRACKING)


def runs(seeds: list[int], policy: str = PLAN_TRACKING, setting: tuple[float, ...] = ()) -> list[RunResult]:
    episodes = [episode_of(SCENARIO, seed, 1.0) for seed in seeds]
    return rollout(episodes, policy_factory(policy, setting), SCENARIO.tick_s)


def test_every_request_is_counted_where_it_ends() -> None:
    for seed, result in enumerate(runs([0, 1, 2])):
        arrived, finished = result.tally[:, ARRIVED], result.tally[:, FINISHED]
        ended = finished + result.tally[:, LOST] + result.tally[:, SHED]
        workload = episode_of(SCENARIO, seed, 1.0).world.workload
        sent = np.bincount(workload.class_index[workload.arrival_s < 180.0], minlength=3)
        np.testing.assert_array_equal(arrived, sent)
        assert (ended <= arrived).all()
        assert (result.tally[:, MET] <= finished).all()
        assert arrived.sum() > 100


def test_the_bill_is_the_sum_of_its_parts() -> None:
    (result,) = runs([3])
    row = result.row()
    assert result.bill.usd.shape == (3, 3, len(BILL_LAYERS))
    layers = sum(float(row[f"usd_{layer}"]) for layer in BILL_LAYERS)  # type: ignore[arg-type]
    assert layers == pytest.approx(float(result.bill.total_usd))
    assert result.usd_per_hr == pytest.approx(layers * 3600.0 / 180.0)
    assert layers > 0.0
    json.dumps(row, allow_nan=False)


def test_goodput_and_gpu_hours_are_of_what_was_met_and_rented() -> None:
    (result,) = runs([3])
    rent = sum(float(result.bill.layer_usd(layer)) for layer in ("compute", "software", "idle"))
    gpus = np.array([sum(draw.gpus for draw in own) for own in episode_of(SCENARIO, 3, 1.0).world.draws])
    assert float(result.gpu_hr / gpus @ SCENARIO.cluster().usd_per_hr) == pytest.approx(rent)
    row = result.totals()
    assert row["goodput_requests_per_s"] == pytest.approx(float(result.tally[:, MET].sum()) / 180.0)
    met_tokens = result.tally[:, MET_OUTPUT_SUM]
    assert row["goodput_tokens_per_s"] == pytest.approx(float(met_tokens.sum()) / 180.0)
    assert (met_tokens <= result.tally[:, OUTPUT_SUM]).all()
    assert float(met_tokens.sum()) > 0.0


def test_every_class_tells_its_counts_and_percentiles() -> None:
    (result,) = runs([3])
    flat = result.row()
    for c, own in enumerate(result.by_class()):
        assert own["met"] == result.tally[c, MET]
        assert own["wanted"] == result.attainment_wanted[c]
        assert own["attainment"] == flat[f"attainment_{own['name']}"]
        for label in ("ttft", "tpot", "e2e"):
            p50, p95, p99 = (own[f"{label}_{at}_s"] for at in ("p50", "p95", "p99"))
            assert 0.0 < float(p50) <= float(p95) <= float(p99)  # type: ignore[arg-type]
            assert flat[f"{label}_p99_s_{own['name']}"] == p99
        assert float(own["ttft_p50_s"]) <= float(own["e2e_p50_s"])  # type: ignore[arg-type]
    pools = result.by_pool()
    assert sum(float(own["usd"]) for own in pools) == pytest.approx(float(result.bill.total_usd))  # type: ignore[arg-type]
    assert [own["name"] for own in pools] == list(result.pool_names)
    json.dumps([result.by_class(), pools], allow_nan=False)


def test_the_share_of_calibrated_traffic_is_weighed_by_tokens() -> None:
    """On L4 and A10G nothing is calibrated, on L40S nearly everything is."""
    mixed = load_scenario("cheap-gpus").model_copy(update={"duration_s": 60.0})
    (result,) = rollout([episode_of(mixed, 0, 1.0)], policy_factory(PLAN_TRACKING), mixed.tick_s)
    row, (l4, a10g, l40s) = result.row(), result.tokens
    assert l40s > 0
    assert row["covered_frac"] == pytest.approx(float(result.covered_tokens[2]) / (l4 + a10g + l40s))
    assert float(row["covered_frac_l40s"]) > 0.9  # type: ignore[arg-type]
    assert row["covered_frac_l4"] == (0.0 if l4 else None)


def test_side_by_side_or_alone_makes_no_difference() -> None:
    together = runs([4, 5, 6])
    for seed, beside in zip([4, 5, 6], together, strict=True):
        (alone,) = runs([seed])
        np.testing.assert_array_equal(alone.tally, beside.tally)
        np.testing.assert_array_equal(alone.replicas, beside.replicas)
        np.testing.assert_allclose(alone.bill.usd, beside.bill.usd, rtol=1e-12)
        assert alone.vetoes == beside.vetoes


def test_policies_meet_the_same_requests() -> None:
    (one,), (other,) = runs([7]), runs([7], STATIC, (1.0, 2.0, 0.0))
    np.testing.assert_array_equal(one.tally[:, ARRIVED], other.tally[:, ARRIVED])
    assert float(one.bill.total_usd) != float(other.bill.total_usd)


def test_a_policy_that_serves_nobody_has_no_price_a_request() -> None:
    (result,) = runs([0])
    nothing = replace(result, tally=np.zeros_like(result.tally))
    assert np.isnan(nothing.usd_per_1000_met)
    assert nothing.row()["usd_per_1000_met"] is None
    assert np.isnan(nothing.attainment).all()
    assert nothing.worst_shortfall == 0.0
    json.dumps(nothing.row(), allow_nan=False)


def test_episodes_of_unlike_length_are_not_run_together() -> None:
    longer = SCENARIO.model_copy(update={"duration_s": 200.0})
    with pytest.raises(ValueError, match=r"\[180\.0, 200\.0\]"):
        rollout([episode_of(SCENARIO, 0, 1.0), episode_of(longer, 0, 1.0)], RULE, SCENARIO.tick_s)


@pytest.mark.parametrize("name", ["mixed-chat", "cheap-gpus", "old-and-new", "spot-storm", "two-models"])
def test_varied_worlds_are_of_the_same_kind_and_every_class_keeps_a_pool(name: str) -> None:
    scenario, spread = load_scenario(name), Variation()
    for seed in range(20):
        other = varied(scenario, spread, np.random.default_rng(seed))
        assert other.pool_names == scenario.pool_names
        assert other.class_names == scenario.class_names
        cluster = other.cluster()
        assert (cluster.serves & (cluster.max_replicas > 0)).any(axis=1).all()
        assert (cluster.min_replicas <= cluster.max_replicas).all()
        for before, after in zip(scenario.pools.values(), other.pools.values(), strict=True):
            assert abs(np.log(after.price.usd_per_hr / before.price.usd_per_hr)) <= spread.price + 1e-9
            assert after.replicas.min <= after.replicas.start <= after.replicas.max
    np.testing.assert_array_equal(
        varied(scenario, spread, np.random.default_rng(1)).cluster().usd_per_hr,
        varied(scenario, spread, np.random.default_rng(1)).cluster().usd_per_hr,
    )
