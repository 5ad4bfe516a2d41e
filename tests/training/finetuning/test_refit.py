"""A record of a world that differs from what was believed, and of one that does not."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from poolpilot.benchmarks.two_pools import LONGER, SLOWER
from poolpilot.env.scenario import load_scenario
from poolpilot.env.window import ARRIVED
from poolpilot.telemetry.record import Record
from poolpilot.telemetry.record.defects import defects_of
from poolpilot.training.finetuning.machines import losses
from poolpilot.training.finetuning.refit import Refit, refit
from poolpilot.training.finetuning.requests import requests_of
from poolpilot.training.finetuning.stretches import RefitError, Stretch, stretches_of
from poolpilot.training.finetuning.traffic import returning_share
from poolpilot.training.finetuning.twin import longest_tokens, recorded, simulated
from poolpilot.training.finetuning.writing import REPORT, SCENARIO, write_refit
from poolpilot.training.matching import Verdict

from .worlds import believed, record_of, true


@cache
def differing() -> tuple[Record, Refit]:
    record = record_of(true(), seed=1)
    return record, refit(record, believed())


def test_intervals_hold_what_is_true_of_a_world_that_differs() -> None:
    _, found = differing()
    speeds = found.speeds.factors
    assert speeds["l40s"].holds(SLOWER)
    assert speeds["l40s"].differs
    assert speeds["h100"].holds(1.0)
    assert speeds["l40s"].high / speeds["l40s"].low < 1.1, "and say something"
    start = found.cold_starts["l40s"]
    assert start is not None
    assert start.holds(45.0 * LONGER)
    assert start.differs
    chat, other = found.traffic["chat"], found.traffic["summarisation"]
    assert chat is not None
    assert other is not None
    assert chat.rate_per_s.holds(14.0)
    assert chat.rate_per_s.differs
    assert other.rate_per_s.holds(6.0)
    assert other.rate_per_s.differs
    assert chat.output_tokens is not None
    assert chat.output_tokens.differs
    assert chat.prompt_tokens is not None
    assert chat.prompt_tokens.value == pytest.approx(chat.prompt_tokens.believed, rel=0.05), "which did not change"
    assert other.cv is not None
    assert other.cv.holds(1.0)
    assert all(rate is not None and rate.holds(0.0) for rate in found.losses.values())


def test_the_refitted_twin_does_again_what_was_held_out_and_the_believed_one_does_not() -> None:
    _, found = differing()
    assert found.held_out.before.verdict is Verdict.BAD
    assert found.reproduces
    off = {f.figure: abs(f.error) for f in found.held_out.after.figures if f.of in ("chat", "")}
    before = {f.figure: abs(f.error) for f in found.held_out.before.figures if f.of in ("chat", "")}
    assert off["tpot_p95_s"] < 0.1 < before["tpot_p95_s"]
    assert off["attainment"] < before["attainment"] + 0.02
    assert 2 <= len(found.held_out.stretches) < len(found.fitted.stretches)


def test_a_world_that_does_not_differ_is_found_to_be_as_believed() -> None:
    record = record_of(believed(), seed=2)
    found = refit(record, believed())
    for own in found.speeds.factors.values():
        assert own.value == pytest.approx(1.0, abs=0.04)
    start = found.cold_starts["l40s"]
    assert start is None or start.holds(45.0)
    both = (found.held_out.before, found.held_out.after)
    assert both[0].worst("tpot_p95_s") < 0.15
    assert both[1].worst("tpot_p95_s") < 0.15


def test_a_replay_has_as_many_replicas_serve_at_every_tick_as_the_record() -> None:
    record, found = differing()
    stretches, _ = stretches_of(record)
    held_out = next(stretch for stretch in stretches if stretch.held_out)
    requests = found.requests[stretches.index(held_out)]
    ready = recorded(held_out.episode).ready[held_out.warm :]

    def off(stretch: Stretch) -> float:
        (run,) = simulated(found.scenario, stretch, requests, [1])
        return float(np.abs(run.ready[stretch.warm :] - ready).mean())

    all_alike = replace(held_out, start_frac=np.ones_like(held_out.start_frac))
    assert off(held_out) < 0.02
    assert off(held_out) < 0.5 * off(all_alike)


def test_what_is_written_can_be_simulated_and_is_the_refitted_world(tmp_path: Path) -> None:
    _, found = differing()
    files = write_refit(found, tmp_path, ["run"])
    assert all(file.is_file() for file in files)
    scenario = load_scenario(tmp_path / SCENARIO)
    assert scenario.pools["l40s"].time_factor == pytest.approx(found.speeds.factors["l40s"].value)
    assert scenario.cold_start("l40s").mean_s > 1.5 * 45.0
    held_out = load_scenario(tmp_path / "days" / "held-out-1.yaml")
    assert held_out.duration_s > 600.0
    assert str(tmp_path) not in (tmp_path / "days" / "held-out-1.yaml").read_text(), "the folder can be moved"


def test_a_twin_that_does_not_reproduce_the_record_is_not_handed_on(tmp_path: Path) -> None:
    _, found = differing()
    write_refit(found, tmp_path, ["run"])
    bad = replace(found, held_out=replace(found.held_out, after=found.held_out.before))
    assert not bad.reproduces
    files = write_refit(bad, tmp_path, ["run"])
    assert [file.name for file in files] == [REPORT]
    assert not (tmp_path / SCENARIO).exists(), "not even the one of before"
    assert not list((tmp_path / "days").glob("*"))


def test_a_record_that_contradicts_itself_is_refused_with_the_reason() -> None:
    record, _ = differing()
    (episode,) = record.episodes
    since = replace(episode.since, usd=-episode.since.usd)
    flipped = replace(episode, since=since)
    poisoned = Record((flipped,), tuple(defects_of(flipped)))
    with pytest.raises(RefitError, match="have a bill below 0"):
        refit(poisoned, believed())


def test_a_record_of_another_cluster_is_refused() -> None:
    record, _ = differing()
    other = believed()
    pools = {("h200" if name == "h100" else name): pool for name, pool in other.pools.items()}
    with pytest.raises(RefitError, match="a cluster with pools h100, l40s, wanted h200, l40s"):
        refit(record, other.model_copy(update={"pools": pools}))


def test_a_short_record_is_refused() -> None:
    record, _ = differing()
    short = Record((record.episodes[0].between(0, 40),), ())
    with pytest.raises(RefitError, match="40 usable ticks, wanted a stretch of at least 60"):
        stretches_of(short)


def test_the_twins_requests_are_as_many_and_as_long_as_those_recorded() -> None:
    record, found = differing()
    (episode,) = record.episodes
    longest = longest_tokens(believed())
    requests = requests_of(episode, longest, 1.0, 20.0, np.random.default_rng(0))
    counted = episode.since.tally[1:, :, ARRIVED].astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(np.bincount(requests.class_index, minlength=2), counted)
    chat = found.traffic["chat"]
    assert chat is not None
    assert chat.output_tokens is not None
    own = requests.class_index == 0
    assert requests.output_tokens[own].mean() == pytest.approx(chat.output_tokens.value, rel=0.03)
    by_tick = np.histogram(requests.arrival_s[own], bins=episode.time_s - episode.time_s[0])[0]
    np.testing.assert_array_equal(by_tick, episode.since.tally[1:, 0, ARRIVED])


def test_clients_that_come_back_are_seen_by_how_arrivals_follow_refusals() -> None:
    record, _ = differing()
    (episode,) = record.episodes
    rng = np.random.default_rng(3)
    tally = episode.since.tally.copy()
    shed = rng.poisson(20.0 * (rng.random((len(episode), 2)) < 0.3))
    tally[..., 1] = shed
    tally[2:, :, ARRIVED] += rng.binomial(shed[:-2], 0.6)
    told = replace(episode, since=replace(episode.since, tally=tally))
    found = returning_share([told], 20.0, rng)
    assert found is not None
    assert found.holds(0.6)
    assert found.high - found.low < 0.5


@pytest.mark.parametrize("n_ticks", [60, 61, 182, 183, 184])
def test_who_comes_back_can_be_asked_of_a_record_of_any_length(n_ticks: int) -> None:
    record, _ = differing()
    own = record.episodes[0].between(0, n_ticks)
    assert returning_share([own], 20.0, np.random.default_rng(3)) is None, "nobody was turned away"


def test_machines_that_were_taken_are_counted_and_those_told_to_go_are_not() -> None:
    record, _ = differing()
    (episode,) = record.episodes
    assert losses(episode).sum() == 0
    pools = episode.snapshot.pools.copy()
    snapshot = replace(episode.snapshot, pools=pools)
    snapshot.ready[100, 1] -= 1.0
    lost = losses(replace(episode, snapshot=snapshot))
    assert lost.sum() == 1
    assert lost[100, 1] == 1


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_the_twins_requests_are_as_uneven_within_a_tick_as_they_are_told_to_be(cv: float) -> None:
    record, _ = differing()
    (episode,) = record.episodes
    tally = episode.since.tally.copy()
    tally[1:, 0, ARRIVED] = 400.0  # many in each tick, so that its edges hardly matter
    even = replace(episode, since=replace(episode.since, tally=tally))
    both = np.array([cv, 1.0])
    requests = requests_of(even, longest_tokens(believed()), 1.0, 20.0, np.random.default_rng(0), both)
    at_s = np.sort(requests.arrival_s[requests.class_index == 0])
    by_tick = np.histogram(at_s, bins=episode.time_s - episode.time_s[0])[0]
    np.testing.assert_array_equal(by_tick, 400)
    gaps = np.diff(at_s)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_of_few_requests_with_wildly_uneven_gaps_each_comes_within_its_tick() -> None:
    record, _ = differing()
    (episode,) = record.episodes
    tally = episode.since.tally.copy()
    tally[1:, 0, ARRIVED] = np.arange(len(episode) - 1) % 3
    few = replace(episode, since=replace(episode.since, tally=tally))
    both = np.array([5.0, 0.3])
    requests = requests_of(few, longest_tokens(believed()), 1.0, 20.0, np.random.default_rng(0), both)
    at_s = requests.arrival_s[requests.class_index == 0]
    by_tick = np.histogram(at_s, bins=episode.time_s - episode.time_s[0])[0]
    np.testing.assert_array_equal(by_tick, np.arange(len(episode) - 1) % 3)
