"""What the newest tick shows, and what it warns of."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.dashboard.reading.history import Filter
from poolpilot.dashboard.reading.now import fleet_now
from poolpilot.dashboard.reading.ticks import SeenTick
from poolpilot.env.contract import Reason, ReasonCode
from poolpilot.tests.dashboard.recorded import history, records


@pytest.fixture
def tick() -> SeenTick:
    """A calm one: everything known, nothing to worry about."""
    seen = history(records(3)).ticks[-1]
    snapshot = replace(seen.snapshot, classes=seen.snapshot.classes.copy(), pools=seen.snapshot.pools.copy())
    snapshot.arrival_rate_per_s[:] = (1.0, 2.0, 3.0)
    snapshot.attainment[:] = 1.0
    snapshot.shed_per_s[:] = 0.0
    for column, value in {
        "ready": 2.0, "starting": 0.0, "draining": 0.0, "asleep": 0.0, "waiting": 1.0, "kv_used_frac": 0.25,
        "gpu_temp_c": 60.0, "throttled": 0.0, "usd_per_hr": 1.5, "telemetry_age_s": 1.0, "coverage_frac": 1.0,
    }.items():  # fmt: skip
        getattr(snapshot, column)[:] = value
    applied = replace(seen.decision.applied, replicas=np.full(3, 2.0))
    decision = replace(seen.decision, applied=applied, reasons=())
    return replace(seen, snapshot=snapshot, decision=decision, stands=applied, fell_back=False)


def cards(tick: SeenTick, wanted: Filter = Filter()) -> dict[str, str]:  # noqa: B008
    return {card["name"]: card["value"] for card in fleet_now(tick, wanted)["cards"]}


def test_cards_add_up_what_is_seen(tick: SeenTick) -> None:
    shown = cards(tick)
    assert shown["Cost rate"] == "9.00"
    assert shown["Load"] == "6"
    assert shown["Replicas ready"] == "6"
    assert shown["Queue in the engines"] == "3"
    assert fleet_now(tick, Filter())["warnings"] == []


def test_cards_follow_the_filters(tick: SeenTick) -> None:
    shown = cards(tick, Filter(("batch",), ("h100", "l40s")))
    assert shown["Cost rate"] == "6.00"
    assert shown["Load"] == "3"
    assert shown["Replicas ready"] == "4"


def test_the_worst_class_is_the_one_that_misses_most_of_what_it_wants(tick: SeenTick) -> None:
    tick.snapshot.attainment[:] = (0.985, 0.96, 0.97)
    (card,) = [card for card in fleet_now(tick, Filter())["cards"] if card["name"].startswith("Attainment")]
    assert (card["value"], card["tone"]) == ("98.5", "bad")
    assert card["more"] == "chat, wanted 99.0 %"


def test_what_is_not_known_is_a_dash_and_no_zero(tick: SeenTick) -> None:
    tick.snapshot.waiting[:] = np.nan
    tick.snapshot.attainment[:] = np.nan
    tick.snapshot.ready[0] = np.nan
    shown = cards(tick)
    assert shown["Queue in the engines"] == shown["Attainment, worst class"] == shown["Cost rate"] == "–"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("telemetry_age_s", 31.0, "l40s: the newest telemetry is 31 s old"),
        ("ready", 0.0, "l40s: no replica is ready, 2 wanted"),
        ("throttled", 0.5, "l40s: 50 % of its GPUs are slowed"),
        ("gpu_temp_c", 88.0, "l40s: a GPU is at 88 °C"),
        ("kv_used_frac", 0.97, "l40s: the KV cache is 97 % full"),
        ("coverage_frac", 0.1, "l40s: 10 % of its tokens are inside the calibrated range"),
    ],
)
def test_what_is_wrong_with_a_pool_is_said_with_what_to_do(
    tick: SeenTick, column: str, value: float, said: str
) -> None:
    getattr(tick.snapshot, column)[1] = value
    (warned,) = fleet_now(tick, Filter())["warnings"]
    assert said in warned["text"]
    assert warned["todo"]
    assert fleet_now(tick, Filter(pools=("h100",)))["warnings"] == []


def test_a_class_that_misses_and_a_failed_policy_are_warned_of_the_worst_first(tick: SeenTick) -> None:
    tick.snapshot.attainment[1] = 0.94
    tick.snapshot.shed_per_s[:] = 0.5  # of a class with a deadline that is no trouble
    failed = Reason(ReasonCode.POLICY_TIMEOUT, "steady-hand", np.nan, np.nan, "no answer in 2.50 s")
    seen = replace(tick, decision=replace(tick.decision, reasons=(failed,)), fell_back=True)
    texts = [warned["text"] for warned in fleet_now(seen, Filter())["warnings"]]
    assert "no answer in 2.50 s" in texts[0]
    assert any("summarisation met its targets in 94.0 %" in text for text in texts)
    assert sum("turned away" in text for text in texts) == 2
    assert not any("of batch are turned away" in text for text in texts)
