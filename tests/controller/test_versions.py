"""The sidecar follows its registry: who decides, whose turn it is, what a verdict and a breach lead to."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from poolpilot.agents.portfolio import PLAN_TRACKING, make_rule
from poolpilot.agents.registry import BEFORE_TRIAL, CANARY, Registry, Verdict, name_of_version
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.controller.deciding import Proposed
from poolpilot.controller.ladder import Evidence
from poolpilot.controller.thinking import Thinker
from poolpilot.controller.trial import Outcome, Rules, candidates_window
from poolpilot.controller.versions import Versions
from poolpilot.env.contract import Action, Memory, Mode, Plan, Snapshot
from poolpilot.env.scenario.control import Gates
from poolpilot.env.scenario.control import Trial as Asked
from poolpilot.telemetry.exported_versions import VersionMetrics
from poolpilot.telemetry.record import Sat
from poolpilot.tests.agents.registry.candidates import a_checkpoint, let_through

from .ticks import a_plan, a_sitting, a_snapshot

TICK_S = 10.0
PATIENCE_S = 86_400.0
"""So long a trial waits for its mode."""
CLUSTER = a_sitting().cluster
SHORT = Asked(share=0.5, settle_s=0.0, measure_s=20.0, attainment_slack=0.02, blocks=40)
"""With so much slack a good candidate passes in about ten blocks, whichever windows are drawn."""
C = len(CLUSTER.class_names)


@dataclass
class Desk:
    """Drives `Versions` as the loop does, in a world whose requests and bills hang on who decided."""

    registry: Registry
    misses: dict[str, float] = field(default_factory=dict)
    """By version: share of requests that miss beyond 3 %."""
    asked: Asked = field(default_factory=lambda: SHORT)
    probation_s: float = 3600.0
    sats: list[Sat] = field(default_factory=list)
    mode: Mode = Mode.ACTIVE

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.shown = CollectorRegistry()
        self.now_s = 0.0
        self.later = timedelta()
        """How far the wall's clock was moved on."""
        self.versions = self.fresh()
        self.who: list[str] = []
        self.news: list[str] = []
        self.held: list[bool] = []
        """Whether each tick counts for or against the incumbent."""

    def fresh(self) -> Versions:
        """Of a sidecar that was just started."""
        self.shown = CollectorRegistry()
        fallback = make_rule(PLAN_TRACKING)(CLUSTER)
        rules = Rules(CLUSTER.class_names, 2, self.asked.settle_s or 0.0, self.asked.measure_s, self.asked, Gates())
        return Versions(
            self.registry,
            CLUSTER,
            Thinker(fallback, fallback),
            rules,
            self.probation_s,
            PATIENCE_S,
            now=self.wall,
            on_sat=self.sats.append,
            metrics=VersionMetrics(self.shown),
        )

    def wall(self) -> datetime:
        """UTC."""
        return datetime.now(UTC) + self.later

    def tick(self) -> Proposed:
        """One round."""
        return asyncio.run(self._tick())

    async def _tick(self) -> Proposed:
        versions, mode = self.versions, self.mode
        await versions.follow(mode)
        snapshot = a_snapshot(CLUSTER, self.now_s, self.rng)
        proposed, _ = await versions.propose(snapshot, a_plan(CLUSTER), 30.0, None, mode)
        self.news += [f"{r.subject}: {r.detail}" for r in versions.news()]
        decided = self.who[-1] if self.who else ""
        judged = np.full(C, 200.0)
        met = self.rng.binomial(200, 0.97 - self.misses.get(decided, 0.0), C).astype(np.float64)
        usd = float(np.exp(self.rng.normal(0.0, 0.02)))
        fine = np.full(C, 0.95)
        held = versions.judge(
            self.now_s, mode, Evidence(judged, met, fine, fine, fine, 0, False), Outcome(judged, met, usd, 1.0)
        )
        self.held.append(held)
        self.who.append(proposed.policy_hash)
        self.now_s += TICK_S
        return proposed

    def until(self, holds: Callable[[], bool], most: int = 400) -> int:
        """Ticks until then."""
        for k in range(most):
            if holds():
                return k
            self.tick()
        pytest.fail(f"not within {most} ticks; {self.versions.told}; {self.versions.trouble}; {self.news[-3:]}")


