"""What clients saw, in figures: a request met its targets by the clients' own clocks, or it did not."""

import json

import numpy as np
import pytest

from poolpilot.commands.demonstration.measures import RunFigures, as_json, class_figures, quantile
from poolpilot.env.contract import BILL_LAYERS, Targets
from poolpilot.env.emulator.replay import ClientRecord

NAN = float("nan")
TARGETS = Targets(
    ttft_s=np.array([1.0, NAN]),
    tpot_s=np.array([0.1, NAN]),
    e2e_s=np.array([NAN, NAN]),
    deadline_s=np.array([NAN, 30.0]),
    attainment=np.array([0.9, 0.9]),
    budget_usd_per_hr=np.array(np.inf),
)


def served(class_index: int, first_s: float, end_s: float, tokens: int = 11, streamed: bool = True) -> ClientRecord:
    return ClientRecord(class_index, 100.0, streamed, 100.0 + first_s, 100.0 + end_s, tokens, outcome="served")


def ended(class_index: int, outcome: str) -> ClientRecord:
    return ClientRecord(class_index, 100.0, True, outcome=outcome)


@pytest.mark.parametrize(
    ("record", "met"),
    [
        (served(0, 0.9, 1.8), True),
        (served(0, 1.1, 1.8), False),
        (served(0, 0.9, 2.0), False),
        (served(0, 0.9, 9.0, tokens=1), True),
        (served(1, 29.0, 29.0, streamed=False), True),
        (served(1, 31.0, 31.0, streamed=False), False),
        (ended(0, "shed"), False),
        (ended(0, "lost"), False),
        (ended(0, "pending"), False),
    ],
    ids=["met", "late", "slow", "one token has no pace", "in time", "past the deadline", "shed", "lost", "never ended"],
)
def test_a_request_meets_its_targets_or_not(record: ClientRecord, met: bool) -> None:
    figures = class_figures([record], ("chat", "batch"), TARGETS)[record.class_index]
    assert (figures.sent, figures.met) == (1, int(met))
    assert figures.attainment == float(met)


def test_every_request_sent_is_served_shed_or_lost() -> None:
    records = [served(0, 0.5, 1.0), ended(0, "shed"), ended(0, "lost"), ended(0, "pending"), served(1, 5.0, 5.0)]
    chat, batch = class_figures(records, ("chat", "batch"), TARGETS)
    assert (chat.sent, chat.served, chat.shed, chat.lost, chat.met) == (4, 1, 1, 2, 1)
    assert chat.attainment == 0.25
    assert (batch.sent, batch.served) == (1, 1)


def test_latencies_are_of_what_was_served_and_streamed() -> None:
    records = [served(0, 0.1 * k, 0.1 * k + 1.0) for k in range(1, 11)] + [ended(0, "lost")]
    chat, batch = class_figures([*records, served(1, 5.0, 5.0, streamed=False)], ("chat", "batch"), TARGETS)
    assert chat.ttft_p50_s == pytest.approx(0.55)
    assert chat.tpot_p50_s == pytest.approx(0.1)
    assert np.isnan([batch.ttft_p50_s, batch.tpot_p95_s]).all()
    assert np.isnan(quantile(np.array([NAN]), 0.5))


def test_a_run_without_requests_is_json_all_the_same() -> None:
    empty = RunFigures(
        policy="rule",
        usd_per_hr=3.0,
        usd=1.0,
        usd_by_layer=dict.fromkeys(BILL_LAYERS, 0.2),
        classes=class_figures([], ("chat", "batch"), TARGETS),
        proxy_added_p50_ms=NAN,
        proxy_added_p95_ms=NAN,
        fallback_ticks=0,
        ticks=3,
    )
    document = json.loads(json.dumps(as_json(empty), allow_nan=False))
    assert document["usd_per_1000_met"] is None
    assert document["classes"]["chat"]["attainment"] is None
    assert document["requests"] == {"sent": 0, "served": 0, "met": 0, "shed": 0, "lost": 0}
