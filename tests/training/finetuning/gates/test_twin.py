"""The twin's gates on real runs: better is let through, worse is not, and what proves nothing is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.agents.portfolio import policy_factory
from poolpilot.agents.registry import Verdict
from poolpilot.env.contract import Snapshot
from poolpilot.training.finetuning.gates.days import DaysError
from poolpilot.training.finetuning.gates.ranges import ranges_gate
from poolpilot.training.finetuning.gates.twin import MOST_SEEDS, REPLAYED_S, TwinRuns, seeds_for, twin_gate, twin_runs
from poolpilot.training.rollout import RunResult

from .judged import STARVING, WASTEFUL, made, some_days


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], TwinRuns]:
    """Candidate and incumbent by name, over the same days."""
    folder = tmp_path_factory.mktemp("gates")
    neutral, wasteful, starving = (
        policy_factory(str(made(folder, name, **outputs).folder))
        for name, outputs in (("neutral", {}), ("wasteful", WASTEFUL), ("starving", STARVING))
    )
    days = some_days()

    def both(candidate: object, incumbent: object) -> TwinRuns:
        return twin_runs(candidate, incumbent, days, learned=(), seeds=2)  # type: ignore[arg-type]

    better = both(neutral, wasteful)
    return {
        ("neutral", "wasteful"): better,
        ("wasteful", "neutral"): replace(better, candidate=better.incumbent, incumbent=better.candidate),
        ("neutral", "neutral"): replace(better, incumbent=better.candidate),
        ("starving", "neutral"): both(starving, neutral),
    }


@pytest.mark.parametrize(
    ("candidate", "incumbent", "verdict", "said"),
    [
        ("neutral", "wasteful", Verdict.PASS, "beats the incumbent on 2 held-out days: loss -"),
        ("wasteful", "neutral", Verdict.FAIL, "is worse than the incumbent"),
        ("starving", "neutral", Verdict.FAIL, "is worse than the incumbent"),
        ("neutral", "neutral", Verdict.UNKNOWN, "cannot be told from the incumbent"),
    ],
)
def test_a_candidate_must_beat_the_incumbent_clear_of_chance(
    runs: dict[tuple[str, str], TwinRuns], candidate: str, incumbent: str, verdict: Verdict, said: str
) -> None:
    found = twin_gate(runs[candidate, incumbent])
    assert (found.verdict, said in found.reason) == (verdict, True), found.reason
    assert found.inputs["day-0.requests"] != found.inputs["day-1.requests"]
    assert [own["name"] for own in found.figures["by_scenario"]] == ["day-0", "day-1"]


def test_what_saves_money_by_missing_targets_is_no_improvement(runs: dict[tuple[str, str], TwinRuns]) -> None:
    figures = twin_gate(runs["starving", "neutral"]).figures
    assert figures["bill_ratio"]["mean"] < 1.0
    assert figures["shortfall_difference"]["low"] > 0.0
    assert figures["loss_difference"]["low"] > 0.0


def test_a_day_that_was_learned_from_proves_nothing() -> None:
    days = some_days()
    with pytest.raises(DaysError, match=f"day day-1 .{days[1].fingerprint}. was learned from"):
        twin_runs(lambda c: None, lambda c: None, days, learned=[days[1].fingerprint])  # type: ignore[arg-type, return-value]


def test_neither_do_a_single_day_and_a_twin_that_is_far_from_the_record(
    runs: dict[tuple[str, str], TwinRuns],
) -> None:
    whole = runs["neutral", "wasteful"]
    one = TwinRuns(whole.days[:1], whole.candidate[:1], whole.incumbent[:1])
    assert twin_gate(one).verdict is Verdict.UNKNOWN
    found = twin_gate(whole, twin_is_bad="the bill is off by 40 %")
    assert (found.verdict, found.reason.endswith("off by 40 %")) == (Verdict.UNKNOWN, True)


def recorded(runs: TwinRuns) -> list[Snapshot]:
    """What a live record of the incumbent would hold."""
    return [snapshot for day in runs.incumbent for snapshot in day.seen]


def flat(snapshots: list[Snapshot]) -> list[Snapshot]:
    """Seeds side by side as ticks of one cluster."""
    return [Snapshot(s.time_s[k], s.classes[k], s.pools[k], s.forecast_per_s[k]) for s in snapshots for k in range(2)]


def test_a_candidate_that_keeps_to_what_is_allowed_and_known_passes(runs: dict[tuple[str, str], TwinRuns]) -> None:
    same = runs["neutral", "neutral"]
    found = ranges_gate(same, flat(recorded(same)))
    assert found.verdict is Verdict.PASS
    assert found.figures["vetoes_per_tick"]["mean"] == found.figures["paced_per_tick"]["mean"] == 0.0


def test_one_that_leads_where_the_record_never_was_is_refused_and_told_where(
    runs: dict[tuple[str, str], TwinRuns],
) -> None:
    starving = runs["starving", "neutral"]
    found = ranges_gate(starving, flat(recorded(starving)))
    assert found.verdict is Verdict.FAIL
    assert "leaves the recorded range more often" in found.reason
    assert found.figures["outside_worst"][0]["more_often_frac"] > 0.1


@pytest.mark.parametrize(
    ("code", "more_per_tick", "verdict", "said"),
    [
        ("budget", 0.1, Verdict.FAIL, "more vetoes a tick: +0.1"),
        ("scale_step", 0.05, Verdict.PASS, "of pacing +0.05"),
        ("scale_step", 0.7, Verdict.FAIL, "is held back more often: +0.7"),
    ],
    ids=["forbidden", "paced", "paced much"],
)
def test_one_that_is_vetoed_more_is_refused_and_one_that_is_only_held_back_a_little_is_not(
    runs: dict[tuple[str, str], TwinRuns], code: str, more_per_tick: float, verdict: Verdict, said: str
) -> None:
    same = runs["neutral", "neutral"]

    def vetoed(result: RunResult) -> RunResult:
        more = round(more_per_tick * len(result.replicas))
        return replace(result, vetoes={**result.vetoes, code: result.vetoes.get(code, 0) + more})

    days = tuple(replace(day, results=tuple(map(vetoed, day.results))) for day in same.candidate)
    found = ranges_gate(replace(same, candidate=days), flat(recorded(same)))
    assert (found.verdict, said in found.reason) == (verdict, True), found.reason


def test_what_the_record_never_knew_nothing_can_be_outside_of(runs: dict[tuple[str, str], TwinRuns]) -> None:
    starving = runs["starving", "neutral"]
    blind = [
        replace(s, classes=np.full_like(s.classes, np.nan), pools=np.full_like(s.pools, np.nan))
        for s in flat(recorded(starving))
    ]
    assert ranges_gate(starving, blind).figures["outside_frac"]["mean"] == 0.0


@pytest.mark.parametrize(
    ("hours", "seeds"), [(0.1, 32), (0.999, 13), (6.0, 4), (24.0, 4)], ids=["minutes", "an hour", "hours", "days"]
)
def test_few_and_short_days_are_drawn_more_often(hours: float, seeds: int) -> None:
    days = [
        replace(day, scenario=day.scenario.model_copy(update={"duration_s": 3600.0 * hours})) for day in some_days()
    ]
    assert seeds_for(days) == seeds
    assert len(days) * hours * 3600.0 * seeds >= REPLAYED_S or seeds == MOST_SEEDS
