"""A decision is told with all that went into it, and what the rule would have done."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.dashboard.reading.explaining import explained, listed
from poolpilot.dashboard.reading.history import Filter
from poolpilot.dashboard.reading.reasons import WHY, from_to, of_what, why
from poolpilot.dashboard.reading.ticks import SeenTick
from poolpilot.env.contract import Mode, Reason, ReasonCode
from poolpilot.tests.dashboard.recorded import history, records


@pytest.fixture
def ticks() -> list[SeenTick]:
    return history(records(12)).ticks


def column(table: dict, name: str) -> list[str]:
    at = [own["name"] for own in table["columns"]].index(name)
    return [row[at]["text"] for row in table["rows"]]


def test_counts_stand_as_proposed_as_applied_and_as_the_rule_would_have_them(ticks: list[SeenTick]) -> None:
    tick = ticks[-1]
    shown = explained(tick, ticks[-2], Filter())["replicas"]
    assert column(shown, "Pool") == list(tick.cluster.pool_names)
    assert tick.comparison is not None
    for name, action in (
        ("Proposed", tick.decision.proposed),
        ("Applied", tick.decision.applied),
        ("Rule would", tick.comparison.rule),
    ):
        assert column(shown, name) == [f"{round(n)}" for n in action.replicas]


def test_every_change_of_the_guard_is_told_with_its_reason(ticks: list[SeenTick]) -> None:
    changed = next(tick for tick in reversed(ticks) if tick.decision.reasons)
    shown = explained(changed, None, Filter())["guard"]
    assert column(shown, "Code") == [reason.code.value for reason in changed.decision.reasons]
    assert all(column(shown, "Why"))


def test_what_it_would_have_cost_under_the_rule_is_beside_it(ticks: list[SeenTick]) -> None:
    tick = ticks[-1]
    cards = {card["name"]: card for card in explained(tick, ticks[-2], Filter())["cards"]}
    rent = float((tick.decision.applied.replicas * tick.price).sum())
    rule = float(tick.rule_usd_per_hr.sum())
    assert cards["Rent of this decision"]["value"] == f"{rent:,.2f}"
    assert cards["Rent under careful"]["value"] == f"{rule:,.2f}"
    assert float(cards["Difference"]["value"].replace("−", "-").replace(",", "")) == pytest.approx(
        rent - rule, abs=0.006
    )


def test_a_record_without_the_rule_says_so(ticks: list[SeenTick]) -> None:
    cards = explained(replace(ticks[-1], comparison=None), None, Filter())["cards"]
    assert [card["more"] for card in cards] == ["the record does not tell what the fallback rule would do"]


def test_advice_is_said_to_be_advice() -> None:
    ticks = history(records(3, mode=Mode.ADVISE)).ticks
    assert "nothing of it was applied" in explained(ticks[-1], None, Filter())["lead"]


def test_the_list_holds_what_changed_newest_first(ticks: list[SeenTick]) -> None:
    quiet = replace(ticks[-1], id="quiet", fell_back=False, decision=replace(ticks[-1].decision, reasons=()))
    still = replace(quiet, id="still")
    shown = listed([*ticks, quiet, still], Filter(), changed_only=True)
    links = [row[0]["link"] for row in shown["rows"]]
    assert "decisions/still" not in links
    assert links == sorted(links, key=lambda link: -int(link.split("/")[1]) if link[-1].isdigit() else -99)
    every = listed([*ticks, quiet, still], Filter(), changed_only=False)
    assert every["rows"][0][0]["link"] == "decisions/still"
    assert len(every["rows"]) == len(ticks) + 2


def test_changes_of_other_pools_are_filtered_out(ticks: list[SeenTick]) -> None:
    shown = listed(ticks, Filter((ticks[0].cluster.class_names[0],), ("h100",)), changed_only=False)
    assert not any(other in text for text in column(shown, "What changed") for other in ("l40s", "a100-spot"))


@pytest.mark.parametrize("code", ReasonCode)
def test_every_reason_has_a_sentence(code: ReasonCode) -> None:
    reason = Reason(code, "l40s", 3.0, 2.0, "because")
    assert WHY[code]
    assert why(reason).startswith(WHY[code])
    assert all(isinstance(text, str) for text in (*from_to(reason), of_what(reason)))


def test_numbers_of_reasons_are_read_as_what_they_are() -> None:
    assert from_to(Reason(ReasonCode.PENDING_STARTS, "l40s", 6.0, 4.0)) == ("6", "4")
    assert from_to(Reason(ReasonCode.CANARY, "chat", 0.25, 0.0, "route")) == ("25.0 %", "0.0 %")
    assert from_to(Reason(ReasonCode.POLICY_ERROR, "x", np.nan, np.nan, "boom")) == ("–", "–")
    assert of_what(Reason(ReasonCode.STALE_TELEMETRY, "l40s", 64.0, 32.0, "batch_cap")) == "batch cap"
