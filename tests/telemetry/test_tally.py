"""Log records become tallies: what arrived, what became of it, how long it took."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.contract import CLASS_COLUMNS, FloatArray, Snapshot
from poolpilot.env.window import (
    ARRIVED,
    E2E,
    E2E_SUM_S,
    FINISHED,
    LOST,
    MET,
    MET_OUTPUT_SUM,
    SHED,
    TPOT,
    TTFT,
    WINDOW_WIDTH,
)
from poolpilot.telemetry.envoy_log import LogRecord
from poolpilot.telemetry.tally import LONGEST_OPEN_S, ClassWindow, TickTally, tally

from .samples import ANSWERED, CLUSTER, NAN, NOW_S, start

CHAT = CLUSTER.class_names.index("chat")
FATES = (SHED, FINISHED, MET, LOST)


def tallied(*records: LogRecord, speed_up: float = 1.0) -> TickTally:
    return tally(records, {}, CLUSTER, NOW_S, speed_up)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {FINISHED, MET}),
        ({"first_body_s": 0.6}, {FINISHED}),
        ({"total_s": 1.7}, {FINISHED}),
        ({"total_s": 1.7, "completion_tokens": NAN}, {FINISHED, MET}),
        ({"total_s": 90.0, "completion_tokens": 1.0}, {FINISHED, MET}),
        ({"code": 429, "details": "direct_response", "attempts": 0, "first_body_s": NAN}, {SHED}),
        ({"code": 429}, {SHED}),
        ({"code": 503, "details": "direct_response", "attempts": 0, "first_body_s": NAN}, {SHED}),
        ({"code": 503, "flags": "UF"}, {LOST}),
        ({"code": 500}, {LOST}),
        ({"flags": "UC"}, {LOST}),
        ({"code": 0, "first_body_s": NAN, "flags": "UPE"}, {LOST}),
        ({"code": 400}, set()),
        ({"code": 0, "flags": "DC", "first_body_s": NAN, "total_s": 0.1}, set()),
        ({"code": 0, "flags": "DC", "first_body_s": NAN, "total_s": 0.9}, {LOST}),
        ({"flags": "DC", "total_s": 60.0, "completion_tokens": NAN}, set()),
        ({"flags": "DC", "first_body_s": 0.6, "completion_tokens": NAN}, {LOST}),
        ({"class_name": "embed", "streamed": False, "first_body_s": 0.1, "completion_tokens": NAN}, {FINISHED, MET}),
        ({"class_name": "embed", "streamed": False, "first_body_s": 0.3, "completion_tokens": 0.0}, {FINISHED}),
        ({"streamed": False, "first_body_s": 1.3}, {FINISHED, MET}),
        ({"class_name": "batch", "first_body_s": 500.0, "total_s": 599.0}, {FINISHED, MET}),
        ({"class_name": "batch", "first_body_s": 500.0, "total_s": 601.0}, {FINISHED}),
    ],
    ids=[
        "in time",
        "first token late",
        "tokens slow",
        "tokens unknown: not held against it",
        "one token has no pace",
        "turned away by admission",
        "turned away by a replica",
        "turned away: no replica is ready anywhere",
        "no replica",
        "replica failed",
        "stream cut by the replica",
        "no answer",
        "client's mistake",
        "client left early",
        "client left after the target was missed",
        "client stopped reading",
        "client stopped reading a late answer",
        "embedding in time",
        "embedding late",
        "plain answer does not tell its first token",
        "before its deadline",
        "after its deadline",
    ],
)
def test_what_becomes_of_a_request(change: dict[str, object], expected: set[int]) -> None:
    counts = tallied(replace(ANSWERED, **change)).counts  # type: ignore[arg-type]
    assert {fate for fate in FATES if counts[:, fate].sum() == 1} == expected
    assert counts[:, FATES].sum() == len(expected)


def test_a_request_arrives_once() -> None:
    records = [
        start("retried"),
        start("retried"),
        start("short"),
        replace(ANSWERED, stream_id="short"),
        replace(ANSWERED, stream_id="shed", code=429, details="direct_response", attempts=0),
        replace(ANSWERED, stream_id="before-the-log"),
    ]
    first = tallied(*records)
    assert first.counts[CHAT, ARRIVED] == 3
    assert list(first.open_requests) == ["retried"]
    second = tally([replace(ANSWERED, stream_id="retried")], first.open_requests, CLUSTER, NOW_S)
    assert second.counts[CHAT, ARRIVED] == 0
    assert second.counts[CHAT, FINISHED] == 1
    assert not second.open_requests


def test_in_flight_is_starts_less_ends() -> None:
    first = tallied(start("a"), start("b"), start("c", "embed"))
    np.testing.assert_array_equal(first.in_flight, [2, 1, 0])
    second = tally([replace(ANSWERED, stream_id="a"), start("d", "batch")], first.open_requests, CLUSTER, NOW_S)
    np.testing.assert_array_equal(second.in_flight, [1, 1, 1])


def test_a_request_whose_end_was_never_logged_is_forgotten() -> None:
    first = tallied(start("lost", at_s=NOW_S), start("new", at_s=NOW_S + 10.0))
    second = tally([], first.open_requests, CLUSTER, NOW_S + LONGEST_OPEN_S)
    assert list(second.open_requests) == ["new"]


def test_durations_are_in_emulated_seconds() -> None:
    fast = replace(ANSWERED, first_body_s=0.03, total_s=0.13)
    slow, emulated = tallied(ANSWERED), tallied(fast, speed_up=10.0)
    np.testing.assert_allclose(emulated.counts, slow.counts)
    assert emulated.counts[CHAT, E2E_SUM_S] == pytest.approx(1.3)


def test_latencies_are_of_finished_requests() -> None:
    counts = tallied(ANSWERED, replace(ANSWERED, code=500), replace(ANSWERED, completion_tokens=NAN)).counts
    assert counts[CHAT, TTFT:TPOT].sum() == 2
    assert counts[CHAT, TPOT:WINDOW_WIDTH].sum() == 1
    assert counts[CHAT, E2E:].sum() == 2


def test_goodput_is_of_requests_in_time() -> None:
    counts = tallied(ANSWERED, replace(ANSWERED, first_body_s=0.6), replace(ANSWERED, completion_tokens=NAN)).counts
    assert counts[CHAT, MET] == 2
    assert counts[CHAT, MET_OUTPUT_SUM] == ANSWERED.completion_tokens


def test_work_and_bytes_go_to_the_pool_that_answered() -> None:
    records = [
        ANSWERED,
        replace(ANSWERED, pool="h100", class_name="batch"),
        replace(ANSWERED, pool="h100", flags="UC", completion_tokens=NAN),
        replace(ANSWERED, pool=None, code=503),
    ]
    counted = tallied(*records)
    np.testing.assert_array_equal(counted.work_tokens, [[126, 0, 0], [0, 0, 126]])
    np.testing.assert_array_equal(counted.response_bytes, [[5000, 0, 0], [5000, 0, 5000]])


def test_what_has_no_class_is_counted_apart() -> None:
    counted = tallied(replace(ANSWERED, class_name=None), start("x", "unknown"), ANSWERED)
    assert counted.unclassified == 2
    assert counted.counts[:, FINISHED].sum() == 1
    assert counted.in_flight.sum() == 0


records_of_any_kind = st.builds(
    lambda kind, stream, change: (
        start(stream, change["class_name"] or "chat") if kind else replace(ANSWERED, stream_id=stream, **change)
    ),
    st.booleans(),
    st.sampled_from("abcdef"),
    st.fixed_dictionaries(
        {
            "class_name": st.sampled_from(["chat", "embed", "batch", "other", None]),
            "code": st.sampled_from([0, 200, 400, 429, 500]),
            "flags": st.sampled_from(["", "DC", "UC", "DC,UT"]),
            "streamed": st.booleans(),
            "attempts": st.integers(0, 2),
            "first_body_s": st.floats(0, 5) | st.just(NAN),
            "total_s": st.floats(0, 1e5) | st.just(NAN),
            "prompt_tokens": st.just(NAN) | st.floats(0, 1e6),
            "completion_tokens": st.just(NAN) | st.floats(0, 1e6),
            "pool": st.sampled_from(["l4", "h100", "gone", None]),
        }
    ),
)


@given(st.lists(records_of_any_kind, max_size=30), st.integers(0, 30))
def test_counts_add_up_however_the_log_is_cut_into_ticks(records: list[LogRecord], cut: int) -> None:
    whole = tallied(*records)
    first = tallied(*records[:cut])
    second = tally(records[cut:], first.open_requests, CLUSTER, NOW_S)
    columns = [SHED, FINISHED, MET, LOST, *range(TTFT, whole.counts.shape[1])]
    np.testing.assert_array_equal((first.counts + second.counts)[:, columns], whole.counts[:, columns])
    np.testing.assert_array_equal(second.in_flight, whole.in_flight)
    assert (whole.counts[:, MET] <= whole.counts[:, FINISHED]).all()
    assert (whole.told <= whole.counts[:, FINISHED]).all()
    assert first.unclassified + second.unclassified == whole.unclassified


def column(columns: FloatArray, name: str) -> FloatArray:
    return columns[:, CLASS_COLUMNS.index(vars(Snapshot)[name])]


def test_the_window_slides() -> None:
    window = ClassWindow(window_s=30.0)
    for tick in range(6):
        window = window.pushed(10.0 * (tick + 1), 10.0, tallied(*[start(f"{tick}-{n}") for n in range(tick)]))
    assert column(window.columns(60.0, 3), "arrival_rate_per_s")[CHAT] == pytest.approx((3 + 4 + 5) / 30)
    assert column(window.columns(75.0, 3), "arrival_rate_per_s")[CHAT] == pytest.approx((4 + 5) / 20)
    assert column(window.columns(60.0, 3), "in_flight")[CHAT] == 5
    assert np.isnan(window.columns(90.0, 3)).all()


def test_an_empty_window_knows_nothing() -> None:
    assert np.isnan(ClassWindow(60.0).columns(0.0, 3)).all()


def test_a_tick_without_requests_is_known_to_have_none() -> None:
    columns = ClassWindow(60.0).pushed(10.0, 10.0, tallied()).columns(10.0, 3)
    assert (column(columns, "arrival_rate_per_s") == 0).all()
    assert (column(columns, "shed_per_s") == 0).all()
    assert np.isnan(column(columns, "attainment")).all()
    assert np.isnan(column(columns, "ttft_p95_s")).all()


def test_requests_that_do_not_tell_their_tokens_do_not_change_the_means() -> None:
    silent = replace(ANSWERED, prompt_tokens=NAN, completion_tokens=NAN)
    long = replace(ANSWERED, prompt_tokens=300.0, completion_tokens=46.0)
    window = ClassWindow(60.0).pushed(10.0, 10.0, tallied(silent, ANSWERED, long, silent))
    columns = window.pushed(20.0, 10.0, tallied(silent)).columns(20.0, 3)
    assert column(columns, "prompt_tokens_mean")[CHAT] == pytest.approx(200.0)
    assert column(columns, "prompt_tokens_std")[CHAT] == pytest.approx(100.0)
    assert column(columns, "output_tokens_mean")[CHAT] == pytest.approx(36.0)
    assert column(columns, "attainment")[CHAT] == 1.0
    unknown = ClassWindow(60.0).pushed(10.0, 10.0, tallied(silent)).columns(10.0, 3)
    assert np.isnan(column(unknown, "prompt_tokens_mean")[CHAT])
    assert column(unknown, "ttft_p50_s")[CHAT] == pytest.approx(0.3, rel=0.07)


def test_a_tick_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="span_s: 0"):
        ClassWindow(60.0).pushed(10.0, 0.0, tallied())