def blocks_of(desk: Desk) -> int:
    return len(desk.versions.trial.blocks) if desk.versions.trial else 0


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.found(tmp_path / "registry", a_checkpoint(tmp_path / "first", name="first"))


@pytest.fixture
def candidate(registry: Registry, tmp_path: Path) -> str:
    return registry.add(a_checkpoint(tmp_path / "second", name="second", pool_output=(0.3, 0.2, 0.0, 0.0)))


def test_the_incumbent_decides_and_the_log_can_make_it_again(registry: Registry) -> None:
    desk = Desk(registry)
    proposed = desk.tick()
    assert (proposed.policy_name, proposed.policy_hash) == ("first", registry.incumbent())
    [sat] = desk.sats
    assert (sat.policy_hash, PolicyChoice.of(sat.chosen).make(CLUSTER).policy_hash) == (registry.incumbent(),) * 2


@pytest.mark.parametrize("promoted_meanwhile", [False, True], ids=["the same version", "another one by now"])
def test_a_version_goes_on_from_what_it_remembered_in_an_earlier_term(
    registry: Registry, candidate: str, promoted_meanwhile: bool
) -> None:
    desk = Desk(registry)
    desk.tick()
    before, _ = desk.versions.thinker.remembered()
    made = PolicyChoice(name_of_version(registry, registry.incumbent())).make(CLUSTER)
    if promoted_meanwhile:
        registry.promote(candidate, registry.incumbent(), force="by hand")
    desk.versions = desk.fresh()
    thinker = desk.versions.thinker = Thinker(made, make_rule(PLAN_TRACKING)(CLUSTER))
    thinker.recall(before.memory, {})
    asyncio.run(desk.versions.follow(Mode.ACTIVE))
    now, _ = thinker.remembered()
    assert before.memory
    assert (now.memory == before.memory) is not promoted_meanwhile
    assert now.policy_hash == registry.incumbent()


def test_a_promotion_by_hand_is_followed_at_the_next_tick(registry: Registry, candidate: str) -> None:
    desk = Desk(registry)
    first = desk.tick().policy_hash
    registry.promote(candidate, first, force="by hand")
    assert desk.tick().policy_hash == candidate
    assert desk.news == [f"{candidate}: decides instead of {first}: by hand"]


def test_a_version_that_cannot_be_loaded_changes_nothing_and_is_said(registry: Registry, candidate: str) -> None:
    desk = Desk(registry)
    first = desk.tick().policy_hash
    registry.promote(candidate, first, force="by hand")
    path = registry.folder / "versions" / candidate / "checkpoint" / "policy.onnx"
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1])
    assert desk.tick().policy_hash == first
    assert "policy.onnx" in desk.versions.trouble
    path.write_bytes(whole)
    assert desk.tick().policy_hash == candidate
    assert desk.versions.trouble == ""


def test_a_registry_that_is_gone_or_spoilt_leaves_the_incumbent_deciding(registry: Registry) -> None:
    desk = Desk(registry)
    first = desk.tick().policy_hash
    state = registry.folder / "state.json"
    whole = state.read_bytes()
    for spoilt in (b"{", b""):
        state.write_bytes(spoilt)
        assert desk.tick().policy_hash == first
        assert "state.json" in desk.versions.trouble
    state.unlink()
    assert desk.tick().policy_hash == first
    state.write_bytes(whole)
    desk.tick()
    assert desk.versions.trouble == ""


# Trials


def on_trial(registry: Registry, candidate: str) -> None:
    let_through(registry, candidate, BEFORE_TRIAL)
    registry.begin_trial(candidate, registry.incumbent())


