"""What a record with exploration teaches: steps that were really made, with the density at which they were.

Observations are computed again from the recorded snapshot, plan and memory through the one codec that decided. A tick is
learned from only if the incumbent's network, asked again, answers what is recorded, and the recorded log-probability is
that of the recorded noise: a record that contradicts itself teaches nothing.

A step is a draw of noise and the ticks over which it was held, or as many ticks without. Symbols: `S` steps, `N` numbers
of an observation, `A` of an action, `C` classes, `W` columns of a tally.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...agents.blend import rules_of
from ...agents.checkpoint import ONNX, Checkpoint
from ...agents.exploring import DRAWN, SPREAD, log_probability, noise_in, without_noise
from ...agents.learned import INPUTS, OUTPUTS, network_session
from ...agents.portfolio import make_rule
from ...env.bending import Bending
from ...env.codec import CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS
from ...env.contract import Answer, FloatArray
from ...env.reward import allowances_missed, charge, reward
from ...env.rows import rows_of
from ...env.spaces import SpaceLayout
from ...env.window import ARRIVED
from ...telemetry.record import Episode, Record
from ...telemetry.record.defects import SUSPECT

SAME_ANSWER: Final = 2e-3
"""How far an answer that is asked for again may be off: another machine rounds differently."""
SAME_DENSITY: Final = 0.05
"""And a log-probability, in nats."""
MOST_CONTRADICTING: Final = 0.1
"""Of the ticks that should teach something; with more, the whole record is not trusted."""
FEWEST_STEPS: Final = 20
"""With fewer steps there is nothing to learn from."""
MOST_STEPS: Final = 20_000
"""The newest so many are learned from."""


class LiveError(ValueError):
    """A record must not be learned from; the message says why."""


@dataclass(frozen=True)
class Transitions:
    """Recorded steps in their order."""

    seen: NDArray[np.float32]
    """`[S, N]`"""
    actions: NDArray[np.float32]
    """`[S, A]` as the network answered them, noise included."""
    explored: NDArray[np.bool_]
    """`[S]`"""
    log_prob: FloatArray
    """`[S]` under the incumbent; 0 where there was no noise."""
    spread: FloatArray
    """`[S]` of the noise, in that of training; 1 where there was none."""
    rewards: FloatArray
    """`[S]` in usual bills, a usual bill being the mean of a tick of the episode; measured from the episode's mean."""
    follows: NDArray[np.bool_]
    """`[S]` whether the next row is the step that came after; what followed the others is not known."""
    ticks: FloatArray
    """`[S]` that the step lasted: as many as it has decisions, and more where one of them came late."""

    def __len__(self) -> int:
        """How many steps."""
        return len(self.seen)


@dataclass(frozen=True)
class Live:
    """What a record teaches, and what of it does not."""

    transitions: Transitions | None
    """None if there is too little."""
    left_out: dict[str, int]
    """Ticks, by reason."""

    @property
    def explored(self) -> int:
        """Steps with noise."""
        return 0 if self.transitions is None else int(self.transitions.explored.sum())

    @property
    def said(self) -> str:
        """One line."""
        left = "; ".join(f"{n} ticks left out: {why}" for why, n in self.left_out.items())
        found = f"{self.explored} recorded steps with exploration"
        return f"{found}; {left}" if left else found


def live_of(record: Record, incumbent: Checkpoint, hold: int) -> Live:
    """The steps of a record that the incumbent decided on, with noise or without.

    Args:
        record: read with memories.
        incumbent: whose decisions are learned from.
        hold: ticks of a step without noise.

    Raises:
        LiveError: answers are of another network or observation, or contradict what they should follow from.
    """
    asking = _Asking(incumbent)
    left: Counter[str] = Counter()
    bad = {defect.where: defect for defect in record.defects if defect.kind in SUSPECT}
    found = []
    for episode in record.episodes:
        defect = bad.get(episode.where)
        if defect is not None:
            left[f"{defect.kind}: {defect.subject}".rstrip(": ")] += len(episode)
            continue
        found += asking.steps(episode, hold, left)
    asking.refuse_contradictions()
    if sum(int(own.explored.sum()) for own in found) < FEWEST_STEPS:
        return Live(None, dict(left))
    whole = Transitions(*(np.concatenate([getattr(own, f.name) for own in found]) for f in fields(Transitions)))
    newest = Transitions(*(getattr(whole, f.name)[-MOST_STEPS:] for f in fields(Transitions)))
    return Live(newest, dict(left))


