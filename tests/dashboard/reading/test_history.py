"""The newest hour is kept, once each, and cut by what a reader filters for."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.dashboard.reading.history import MOST_DRAWN, Filter, History, thinned
from poolpilot.dashboard.reading.timelines import FIGURES, period_of, speed_of, timeline
from poolpilot.tests.dashboard.recorded import TICK_S, history, raw_ticks, records


def test_ticks_older_than_the_span_are_forgotten() -> None:
    kept = history(records(30), span_s=100.0)
    assert [tick.decision.tick for tick in kept.ticks] == list(range(19, 30))
    assert [tick.decision.tick for tick in kept.last(35.0)] == [26, 27, 28, 29]


def test_a_tick_that_was_stored_twice_counts_once() -> None:
    raws = list(raw_ticks(records(3)))
    kept = History(3600.0)
    assert kept.add([raws[0], raws[1], replace(raws[1], id="again"), raws[2]]) == 3


def test_a_tick_that_cannot_be_read_is_left_out_and_told() -> None:
    raws = list(raw_ticks(records(3)))
    broken = replace(raws[1], fields={**raws[1].fields, "snapshot": {"schema": 99}})
    kept = History(3600.0)
    assert kept.add([raws[0], broken]) == 1
    assert "schema" in kept.skipped
    assert raws[1].where in kept.skipped
    kept.add([raws[2]])
    assert kept.skipped == ""


def test_a_cluster_of_other_pools_begins_anew() -> None:
    kept = History(3600.0)
    kept.add(raw_ticks(records(3)))
    kept.add(replace(raw, id=f"n{raw.id}") for raw in raw_ticks(records(4, nasty=True)))
    assert len(kept.last(3600.0)) == 4


def test_the_clock_of_a_new_leader_says_nothing_of_the_time_before() -> None:
    kept = History(3600.0)
    kept.add(raw_ticks(records(3, until_s=1000.0)))
    kept.add(replace(raw, id=f"n{raw.id}") for raw in raw_ticks(records(3, until_s=1100.0, seed=4)))
    spans = [tick.span_s for tick in kept.ticks]
    assert [span == TICK_S for span in spans] == [False, True, True, False, True, True]


def test_a_late_tick_counts_for_all_of_its_time_and_one_before_which_others_are_missing_for_none() -> None:
    ticks = records(6)
    late = [replace(r, snapshot=replace(r.snapshot, time_s=r.snapshot.time_s + 2 * TICK_S)) for r in ticks[2:]]
    spans = [tick.span_s for tick in history([*ticks[:2], *late]).ticks]
    assert spans[1:] == [TICK_S, 3 * TICK_S, TICK_S, TICK_S, TICK_S]
    spans = [tick.span_s for tick in history([*ticks[:2], *ticks[4:]]).ticks]
    assert [span == TICK_S for span in spans] == [False, True, False, True]
    assert np.isnan(spans[2])


def test_speed_and_period_come_from_the_ticks() -> None:
    kept = history([replace(r, wall_s=1000.0 + i * 2.0) for i, r in enumerate(records(10))])
    assert speed_of(kept.ticks) == 5.0
    assert period_of(kept.ticks) == 2.0


@pytest.mark.parametrize("key", FIGURES)
def test_timelines_hold_what_is_filtered_for_and_nothing_else(key: str) -> None:
    kept = history(records(5))
    cluster = kept.ticks[-1].cluster
    one_class, one_pool = cluster.class_names[1], cluster.pool_names[2]
    rows = timeline(kept.ticks, key, Filter((one_class,), (one_pool,)))
    assert {row["name"] for row in rows if row["kind"] == "class"} <= {one_class}
    assert {row["name"] for row in rows if row["kind"] == "pool"} <= {one_pool}
    assert {row["pool"] for row in rows} <= {"", one_pool}
    everything = timeline(kept.ticks, key, Filter())
    assert len(everything) > len(rows) > 0
    assert {row["measure"] for row in everything} == set(FIGURES[key])


def test_rows_are_on_the_walls_clock() -> None:
    kept = history([replace(r, wall_s=1000.0 + i * 2.0) for i, r in enumerate(records(5))])
    rows = timeline(kept.ticks, "load", Filter())
    assert {row["time_s"] for row in rows if row["measure"] == "rate_per_s"} == {1000.0 + 2.0 * i for i in range(5)}
    ahead = [row["time_s"] for row in rows if row["measure"] == "forecast_per_s"]
    assert min(ahead) == pytest.approx(1000.0 + 270.0 / 5.0)


def test_the_cost_has_a_line_of_what_the_fallback_rule_would_cost() -> None:
    kept = history(records(4))
    rows = timeline(kept.ticks, "cost", Filter())
    (name,) = {row["name"] for row in rows if row["kind"] == "whole"} - {"whole"}
    assert "careful" in name
    last = next(row for row in reversed(rows) if row["name"] == name)
    assert last["value"] == pytest.approx(kept.ticks[-1].rule_usd_per_hr.sum())


def test_a_tick_is_found_with_the_one_before() -> None:
    kept = history(records(4))
    tick, before = kept.find(kept.ticks[2].id)
    assert (tick, before) == (kept.ticks[2], kept.ticks[1])
    assert kept.find("") == (kept.ticks[3], kept.ticks[2])
    assert kept.find(kept.ticks[0].id) == (kept.ticks[0], None)
    assert kept.find("no such tick") == (None, None)


def test_a_long_history_is_thinned_and_keeps_the_newest() -> None:
    (tick,) = history(records(1)).ticks
    many = [replace(tick, id=str(i), decision=replace(tick.decision, tick=i)) for i in range(4 * MOST_DRAWN)]
    few = thinned(many)
    assert len(few) <= MOST_DRAWN + 1
    assert few[-1] is many[-1]
    later = thinned([*many[1:], replace(tick, id="x", decision=replace(tick.decision, tick=4 * MOST_DRAWN))])
    assert {t.id for t in few[1:-1]} <= {t.id for t in later}
    assert thinned(many[:10]) == many[:10]