def test_a_good_candidate_takes_turns_and_is_promoted_with_its_evidence(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    first, desk = registry.incumbent(), Desk(registry)
    ticks = desk.until(lambda: registry.incumbent() == candidate)
    share = desk.who.count(candidate) / ticks
    assert 0.4 < share < 0.6
    assert set(desk.who) == {first, candidate}
    found = registry.evidence(candidate)[CANARY]
    assert (found.verdict, found.incumbent) == (Verdict.PASS, first)
    assert desk.tick().policy_hash == candidate
    assert registry.state().on_trial == ""
    assert [e.kind for e in registry.history()][-1] == "promoted"


def test_in_its_turn_the_incumbents_wish_goes_for_what_is_beyond_its_reach(registry: Registry, tmp_path: Path) -> None:
    halved = registry.add(a_checkpoint(tmp_path / "halved", name="halved", pool_output=(0.0, 0.0, -1.0, 0.0)))
    on_trial(registry, halved)
    desk, alone, whose = Desk(registry), Desk(Registry.found(tmp_path / "alone", tmp_path / "first")), []
    for _ in range(8):
        proposed, wish = desk.tick(), alone.tick()
        whose.append(proposed.policy_hash)
        assert (proposed.incumbent is not None) == (proposed.policy_hash == halved)
        if proposed.incumbent is not None:
            assert_same(proposed.incumbent, wish.action)
            assert (proposed.action.batch_cap < wish.action.batch_cap).all(), "the candidate halves every cap"
        else:
            assert_same(proposed.action, wish.action)
    assert set(whose) == {registry.incumbent(), halved}


def assert_same(own: Action, other: Action) -> None:
    """To the last bit."""
    for part in fields(own):
        np.testing.assert_array_equal(getattr(own, part.name), getattr(other, part.name), part.name)


def test_a_trial_is_shown_to_prometheus_as_long_as_it_lasts(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    first, desk = registry.incumbent(), Desk(registry, asked=SHORT.model_copy(update={"attainment_slack": 0.002}))
    desk.until(lambda: blocks_of(desk) == 7)

    def shown(name: str, **labels: str) -> float | None:
        return desk.shown.get_sample_value(f"poolpilot_{name}", labels)

    assert shown("version_info", version=first, role="incumbent") == 1.0
    assert shown("version_info", version=candidate, role="candidate") == 1.0
    assert shown("trial_blocks") == 7.0
    low, mean, high = (shown("trial_difference", measure="bill", end=end) for end in ("low", "mean", "high"))
    assert low is not None
    assert mean is not None
    assert high is not None
    assert low < mean < high
    registry.end_trial(candidate, "enough")
    desk.tick()
    assert shown("version_info", version=candidate, role="candidate") is None
    assert math.isnan(shown("trial_blocks") or 0.0)


def test_a_bad_candidate_is_caught_and_turned_down(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    first = registry.incumbent()
    desk = Desk(registry, misses={candidate: 0.1})
    desk.until(lambda: registry.state().on_trial == "")
    found = registry.evidence(candidate)[CANARY]
    assert (registry.incumbent(), found.verdict) == (first, Verdict.FAIL)
    assert "attainment of" in found.reason
    assert found.figures["suffered_frac"] > 0.0
    for _ in range(12):
        assert desk.tick().policy_hash == first


def test_what_a_candidate_left_behind_is_not_held_against_the_incumbent(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    asked = Asked(share=0.5, settle_s=40.0, measure_s=20.0, blocks=40)
    desk = Desk(registry, misses={candidate: 0.9}, asked=asked)  # so bad that it is a breach in its turn
    desk.until(lambda: registry.state().on_trial == "")
    since_s = desk.now_s
    assert desk.held[-1] is False, "the candidate's own tick"
    desk.until(lambda: desk.held[-1])
    assert desk.now_s - since_s == pytest.approx(asked.settle_s, abs=2 * TICK_S)
    assert registry.evidence(candidate)[CANARY].verdict is Verdict.FAIL


class Poisoned:
    """Answers what no policy should."""

    name, policy_hash = "second", "poisoned"

    def __init__(self, what: str, inside: object) -> None:
        self.what, self.inside = what, inside

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        if self.what == "error":
            raise ZeroDivisionError("no load")
        action = Action(plan.route, np.ones(C), plan.batch_cap, plan.batch_cap, plan.replicas)
        if self.what == "NaN":
            return replace(action, replicas=action.replicas * math.nan), memory
        return replace(action, replicas=action.replicas[:1]), memory


@pytest.mark.parametrize(
    ("what", "said"),
    [("NaN", "not_finite"), ("error", "ZeroDivisionError: no load"), ("shape", "replicas has shape")],
)
def test_a_candidate_without_a_usable_answer_is_turned_down_and_the_incumbent_decides_that_very_tick(
    registry: Registry, candidate: str, what: str, said: str
) -> None:
    on_trial(registry, candidate)
    first, desk = registry.incumbent(), Desk(registry)
    desk.tick()
    assert desk.versions._candidate is not None
    desk.versions._candidate.policy = Poisoned(what, None)  # as a network that turns bad on what it sees live
    for _ in range(3):
        assert desk.tick().policy_hash == first
    found = registry.evidence(candidate)[CANARY]
    assert found.verdict is Verdict.FAIL
    assert said in found.reason


def test_there_are_no_turns_while_the_policy_only_advises(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    first, desk = registry.incumbent(), Desk(registry, mode=Mode.ADVISE)
    for _ in range(10):
        assert desk.tick().policy_hash == first


def test_a_restarted_sidecar_goes_on_with_the_trial(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    desk = Desk(registry)
    desk.until(lambda: blocks_of(desk) == 4)
    assert registry.evidence(candidate)[CANARY].verdict is Verdict.RUNNING
    desk.versions, desk.now_s, desk.who = desk.fresh(), 0.0, []
    desk.tick()
    assert desk.versions.trial is not None
    assert len(desk.versions.trial.blocks) == 4
    desk.until(lambda: registry.incumbent() == candidate)


def test_a_trial_that_somebody_ends_or_overtakes_is_given_up(
    registry: Registry, candidate: str, tmp_path: Path
) -> None:
    on_trial(registry, candidate)
    first, desk = registry.incumbent(), Desk(registry)
    desk.tick()
    registry.end_trial(candidate, "enough")
    for _ in range(6):
        assert desk.tick().policy_hash == first
    third = registry.add(a_checkpoint(tmp_path / "third", pool_output=(0.1, 0.0, 0.0, 0.0)))
    registry.begin_trial(candidate, first)
    desk.tick()
    registry.promote(third, first, force="by hand")
    for _ in range(6):
        assert desk.tick().policy_hash == third
    assert desk.versions.trial is None


# While the mode is another one


def waiting(registry: Registry, candidate: str) -> tuple[Desk, datetime]:
    """A sidecar that stepped back after two blocks of a trial, and when."""
    on_trial(registry, candidate)
    desk = Desk(registry)
    desk.until(lambda: blocks_of(desk) == 2)
    desk.mode = Mode.CANARY
    desk.tick()
    return desk, datetime.fromisoformat(registry.evidence(candidate)[CANARY].figures["waits"]["since"])


def test_a_trial_under_a_sidecar_that_stepped_back_waits_and_says_so_everywhere(
    registry: Registry, candidate: str
) -> None:
    desk, since = waiting(registry, candidate)
    said = f"waits since {since:%Y-%m-%d %H:%M} UTC, the mode is canary and turns are taken in active; ends without a verdict"
    assert said in desk.versions.told
    assert "2 of at most 40 blocks" in desk.versions.told
    assert any(said in news for news in desk.news)
    found = registry.evidence(candidate)[CANARY]
    assert (found.verdict, found.figures["waits"]["mode"]) == (Verdict.RUNNING, "canary")
    assert said in found.reason
    desk.later += timedelta(minutes=5)
    before = len(registry.history())
    for _ in range(6):
        assert desk.tick().policy_hash == registry.incumbent()
        assert desk.shown.get_sample_value("poolpilot_trial_turn") == 0.0
    assert desk.shown.get_sample_value("poolpilot_trial_waiting_seconds") == pytest.approx(300.0, abs=30.0)
    assert len(registry.history()) == before, "said once, not at every tick"


def test_a_trial_goes_on_with_what_it_knows_when_the_mode_is_active_again(registry: Registry, candidate: str) -> None:
    desk, _ = waiting(registry, candidate)
    desk.mode = Mode.ACTIVE
    desk.tick()
    assert "goes on" in desk.news[-1]
    assert desk.shown.get_sample_value("poolpilot_trial_waiting_seconds") == 0.0
    assert "waits" not in registry.evidence(candidate)[CANARY].figures
    assert blocks_of(desk) == 2
    desk.until(lambda: blocks_of(desk) == 3)
    assert candidate in desk.who[-4:]


def test_a_trial_that_has_waited_too_long_ends_without_a_verdict_and_may_be_begun_again(
    registry: Registry, candidate: str
) -> None:
    desk, since = waiting(registry, candidate)
    desk.versions, desk.later = desk.fresh(), timedelta(seconds=PATIENCE_S - 60.0)  # a restart begins no new wait
    desk.tick()
    assert registry.state().on_trial == candidate
    desk.later += timedelta(seconds=60.0)
    desk.tick()
    found = registry.evidence(candidate)[CANARY]
    assert (registry.state().on_trial, registry.incumbent()) == ("", found.incumbent)
    assert found.verdict is Verdict.UNKNOWN
    assert f"the mode has not been active since {since:%Y-%m-%d %H:%M} UTC; 2 of at most 40 blocks" in found.reason
    assert registry.history()[-1].reason == f"{found.verdict}: {found.reason}"
    desk.tick()
    assert desk.versions.told == ""
    registry.begin_trial(candidate, registry.incumbent())
    desk.mode = Mode.ACTIVE
    desk.until(lambda: blocks_of(desk) == 1)


def test_a_trial_that_waits_is_ended_by_hand(registry: Registry, candidate: str) -> None:
    desk, _ = waiting(registry, candidate)
    registry.end_trial(candidate, "enough")
    desk.tick()
    assert desk.versions.told == ""
    assert desk.news[-1].endswith("on trial no more: the registry says so")
    assert math.isnan(desk.shown.get_sample_value("poolpilot_trial_waiting_seconds") or 0.0)


def test_what_could_not_be_written_of_a_wait_is_written_later(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    desk = Desk(registry)
    desk.tick()
    desk.mode = Mode.CANARY
    with pytest.MonkeyPatch.context() as patched:

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        desk.tick()
        assert "No space left" in desk.versions.trouble
    assert "waits" not in registry.evidence(candidate)[CANARY].figures
    desk.tick()
    assert registry.evidence(candidate)[CANARY].figures["waits"]["mode"] == "canary"


# Probation


def test_a_breach_on_probation_goes_back_by_the_next_tick_and_is_written_down(
    registry: Registry, candidate: str
) -> None:
    first, desk = registry.incumbent(), Desk(registry)
    registry.promote(candidate, first, force="by hand")
    assert desk.tick().policy_hash == candidate
    assert desk.versions.roll_back("chat: 60 % met their targets")
    assert desk.tick().policy_hash == first
    last = registry.history()[-1]
    assert (last.kind, last.version, last.reason) == ("rolled back", first, "chat: 60 % met their targets")


def test_a_full_disk_does_not_keep_a_bad_version_deciding(registry: Registry, candidate: str) -> None:
    first, desk = registry.incumbent(), Desk(registry)
    registry.promote(candidate, first, force="by hand")
    desk.tick()
    with pytest.MonkeyPatch.context() as patched:

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        assert desk.versions.roll_back("slow")
        for _ in range(3):
            assert desk.tick().policy_hash == first
        assert "registry not told yet" in desk.versions.trouble
        assert registry.incumbent() == candidate
    assert desk.tick().policy_hash == first
    assert (registry.incumbent(), desk.versions.trouble) == (first, "")


def test_after_probation_and_for_the_first_version_a_breach_is_the_modes(registry: Registry, candidate: str) -> None:
    desk = Desk(registry)
    first = desk.tick().policy_hash
    assert not desk.versions.roll_back("slow")
    registry.promote(candidate, first, force="by hand")
    desk.tick()
    desk.versions.probation_s = 0.0
    assert not desk.versions.roll_back("slow")
    assert registry.incumbent() == candidate


def test_probation_is_counted_from_the_promotion_also_after_a_restart(registry: Registry, candidate: str) -> None:
    registry.promote(candidate, registry.incumbent(), force="by hand")
    long_ago = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    for name in ("state.json", "history.jsonl"):
        path = registry.folder / name
        lines = path.read_text().splitlines() if name.endswith("l") else [path.read_text()]
        documents = [json.loads(line) for line in lines]
        last = documents[-1] if name.endswith("l") else documents[-1]["event"]
        last["at"] = long_ago
        path.write_text("".join(json.dumps(d) + "\n" for d in documents))
    desk = Desk(registry)
    desk.tick()
    assert not desk.versions.roll_back("slow")


def test_the_windows_are_drawn_and_not_chosen(registry: Registry, candidate: str) -> None:
    on_trial(registry, candidate)
    desk = Desk(registry)
    for _ in range(12):
        desk.tick()
    trial = desk.versions.trial
    assert trial is not None
    ticks_a_window = 2
    for block in range(3):
        own = [who == candidate for who in desk.who[4 * block : 4 * block + 4]]
        window = candidates_window(trial, block)
        assert own == [k // ticks_a_window == window for k in range(4)]
