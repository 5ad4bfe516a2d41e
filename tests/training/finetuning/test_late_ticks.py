"""A sidecar that has no time for every third tick: what it records is of the same world, in one piece."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from poolpilot.benchmarks.two_pools import LONGER, SLOWER
from poolpilot.env.window import ARRIVED, SHED
from poolpilot.telemetry.record import DefectKind, Episode, Record, episodes_of
from poolpilot.training.finetuning.live import rewards_of
from poolpilot.training.finetuning.machines import price_moves
from poolpilot.training.finetuning.refit import refit
from poolpilot.training.finetuning.requests import base_arrivals, requests_of
from poolpilot.training.finetuning.stretches import RefitError, stretches_of
from poolpilot.training.finetuning.traffic import returning_share, traffic_of
from poolpilot.training.finetuning.twin import as_recorded, longest_tokens, recorded, simulated
from poolpilot.training.finetuning.writing import document_of

from .worlds import believed, lines_of, record_of, true

DURATION_S = 3600.0
SLOTS = round(DURATION_S / 10.0)


@cache
def left_out() -> frozenset[int]:
    """A third of the slots, up to five in a row."""
    busy = np.random.default_rng(5).random(SLOTS) < 0.33
    return frozenset(int(n) for n in np.flatnonzero(busy[:-1]) if n > 0 and not busy[max(n - 5, 0) : n].all())


@cache
def late() -> Record:
    return record_of(true(DURATION_S), 1, left_out())


def episode() -> Episode:
    (own,) = late().episodes
    return own


def test_it_is_one_episode_and_says_how_many_ticks_came_late() -> None:
    assert len(episode()) == SLOTS - len(left_out())
    (defect,) = late().defects
    assert defect.kind is DefectKind.LATE_TICKS
    assert f"in {len(left_out())} slots nobody decided" in defect.detail
    assert episode().lasted_ticks.max() > 3.0


def test_the_same_is_found_of_the_world_and_the_twin_does_it_again() -> None:
    found = refit(late(), believed(DURATION_S))
    speeds = found.speeds.factors
    assert speeds["l40s"].holds(SLOWER)
    assert speeds["l40s"].differs
    assert speeds["h100"].holds(1.0)
    start = found.cold_starts["l40s"]
    assert start is not None
    assert start.holds(45.0 * LONGER)
    assert start.differs
    for name, rate_per_s in (("chat", 14.0), ("summarisation", 6.0)):
        own = found.traffic[name]
        assert own is not None
        assert own.rate_per_s.holds(rate_per_s)
    assert all(rate is not None and rate.holds(0.0) for rate in found.losses.values())
    assert found.reproduces
    assert "late_ticks" in {defect["kind"] for defect in document_of(found, ["run"])["defects"]}


def test_a_record_that_lacks_the_lines_of_as_many_ticks_falls_into_pieces() -> None:
    whole = lines_of(true(DURATION_S), 1)
    kept = [line for n, line in enumerate(whole) if n - 1 not in left_out()]
    record = episodes_of(kept, memories=False)
    assert len(record.episodes) > 10
    assert {defect.kind for defect in record.defects} >= {DefectKind.GAP}
    with pytest.raises(RefitError, match="in a row"):
        refit(record, believed(DURATION_S))


def test_a_replay_looks_when_the_record_did_and_has_as_many_replicas_serve() -> None:
    stretches, _ = stretches_of(late())
    scenario = true(DURATION_S)
    held_out = next(stretch for stretch in stretches if stretch.held_out)
    own = held_out.episode
    requests = requests_of(own, longest_tokens(scenario), 1.0, 20.0, np.random.default_rng(0))
    (run,) = simulated(scenario, held_out, requests, [1])
    real = recorded(own)
    rows = slice(held_out.warm + 1, None)
    assert np.abs(run.ready[rows] - real.ready[rows]).mean() < 0.02
    assert as_recorded(scenario, held_out).duration_s == own.duration_s
    # Requests of a late tick are as many more, and so are its dollars.
    by_row = run.tally[rows, :, ARRIVED].sum(axis=1)
    np.testing.assert_allclose(by_row, real.tally[rows, :, ARRIVED].sum(axis=1))
    np.testing.assert_allclose(run.usd[rows], real.usd[rows], rtol=0.15)
    assert np.corrcoef(own.lasted_s[rows], real.usd[rows])[0, 1] > 0.5


def test_gaps_are_no_more_uneven_because_ticks_are() -> None:
    rng = np.random.default_rng(2)
    tally = episode().since.tally.copy()
    tally[:, 0, ARRIVED] = rng.poisson(14.0 * episode().lasted_s)
    even = replace(episode(), since=replace(episode().since, tally=tally))
    found = traffic_of([even], 0, 0.0, 20.0, (14.0, np.nan, np.nan), rng)
    assert found is not None
    assert found.rate_per_s.value == pytest.approx(14.0, rel=0.02)
    assert found.cv is not None
    assert found.cv.holds(1.0)
    assert found.cv.high < 1.3


def test_who_was_turned_away_comes_back_when_the_clock_says_so() -> None:
    """Two slots later, whether that is two rows on, or one, or the same."""
    rng = np.random.default_rng(4)
    own = episode()
    slot = np.rint((own.time_s - own.time_s[0]) / 10.0).astype(np.int64)
    shed_by_slot = rng.poisson(20.0 * (rng.random((slot[-1] + 1, 2)) < 0.3)).astype(np.float64)
    back_by_slot = np.zeros_like(shed_by_slot)
    back_by_slot[2:] = rng.binomial(shed_by_slot[:-2].astype(np.int64), 0.6)
    fresh_by_slot = rng.poisson(60.0, shed_by_slot.shape)

    def by_row(by_slot: np.ndarray) -> np.ndarray:
        total = np.concatenate([np.zeros((1, 2)), np.cumsum(by_slot[1:], axis=0)])
        return np.diff(total[slot], axis=0, prepend=0.0)

    tally = np.zeros_like(own.since.tally)
    tally[..., SHED] = by_row(shed_by_slot)
    tally[..., ARRIVED] = by_row(fresh_by_slot + back_by_slot)
    told = replace(own, since=replace(own.since, tally=tally))
    found = returning_share([told], 20.0, rng)
    assert found is not None
    assert found.holds(0.6)
    assert found.high - found.low < 0.6
    base = base_arrivals(told, 0.6, 20.0)[1:].sum()
    assert base == pytest.approx(by_row(fresh_by_slot)[1:].sum(), rel=0.02)


def test_a_price_counts_for_as_long_as_it_stood() -> None:
    own = replace(episode(), snapshot=replace(episode().snapshot, pools=episode().snapshot.pools.copy()))
    late_next = np.append(own.lasted_ticks[1:] > 1.5, False)  # the dear price stands through every late tick
    own.snapshot.usd_per_hr[:, 1] = np.where(late_next, 3.0, 1.0)
    stood_s = np.append(own.lasted_s[1:], own.tick_s)
    found = price_moves([own], 1, 1.0, np.random.default_rng(0))
    assert found is not None
    assert found.mean_usd_per_hr is not None
    dear = float(stood_s[late_next].sum() / stood_s.sum())
    assert found.mean_usd_per_hr.value == pytest.approx(1.0 + 2.0 * dear)
    assert dear > 1.2 * late_next.mean()


def test_a_late_tick_of_the_usual_bill_is_worth_no_less_than_others() -> None:
    """With dollars, requests and misses in proportion to how long it was, nothing was better or worse at any time."""
    own = episode()
    tally = np.zeros_like(own.since.tally)
    lasted = np.where(own.lasted_s > 0, own.lasted_s, 10.0)
    for column, per_s in ((ARRIVED, 10.0), (2, 10.0), (3, 9.9)):
        tally[..., column] = per_s * lasted[:, None]
    usd = np.full(own.since.usd.shape, 0.001) * lasted[:, None, None]
    same = replace(own, since=replace(own.since, tally=tally, usd=usd, span_s=lasted))
    worth = rewards_of(same, miss_price=1.0)
    assert np.isnan(worth[0])
    # Early misses of an hour are cheap, later ones are not: what is left is that, and does not hang on how late a tick was.
    by_tick = worth[1:] / same.lasted_ticks[1:]
    late_ones = same.lasted_ticks[1:] > 1.5
    assert by_tick[late_ones].mean() == pytest.approx(by_tick[~late_ones].mean(), abs=0.1)
    free = rewards_of(same, miss_price=0.0)
    np.testing.assert_allclose(free[1:], 0.0, atol=1e-9)