class _Asking:
    """Asks the incumbent again, and counts what does not come out as recorded."""

    def __init__(self, incumbent: Checkpoint) -> None:
        self._incumbent, self._layout = incumbent, SpaceLayout()
        self._session = network_session(incumbent)
        self._hashes = {incumbent.policy_hash, incumbent.version, str(incumbent.card["files"][ONNX])[:16]} - {""}
        self._asked = 0
        self._contradicting: Counter[str] = Counter()

    def steps(self, episode: Episode, hold: int, left: Counter[str]) -> list[Transitions]:
        """The steps of an episode, in stretches."""
        if len(episode.memory) != len(episode):
            raise LiveError(f"{episode.where}: read without memories, from which observations follow")
        cluster = episode.sitting.cluster
        self._layout.check(episode.sitting.scenario, len(cluster.class_names), len(cluster.pool_names))
        usable = np.zeros(len(episode), dtype=np.bool_)
        for t in range(len(episode)):
            why = self._why_not(episode, t)
            usable[t] = not why
            if why:
                left[why] += 1
        if not usable.any():
            return []
        bending = Bending(cluster, rules_of(self._incumbent.portfolio, make_rule)(cluster))
        rewards = rewards_of(episode, self._incumbent.miss_price)
        found = []
        for first, last in _runs(usable):
            own = self._stretch(episode, bending, rewards, range(first, last), hold)
            if own is not None:
                found.append(own)
        return found

    def refuse_contradictions(self) -> None:
        """LiveError if too much does not come out as recorded."""
        total = sum(self._contradicting.values())
        if total > MOST_CONTRADICTING * max(self._asked, 1):
            why, n = self._contradicting.most_common(1)[0]
            raise LiveError(
                f"{total} of {self._asked} recorded answers contradict the incumbent's network: {n} times {why}"
            )

    def _why_not(self, episode: Episode, t: int) -> str:
        """Why a tick teaches nothing; empty if it may."""
        answer = episode.answer[t]
        if episode.fell_back[t]:
            return "the fallback rule decided"
        if answer is None:
            return "decided by a rule"
        if episode.policy_hash[t] not in self._hashes:
            return f"decided by {episode.policy_hash[t]}, not by the incumbent"
        shapes = (answer.classes.shape[-1], answer.pools.shape[-1], answer.whole.shape[-1])
        if shapes != (CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS):
            raise LiveError(
                f"{episode.where}: tick {int(episode.tick[t])}: an answer of {shapes} numbers a class, a pool and the whole,"
                f" wanted {(CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS)}: the record is of another observation schema"
            )
        return ""

    def _stretch(
        self, episode: Episode, bending: Bending, rewards: FloatArray, ticks: range, hold: int
    ) -> Transitions | None:
        """Steps of consecutive usable ticks."""
        starts, t = [], ticks.start
        while t < ticks.stop:
            noise = noise_in(episode.memory[t])
            length = 1
            while length < (hold if noise is None else len(ticks)) and t + length < ticks.stop:
                if not _same_noise(noise, noise_in(episode.memory[t + length])):
                    break
                length += 1
            starts.append((t, length))
            t += length
        rows = []
        for t, length in starts:
            row = self._step(episode, bending, t)
            outcome = rewards[t + 1 : t + 1 + length]  # what came of tick t stands in the row after
            known = len(outcome) == length and bool(np.isfinite(outcome).all())
            lasted = float(episode.lasted_ticks[t + 1 : t + 1 + length].sum())
            rows.append((row, float(outcome.sum()) if known else np.nan, lasted))
        kept = [
            (row, worth, lasted, n + 1 < len(rows) and rows[n + 1][0] is not None)
            for n, (row, worth, lasted) in enumerate(rows)
            if row is not None and np.isfinite(worth)
        ]
        if not kept:
            return None
        return Transitions(
            seen=np.stack([row[0] for row, *_ in kept]),
            actions=np.stack([row[1] for row, *_ in kept]),
            explored=np.array([row[2] for row, *_ in kept]),
            log_prob=np.array([row[3] for row, *_ in kept]),
            spread=np.array([row[4] for row, *_ in kept]),
            rewards=np.array([worth for _, worth, _, _ in kept]),
            follows=_follow([follows for *_, follows in kept]),
            ticks=np.array([lasted for _, _, lasted, _ in kept]),
        )

    def _step(
        self, episode: Episode, bending: Bending, t: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], bool, float, float] | None:
        """Observation, action, whether explored, log-probability and spread of tick `t`; None if they contradict."""
        answer = episode.answer[t]
        assert answer is not None
        memory = without_noise(episode.memory[t])
        snapshot, plan = rows_of(episode.snapshot, t), rows_of(episode.plan, t)
        price = np.full(snapshot.time_s.shape, self._incumbent.miss_price)
        look, _ = bending.look(snapshot, plan, memory, price)
        parts = [np.asarray(getattr(look.seen, name), dtype=np.float32)[None] for name in INPUTS]  # a batch of one
        answers = self._session.run(OUTPUTS, dict(zip(INPUTS, parts, strict=True)))
        by_class, by_pool, whole = (np.asarray(out, dtype=np.float64)[0] for out in answers)
        asked = Answer(by_class, by_pool, whole)
        noise = noise_in(episode.memory[t])
        if noise is not None and not bool(episode.memory[t][DRAWN]):
            return None  # its draw is not in the record
        self._asked += 1
        off = _off(answer, asked, noise)
        if not off <= SAME_ANSWER:
            self._contradicting[f"an answer is off by {off:.3g}"] += 1
            return None
        spread, density = 1.0, 0.0
        if noise is not None:
            spread = float(episode.memory[t][SPREAD])
            density = log_probability(noise, spread, bending.cluster)
            if not abs(density - answer.log_probability) <= SAME_DENSITY:
                self._contradicting[f"a log-probability of {answer.log_probability:.3g} should be {density:.3g}"] += 1
                return None
        return self._flat(parts), self._flat_action(answer), noise is not None, density, spread

    def _flat(self, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """`[N]` padded to the layout."""
        most = (self._layout.max_classes, self._layout.max_pools)
        classes = np.pad(parts[0][0], ((0, most[0] - parts[0].shape[1]), (0, 0)))
        pools = np.pad(parts[1][0], ((0, most[1] - parts[1].shape[1]), (0, 0)))
        masks = [np.pad(parts[3 + k][0], (0, most[k] - parts[3 + k].shape[1])) for k in range(2)]
        flat: NDArray[np.float32] = np.concatenate([classes.ravel(), pools.ravel(), parts[2][0], *masks])
        return flat

    def _flat_action(self, answer: Answer) -> NDArray[np.float32]:
        """`[A]` padded to the layout."""
        classes = np.pad(answer.classes, ((0, self._layout.max_classes - len(answer.classes)), (0, 0)))
        pools = np.pad(answer.pools, ((0, self._layout.max_pools - len(answer.pools)), (0, 0)))
        return np.concatenate([classes.ravel(), pools.ravel(), answer.whole]).astype(np.float32)


def rewards_of(episode: Episode, miss_price: float) -> FloatArray:
    """`[T]` what each row's outcome is worth; NaN where nobody counted."""
    since, cluster = episode.since, episode.sitting.cluster
    counted = episode.counted & (since.span_s > 0)
    counted[:1] = False  # what came before the episode is of a decision that is not in it
    worth = np.full(len(episode), np.nan)
    if counted.sum() < 2:
        return worth
    usd = np.nansum(since.usd, axis=(1, 2))
    tally = since.tally.astype(np.float64)
    ticks = np.where(counted, episode.lasted_ticks, 1.0)
    whole = float(ticks[counted].sum())
    # A usual tick is the mean of the episode: live there is no plan of a whole day to measure by.
    usual_requests = tally[counted][..., ARRIVED].sum(axis=0) / whole
    usual_usd = float(usd[counted].sum()) / whole
    # One that came late is worth what as many ticks of its mean are.
    missed = allowances_missed(tally / ticks[:, None, None], cluster.targets.attainment, usual_requests)
    used, elapsed_s = np.zeros(missed.shape[1]), np.zeros(())
    for t in np.flatnonzero(counted):
        lasted_s = float(episode.lasted_s[t])
        charged, used = charge(missed[t], used, lasted_s, elapsed_s)
        elapsed_s = elapsed_s + lasted_s
        worth[t] = float(reward(usd[t], np.asarray(usual_usd), charged * ticks[t], np.asarray(miss_price)))
    worth -= ticks * (np.nansum(worth) / whole)
    return worth


def _off(answer: Answer, asked: Answer, noise: Answer | None) -> float:
    """By how much a recorded answer differs from what was asked for again, with the recorded noise."""
    parts = []
    for name in ("classes", "pools", "whole"):
        own = getattr(asked, name) + (0.0 if noise is None else getattr(noise, name))
        parts.append(np.abs(getattr(answer, name) - own).max(initial=0.0))
    return float(np.max(parts))


def _same_noise(a: Answer | None, b: Answer | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("classes", "pools", "whole"))


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and one past the last of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _follow(flags: list[bool]) -> NDArray[np.bool_]:
    """The last of a stretch is followed by nothing."""
    follows = np.array(flags, dtype=np.bool_)
    follows[-1] = False
    return follows
