"""Follows a registry: which version decides, whose turn it is while a candidate is on trial, and what comes of that.

The registry is looked at before every tick. A version that cannot be loaded changes nothing: the one before goes on, and
that is said. What this sidecar itself moves there (a promotion after a passed trial, the end of another one, a rollback)
it tells the registry which incumbent it found; who moved meanwhile was first. Where the registry cannot be written, the
sidecar acts all the same, and tries to write again at every tick.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from ..agents.checkpoint import CheckpointError
from ..agents.registry import (
    CANARY,
    Conflict,
    Registry,
    State,
    Verdict,
    name_of_version,
    predecessor,
    promoted_at,
)
from ..agents.registry import (
    Evidence as Found,
)
from ..env.contract import Action, Cluster, Memory, Mode, Plan, Reason, ReasonCode, Snapshot
from ..telemetry.exported_versions import VersionMetrics
from ..telemetry.record import Sat
from . import trial as trials
from .choosing import Decider, PolicyChoice
from .deciding import Proposed
from .fencing import UNFENCED, Fence
from .ladder import Evidence
from .thinking import Thinker
from .trial import Outcome, Rules, Trial
from .understudy import Reply, Understudy
from .waiting import FIGURE, Wait, read_wait

_LOG: Final = logging.getLogger(__name__)


@dataclass
class Versions:
    """The version that decides and, during a trial, the one beside it."""

    registry: Registry
    cluster: Cluster
    thinker: Thinker
    """Asks the incumbent."""
    rules: Rules
    probation_s: float
    """Wall-clock seconds after a promotion."""
    patience_s: float
    """Of the wall: so long a trial waits for the mode `active`; then it ends without a verdict."""
    miss_price: float | None = None
    """What versions act by instead of their cards'."""
    fence: Fence = UNFENCED
    on_sat: Callable[[Sat], None] = lambda sat: None
    """Told of every version that may decide from now on, and how to make it again."""
    metrics: VersionMetrics | None = None
    """Shows all of this."""
    trouble: str = ""
    """Why the registry cannot be followed; empty if it can."""
    incumbent: str = ""
    """Version that decides; empty before the first look."""
    trial: Trial | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The wall's clock, UTC."""
    _made: dict[str, Decider] = field(default_factory=dict, init=False)
    _candidate: Understudy | None = field(default=None, init=False)
    _reply: Reply | None = field(default=None, init=False)
    _owed: Callable[[], State] | None = field(default=None, init=False)
    """What the registry is yet to be told."""
    _wait: Wait | None = field(default=None, init=False)
    """While the mode is not `active` though a candidate is on trial."""
    _kept: tuple[str, Wait | None] | None = field(default=None, init=False)
    """Whose trial the evidence tells of, and of which wait."""
    _withdrawn: str = field(default="", init=False)
    """Version that was rolled back from, whatever the registry says yet."""
    _blameless_until_s: float = field(default=-math.inf, init=False)
    """After a trial: until then a candidate's last decisions still work."""
    _news: list[Reason] = field(default_factory=list, init=False)

    # Before a decision

    async def follow(self, mode: Mode) -> bool:
        """Look at the registry; whether another version decides from now on."""
        self._settle_up()
        try:
            state = self.registry.state()
            changed = await self._take_up(state)
            await self._follow_trial(state)
            if self._owed is None:
                self.trouble = ""
        except (CheckpointError, OSError) as error:
            self._say_trouble(f"registry: {error}")
            changed = False
        if self.trial is not None and self.trial.verdict is Verdict.RUNNING:
            self._wait_or_go_on(self.trial, mode)
        return changed

    @property
    def takes_turns(self) -> bool:
        """Whether the version that decides is compared with a candidate now, whosever turn it is."""
        return self.trial is not None and self.trial.verdict is Verdict.RUNNING and self._wait is None

    def tries(self, now_s: float, mode: Mode) -> bool:
        """Whether it is the candidate's turn."""
        return mode is Mode.ACTIVE and self.trial is not None and trials.is_candidates_at(self.trial, now_s)

    async def propose(
        self, snapshot: Snapshot, plan: Plan, patience_s: float, trouble: Reason | None, mode: Mode
    ) -> tuple[Proposed, Memory]:
        """As `Thinker.propose`; in its turn, the candidate's proposal with what the incumbent would do beside it."""
        own = self.thinker.propose(snapshot, plan, patience_s, trouble)
        self._reply = None
        if self._candidate is None or trouble is not None or mode is not Mode.ACTIVE:
            return await own
        # Only the shapes count.
        like = Action(plan.route, plan.attainment, plan.batch_cap, plan.batch_cap, plan.replicas)
        (proposed, memory), reply = await asyncio.gather(own, self._candidate.ask(snapshot, plan, like, patience_s))
        self._reply = reply
        if reply.action is None or not self.tries(float(snapshot.time_s), mode):
            return proposed, memory
        decider = self._made[self._trial.candidate]
        instead = Proposed(
            reply.action,
            decider.name,
            decider.policy_hash,
            proposed.rule,
            answer=reply.answer,
            incumbent=proposed.action,
        )
        return instead, reply.before

    def news(self) -> tuple[Reason, ...]:
        """What happened to versions since the last decision."""
        told, self._news = tuple(self._news), []
        return told

    # After a decision

    def judge(self, now_s: float, mode: Mode, found: Evidence, outcome: Outcome) -> bool:
        """What the tick says of the trial; whether it may be held for or against the incumbent.

        Args:
            now_s: of the decision.
            mode: in which the policy is; there are trials in `active` only.
            found: of the tick.
            outcome: of what was decided at the tick before.
        """
        counts = self._judge(now_s, mode, found, outcome)
        self._show()
        return counts

    def _judge(self, now_s: float, mode: Mode, found: Evidence, outcome: Outcome) -> bool:
        trial = self.trial
        if trial is None or mode is not Mode.ACTIVE or trial.verdict is not Verdict.RUNNING:
            return now_s >= self._blameless_until_s
        before, turn = len(trial.blocks), False
        trial = trials.told(trial, now_s, outcome)
        if trial.verdict is Verdict.RUNNING:
            trial = trials.at(trial, now_s)
            turn = trials.is_candidates(trial)
            reply = self._reply
            unusable = reply.trouble if reply is not None and not reply.late else None
            late = reply is not None and reply.late
            trial = trials.decided(
                trial,
                now_s,
                replace(found, failed=True) if late else found,
                f"{unusable.code}: {unusable.detail}" if unusable else "",
            )
        self.trial = trial
        if trial.verdict is not Verdict.RUNNING:
            if trial.verdict is not Verdict.PASS:
                self._blameless_until_s = now_s + trial.rules.settle_s
            self._conclude(trial)
        elif len(trial.blocks) > before:
            self._write(lambda: self._keep(trial))
        return not turn and now_s >= self._blameless_until_s and trials.settled(trial, now_s)

    def roll_back(self, why: str) -> bool:
        """After a breach: whether it goes back to the version before, from the next tick on.

        Only on probation, and where there is a version before: else the mode is what falls.
        """
        try:
            events = self.registry.history()
        except CheckpointError as error:
            self._say_trouble(f"registry: {error}")
            return False
        bad, before, since = self.incumbent, predecessor(events), promoted_at(events)
        if before is None or since is None or self._age_s(since) > self.probation_s:
            return False
        _LOG.warning("version %s goes back to %s: %s", bad, before, why)
        self._withdrawn = bad
        self._tell(before, f"rolled back from {bad}: {why}")
        self._owe(lambda: self.registry.rollback(why, expected_incumbent=bad))
        return True

    # What is told of it

    def _show(self) -> None:
        if self.metrics is None:
            return
        trial = self.trial
        if trial is None:
            self.metrics.show(self.incumbent, "", False, None)
        else:
            wait = self._wait
            turn, waits_s = (
                wait is None and trials.is_candidates(trial),
                0.0 if wait is None else wait.seconds(self.now()),
            )
            self.metrics.show(self.incumbent, trial.candidate, turn, trials.figures(trial), waits_s)

    @property
    def told(self) -> str:
        """The trial in words; empty if there is none."""
        if self.trial is None:
            return ""
        if self._wait is not None:
            return (
                f"{self.trial.candidate} on trial: {self._wait.in_words(self.patience_s, trials.progress(self.trial))}"
            )
        turn = ", its turn" if trials.is_candidates(self.trial) else ""
        return f"{self.trial.candidate} on trial: {self.trial.reason or trials.progress(self.trial)}{turn}"

    @property
    def _trial(self) -> Trial:
        assert self.trial is not None
        return self.trial

    # Versions

    async def _take_up(self, state: State) -> bool:
        """Have the registry's incumbent decide; the one before it where that was withdrawn and the registry lags behind."""
        wanted = state.incumbent
        if self._owed is None:
            self._withdrawn = ""
        elif wanted == self._withdrawn:
            wanted = predecessor(self.registry.history()) or wanted
        if wanted == self.incumbent:
            return False
        decider = await self._load(wanted)
        memory: Memory = {}
        if self._candidate is not None and self.trial is not None and self.trial.candidate == wanted:
            memory = self._candidate.memory  # it followed along
        first = not self.incumbent
        known, _ = self.thinker.remembered()
        if first and (known.name, known.policy_hash) == (decider.name, decider.policy_hash):
            memory = known.memory  # of an earlier term
        self.thinker.take(decider, memory)
        if not first:
            self._tell(wanted, f"decides instead of {self.incumbent}: {state.event.reason}")
        self.incumbent = wanted
        return not first

    async def _follow_trial(self, state: State) -> None:
        """Begin, go on with or give up a trial, as the registry says."""
        wanted = state.on_trial if self._owed is None else ""
        if self.trial is not None and (self.trial.candidate, self.trial.incumbent) != (wanted, state.incumbent):
            if self.trial.verdict is Verdict.RUNNING:
                self._tell(self.trial.candidate, "on trial no more: the registry says so")
            self.trial = self._candidate = self._wait = self._kept = None
        if not wanted or self.trial is not None or state.incumbent != self.incumbent:
            return
        decider = await self._load(wanted)
        known = self.registry.evidence(wanted).get(CANARY)
        trial = trials.begun(self.rules, wanted, state.incumbent)
        if known is not None and known.verdict is Verdict.RUNNING and known.incumbent == state.incumbent:
            trial, self._wait = trials.resumed(trial, known.figures), read_wait(known.figures)
            self._kept = (wanted, self._wait)
        self.trial, self._candidate = trial, Understudy(decider)
        self._tell(wanted, f"on trial beside {state.incumbent}, {len(trial.blocks)} blocks done")

    def _wait_or_go_on(self, trial: Trial, mode: Mode) -> None:
        """In any mode but `active` nobody takes turns: the trial waits, says so, and does not wait for ever."""
        before, now = self._wait, self.now()
        self._wait = wait = None if mode is Mode.ACTIVE else Wait(mode, now if before is None else before.since)
        if wait is not None:
            self.trial = trial = trials.paused(trial)
            if wait.seconds(now) > self.patience_s:
                self.trial = trial = replace(
                    trial, verdict=Verdict.UNKNOWN, reason=wait.given_up(trials.progress(trial))
                )
                self._conclude(trial)
                self._wait = None
                return
        if wait != before:
            said = (
                "goes on: the mode is active"
                if wait is None
                else wait.in_words(self.patience_s, trials.progress(trial))
            )
            _LOG.warning("trial of %s %s", trial.candidate, said)
            self._tell(trial.candidate, f"trial: {said}")
        if self._kept != (trial.candidate, wait) and self._write(lambda: self._keep(trial)):
            self._kept = (trial.candidate, wait)

    async def _load(self, version: str) -> Decider:
        """A version, ready to be asked. CheckpointError if it cannot be used."""
        if version not in self._made:
            chosen = PolicyChoice(name_of_version(self.registry, version), miss_price=self.miss_price)
            made = await asyncio.to_thread(chosen.make, self.cluster)
            self._made[version] = made
            self.on_sat(chosen.sat(made))
        return self._made[version]

    # Telling the registry

    def _conclude(self, trial: Trial) -> None:
        """Write the verdict down, and what follows from it."""
        _LOG.warning("trial of %s: %s: %s", trial.candidate, trial.verdict, trial.reason)
        self._tell(trial.candidate, f"trial: {trial.verdict}: {trial.reason}")

        def moved() -> State:
            self._keep(trial)
            if trial.verdict is Verdict.PASS:
                try:
                    return self.registry.promote(trial.candidate, trial.incumbent)
                except CheckpointError as error:
                    return self.registry.end_trial(trial.candidate, f"passed, and not promoted: {error}")
            return self.registry.end_trial(trial.candidate, f"{trial.verdict}: {trial.reason}")

        self._owe(moved)

    def _keep(self, trial: Trial) -> None:
        """The trial's evidence so far."""
        told, wait, reason = trials.figures(trial), self._wait, trial.reason or trials.progress(trial)
        if wait is not None:
            told[FIGURE] = wait.as_json()
            if trial.verdict is Verdict.RUNNING:
                reason = wait.in_words(self.patience_s, trials.progress(trial))
        self.registry.keep(Found(CANARY, trial.candidate, trial.incumbent, trial.verdict, reason, told))

    def _owe(self, move: Callable[[], State]) -> None:
        self._owed = move
        self._settle_up()

    def _settle_up(self) -> None:
        """Tell the registry what it is yet to be told, if it can be written now."""
        if self._owed is None:
            return
        owed = self._owed
        try:
            with self.fence.held():
                owed()
        except Conflict as error:  # somebody else moved it first: theirs stands
            self._say_trouble(f"registry: {error}")
        except (CheckpointError, OSError) as error:
            self._say_trouble(f"registry not told yet: {error}")
            return
        self._owed = None

    def _write(self, write: Callable[[], None]) -> bool:
        """Something that may as well be lost; whether it was written."""
        try:
            with self.fence.held():
                write()
        except (CheckpointError, OSError) as error:
            self._say_trouble(f"registry: {error}")
            return False
        return True

    def _say_trouble(self, text: str) -> None:
        if text != self.trouble:
            _LOG.warning("%s", text)
        self.trouble = text

    def _tell(self, version: str, text: str) -> None:
        self._news.append(Reason(ReasonCode.VERSION, version, math.nan, math.nan, text))

    def _age_s(self, at: str) -> float:
        return (self.now() - datetime.fromisoformat(at)).total_seconds()
