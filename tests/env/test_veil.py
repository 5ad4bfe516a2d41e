"""A veil takes away and blurs, and never makes anything up; whom it hides from does not change what is billed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.agents.opponents.static_round_robin import StaticRoundRobin
from poolpilot.env.contract import CLASS_COLUMNS, FORECAST_HORIZON_S, POOL_COLUMNS, Snapshot
from poolpilot.env.scenario import Scenario, ScenarioError, parse_scenario
from poolpilot.env.scenario.telemetry import LIVE_POOL_COLUMNS, MAX_DELAY_S, STACK_LACKS, Gap, Telemetry
from poolpilot.env.veil import Veil, VeilState, veil_of
from poolpilot.tests.training.clusters import TINY
from poolpilot.training.rollout import rollout
from poolpilot.training.worlds import episode_of

TICK_S, C, P = 10.0, 2, 3
CLASSES, POOLS = ("chat", "batch"), ("a", "b", "c")
LIVE = np.array([column.name in LIVE_POOL_COLUMNS for column in POOL_COLUMNS])
AGE = Snapshot.telemetry_age_s.index


def truths(seed: int, batch: int, ticks: int) -> list[Snapshot]:
    """What there is to see, tick after tick; some of it unknown."""
    rng = np.random.default_rng(seed)
    high = [np.array([min(column.high, 1e4) for column in columns]) for columns in (CLASS_COLUMNS, POOL_COLUMNS)]

    def some(*shape: int) -> np.ndarray:
        return np.where(rng.random(shape) < 0.1, np.nan, rng.uniform(0.1, 1.0, shape))

    return [
        Snapshot(
            time_s=np.full(batch, tick * TICK_S),
            classes=some(batch, C, len(CLASS_COLUMNS)) * high[0],
            pools=some(batch, P, len(POOL_COLUMNS)) * high[1],
            forecast_per_s=some(batch, C, len(FORECAST_HORIZON_S)),
        )
        for tick in range(ticks)
    ]


TELEMETRY = st.builds(
    Telemetry,
    delay_s=st.sampled_from([0.0, 7.0, 10.0, 35.0, MAX_DELAY_S]),
    noise_frac=st.sampled_from([0.0, 0.1, 0.5]),
    drop_frac=st.sampled_from([0.0, 0.2, 1.0]),
    lacks_frac=st.sampled_from([0.0, 0.5]),
    gaps=st.lists(
        st.builds(
            lambda at_s, pool: Gap(at_s=at_s, duration_s=25.0, pool=pool),
            st.floats(0.0, 60.0),
            st.sampled_from([None, "a", "c"]),
        ),
        max_size=2,
    ).map(tuple),
)


def a_veil(telemetry: Telemetry, seed: int = 1) -> Veil:
    return veil_of(telemetry, CLASSES, POOLS, seed)


def seen_through(veils: list[Veil | None], frames: list[Snapshot]) -> list[Snapshot]:
    state = VeilState(veils, C, P, TICK_S)
    return [state.through(frame) for frame in frames]


@settings(max_examples=60)
@given(telemetry=TELEMETRY, seed=st.integers(0, 2**32))
def test_what_is_seen_was_there_at_the_delay_and_nothing_else_is(telemetry: Telemetry, seed: int) -> None:
    frames = truths(seed, 1, 12)
    behind = int(np.ceil(telemetry.delay_s / TICK_S))
    most = telemetry.noise_frac * np.sqrt(3.0) + 1e-12
    for tick, seen in enumerate(seen_through([a_veil(telemetry, seed)], frames)):
        now = frames[tick]
        then = frames[tick - behind] if tick >= behind else None
        for block, columns in (("classes", CLASS_COLUMNS), ("pools", POOL_COLUMNS)):
            values, high = getattr(seen, block)[0], np.array([column.high for column in columns])
            live = np.ones(len(columns), dtype=bool) if block == "classes" else LIVE
            known = ~np.isnan(values) & live
            if then is None:
                assert not known.any()
                continue
            was = getattr(then, block)[0]
            assert not (known & np.isnan(was)).any()
            assert (np.abs(values - was) <= most * was)[known].all()
            assert ((values >= 0.0) & (values <= high))[known].all()
        own = ~LIVE
        own[AGE] = False
        np.testing.assert_array_equal(seen.pools[0][:, own], now.pools[0][:, own])
        assert (np.nan_to_num(seen.telemetry_age_s - now.telemetry_age_s) >= 0.0).all()
        np.testing.assert_array_equal(seen.time_s, now.time_s)


@settings(max_examples=30)
@given(first=TELEMETRY, second=TELEMETRY, seed=st.integers(0, 2**32))
def test_a_cluster_is_seen_the_same_alone_and_in_a_batch(first: Telemetry, second: Telemetry, seed: int) -> None:
    frames, veils = truths(seed, 3, 6), [a_veil(first, seed), None, a_veil(second, seed + 1)]
    together = seen_through(veils, frames)
    for b, veil in enumerate(veils):
        alone = seen_through(
            [veil],
            [
                Snapshot(f.time_s[b : b + 1], f.classes[b : b + 1], f.pools[b : b + 1], f.forecast_per_s[b : b + 1])
                for f in frames
            ],
        )
        for one, other in zip(alone, together, strict=True):
            for block in ("classes", "pools", "forecast_per_s"):
                np.testing.assert_array_equal(getattr(one, block)[0], getattr(other, block)[b])


@settings(max_examples=20)
@given(telemetry=TELEMETRY)
def test_looking_twice_sees_the_same(telemetry: Telemetry) -> None:
    frames, state = truths(3, 1, 8), VeilState([a_veil(telemetry)], C, P, TICK_S)
    for frame in frames:
        once, again = state.through(frame), state.through(frame)
        for block in ("classes", "pools", "forecast_per_s"):
            np.testing.assert_array_equal(getattr(once, block), getattr(again, block))


def test_without_a_veil_the_snapshot_itself_comes_through() -> None:
    frame = truths(0, 2, 1)[0]
    assert VeilState([None, None], C, P, TICK_S).through(frame) is frame


def test_in_a_gap_nothing_is_known_the_age_grows_and_the_forecast_stays() -> None:
    frames = [replace(f, pools=np.nan_to_num(f.pools), classes=np.nan_to_num(f.classes)) for f in truths(5, 1, 9)]
    gaps = (
        Gap(at_s=20.0, duration_s=30.0, pool="b"),
        Gap.model_validate({"at_s": 40, "duration_s": 20, "class": "chat"}),
    )
    seen = seen_through([a_veil(Telemetry(gaps=gaps))], frames)
    unheard = [bool(np.isnan(s.running[0, 1])) for s in seen]
    assert unheard == [False, False, True, True, True, False, False, False, False]
    ages = [float(s.telemetry_age_s[0, 1] - f.telemetry_age_s[0, 1]) for s, f in zip(seen, frames, strict=True)]
    assert ages == pytest.approx([0, 0, 0, 10, 20, 0, 0, 0, 0])
    assert not np.isnan(seen[3].running[0, [0, 2]]).any()
    assert [bool(np.isnan(s.classes[0, 0]).all()) for s in seen] == [False] * 4 + [True] * 2 + [False] * 3
    assert not np.isnan(seen[4].classes[0, 1]).any()
    for tick in (4, 5):
        np.testing.assert_array_equal(seen[tick].forecast_per_s[0, 0], frames[3].forecast_per_s[0, 0])
        np.testing.assert_array_equal(seen[tick].forecast_per_s[0, 1], frames[tick].forecast_per_s[0, 1])


def test_what_a_stack_lacks_is_missing_throughout_and_goes_by_source() -> None:
    frames = truths(7, 1, 4)
    veils = [a_veil(Telemetry(lacks_frac=0.5, lacks=("gpu_temp_c",)), seed) for seed in range(60)]
    missing = []
    for veil in veils:
        seen = seen_through([veil], frames)
        assert all(np.isnan(s.gpu_temp_c).all() for s in seen)
        lost = {
            column.name
            for columns, block in ((CLASS_COLUMNS, "classes"), (POOL_COLUMNS, "pools"))
            for column in columns
            if all(np.isnan(getattr(s, block)[..., column.index]).all() for s in seen)
        }
        for source in STACK_LACKS:
            assert set(source) <= lost or not (set(source) - {"gpu_temp_c"}) & lost
        missing.append([set(source) <= lost for source in STACK_LACKS])
    assert (np.mean(missing, axis=0) > 0.25).all()
    assert (np.mean(missing, axis=0) < 0.75).all()


def test_who_comes_later_does_not_see_what_was_before() -> None:
    frames, veil = truths(9, 2, 6), a_veil(Telemetry(delay_s=30.0))
    state = VeilState([veil, veil], C, P, TICK_S)
    for frame in frames[:5]:
        state.through(frame)
    state.replace(np.array([1]), [veil])
    mixed = replace(frames[5], time_s=np.array([50.0, 10.0]))
    seen = state.through(mixed)
    assert np.isnan(seen.classes[1]).all()
    np.testing.assert_array_equal(seen.classes[0], frames[2].classes[0])


def tiny_with(telemetry: dict[str, object] | None) -> Scenario:
    document = yaml.safe_load(TINY)
    return parse_scenario(document | ({} if telemetry is None else {"telemetry": telemetry}), Path("tiny.yaml"))


HEAVY = {
    "delay_s": 20,
    "noise_frac": 0.3,
    "drop_frac": 0.5,
    "lacks_frac": 0.5,
    "gaps": [{"at_s": 30, "duration_s": 60}],
}


def test_what_is_billed_and_scored_does_not_change_with_what_is_seen() -> None:
    results = []
    for telemetry in (None, HEAVY):
        scenario = tiny_with(telemetry)
        (result,) = rollout(
            [episode_of(scenario, 3, 0.3)],
            lambda cluster: StaticRoundRobin(cluster, cluster.max_replicas),
            scenario.tick_s,
        )
        results.append(result)
    plain, veiled = results
    np.testing.assert_array_equal(plain.bill.usd, veiled.bill.usd)
    np.testing.assert_array_equal(plain.tally, veiled.tally)
    np.testing.assert_array_equal(plain.tokens, veiled.tokens)
    np.testing.assert_array_equal(plain.covered_tokens, veiled.covered_tokens)


def test_the_guard_holds_a_pool_that_is_not_heard_of() -> None:
    scenario = tiny_with({"gaps": [{"at_s": 0, "duration_s": 120}]})
    (result,) = rollout([episode_of(scenario, 3, 0.3)], PlanTracking, scenario.tick_s)
    assert np.isfinite(result.replicas).all()
    # Held from when the telemetry is older than `stale_after_s`, 30 s, until the end.
    assert (np.diff(result.replicas[4:], axis=0) == 0).all()


@pytest.mark.parametrize(
    ("telemetry", "said"),
    [
        ({"delay_s": -1}, "telemetry.delay_s: -1: Input should be greater than or equal to 0"),
        ({"delay_s": 1000}, "telemetry.delay_s: 1000: Input should be less than or equal to 300"),
        ({"lacks": ["ready"]}, "telemetry: lacks: 'ready': is always known; wanted some of arrival_rate_per_s"),
        ({"lacks": ["speed"]}, "telemetry: lacks: 'speed': no such figure"),
        (
            {"gaps": [{"at_s": 1, "duration_s": 1, "pool": "x"}]},
            "telemetry.gaps[0].pool: unknown pool 'x'; wanted one of",
        ),
        ({"gaps": [{"at_s": 1, "duration_s": 1, "class": "x"}]}, "telemetry.gaps[0].class: unknown class 'x'"),
        (
            {"gaps": [{"at_s": 1, "duration_s": 1, "class": "chat", "pool": "dear"}]},
            "telemetry.gaps.0: wanted a pool or a class, got both",
        ),
        ({"noise": 0.1}, "telemetry.noise: 0.1: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_veil_is_refused_in_one_line(telemetry: dict[str, object], said: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        tiny_with(telemetry)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
