"""What one replica carries of each bucket of a demand, and why not where it carries nothing.

A replica may serve several classes, and the strictest of them decides how full it may be. So a capacity belongs to a
set of classes: each class of the set by itself may fill the replica as far as every other one that came by would still
meet its targets. Whatever mix then comes, the shares of the replica's time that its requests take add up.

Symbols: `C` classes, `B` buckets, `M` cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...env.contract import BoolArray, FloatArray, IntArray, Targets
from ...env.perf.crowd import Mix, Replica
from ...env.perf.law import IterationLaw
from ...env.perf.mixes import Promises, attained, lone_per_s, most_per_s, work_s
from ...env.scenario.pools import Engine
from .demand import Demand

__all__ = ["Carried", "carried", "carried_by_sets", "replica_of"]

PASSING = 0.03
"""Share of a replica's time that the other classes take together where one class fills it."""
WORTH_A_SET = 1.05
"""A smaller set of classes is worth a pool of its own from so many times the capacity on."""
_PASSING_PROMPTS, _PASSING_ANSWERS = (0.5, 0.8, 0.95), (0.3, 0.7)
"""Where the lengths of classes that pass by are cut: what fills the replica is known more finely."""
_TRICKLE = 1e-3
"""Of the rate of a replica that serves one request after the other: too little for anybody to wait."""


class Carried(NamedTuple):
    """What a replica carries that serves some classes."""

    classes: tuple[int, ...]
    """Those that may come to it, and that it can serve."""
    capacity_per_s: FloatArray
    """`[B]`"""
    class_per_s: FloatArray
    """`[C]` of a whole class by itself, in its own mix of lengths."""
    why_not: tuple[str, ...]
    """`[B]` empty where it carries something."""
    whole: bool
    """Whether it is open to all the classes that it can serve."""


def replica_of(law: IterationLaw, kv_tokens: int, engine: Engine, batches_in_flight: int = 1) -> Replica:
    """A replica that was started with these flags; a pipeline has a batch in flight on each stage."""
    return Replica(
        law=law.as_row(),
        kv_tokens=float(kv_tokens),
        max_num_seqs=float(engine.max_num_seqs),
        token_budget=float(engine.max_num_batched_tokens * batches_in_flight),
        longest=float(min(engine.max_model_len, kv_tokens)),
    )


def carried(replica: Replica, demand: Demand, serves: BoolArray, targets: Targets) -> Carried:
    """What it carries if all the classes `serves` `[C]` may come to it."""
    return _Carrying(replica, demand, serves, targets).together()


def carried_by_sets(replica: Replica, demand: Demand, serves: BoolArray, targets: Targets) -> Iterator[Carried]:
    """The same, and for each smaller set of classes that is worth replicas of its own: the set without its strictest
    classes, and each class alone."""
    carrying = _Carrying(replica, demand, serves, targets)
    everybody = carrying.together()
    yield everybody
    strictest_first = sorted(everybody.classes, key=carrying.iteration_s)
    looser = [tuple(sorted(strictest_first[n:])) for n in range(1, len(strictest_first))]
    best = everybody.class_per_s
    for classes in dict.fromkeys([*looser, *((c,) for c in everybody.classes)]):
        # A class carries most where it is alone: often that settles it.
        if classes == everybody.classes or not carrying.may_beat(best, classes):
            continue
        own = carrying.together(classes)
        if (own.class_per_s > WORTH_A_SET * best).any():
            best = np.maximum(best, own.class_per_s)
            yield own


class _Kinds(NamedTuple):
    """Requests of one class by kind. Symbol: `K` kinds."""

    prompt: FloatArray
    """`[K]`"""
    decodes: FloatArray
    """`[K]`"""
    share: FloatArray
    """`[K]` sums to 1."""


def _parts(tokens: FloatArray, share: FloatArray, ends: tuple[float, ...]) -> IntArray:
    """`[K]` which part each kind is in, in the order of the lengths, cut at these shares."""
    order = np.argsort(tokens, kind="stable")
    part = np.empty(len(tokens), dtype=np.int64)
    part[order] = np.searchsorted(ends, np.cumsum(share[order]) - share[order] / 2.0)
    return part


class _Carrying:
    """One replica and one demand."""

    def __init__(self, replica: Replica, demand: Demand, serves: BoolArray, targets: Targets) -> None:
        self._replica, self._demand = replica, demand
        cells, n_classes = demand.fine, len(demand.class_names)
        self._bucket, self._in_bucket = cells.bucket, cells.share
        self._class = demand.class_index[cells.bucket]
        rate = demand.rate_per_s[cells.bucket] * cells.share
        asked = np.bincount(self._class, rate, n_classes)[self._class]
        known = np.bincount(self._class, cells.share, n_classes)[self._class]
        self._share: FloatArray = np.where(asked > 0, rate / np.where(asked > 0, asked, 1.0), cells.share / known)
        self._prompt, self._decodes = cells.prompt_tokens, np.maximum(cells.output_tokens - 1.0, 0.0)
        e2e_s, deadline_s = (np.nan_to_num(s, nan=np.inf) for s in (targets.e2e_s, targets.deadline_s))
        ttft_s, tpot_s = (np.nan_to_num(s, nan=np.inf) for s in (targets.ttft_s, targets.tpot_s))
        self._promises = Promises(ttft_s, tpot_s, np.minimum(e2e_s, deadline_s), targets.attainment)
        self._passing = [self._coarse(c) for c in range(n_classes)]
        self._alone = np.zeros(n_classes)
        for c in np.flatnonzero(serves).tolist():
            self._alone[c] = most_per_s(self._replica, *self._of((c,), np.ones(1), c), 0.0)

    def together(self, classes: tuple[int, ...] | None = None) -> Carried:
        """For these classes; None: all that it can serve at all."""
        able = tuple(np.flatnonzero(self._alone > 0).tolist()) if classes is None else classes
        replica_s = np.full(len(self._demand.class_index), np.inf)
        class_per_s = np.zeros(len(self._alone))
        for place, c in enumerate(able):
            # The class fills the replica but for a little of the others, in shares of its time.
            filled = np.full(len(able), PASSING / max(len(able) - 1, 1))
            filled[place] = 1.0 - PASSING if len(able) > 1 else 1.0
            rates = filled * self._alone[list(able)]
            mix, promises = self._of(able, rates / rates.sum(), c)
            alone = float(rates.sum())
            rate = alone if len(able) == 1 else most_per_s(self._replica, mix, promises, alone)
            if rate <= 0.0:
                continue
            class_per_s[c] = rate * rates[place] / rates.sum() / filled[place]
            works = np.zeros(len(mix.weight))
            work_s(self._replica, mix, rate, works)
            mine = self._class == c
            own = works[mix.class_index == place]
            own /= class_per_s[c] * (own @ self._share[mine])
            buckets = self._bucket[mine]
            replica_s[np.unique(buckets)] = 0.0
            np.add.at(replica_s, buckets, own * self._in_bucket[mine])
        tokens = self._demand.prompt_tokens + self._demand.output_tokens
        replica_s[tokens > self._replica.longest] = np.inf
        told = tuple(self._why_not(b, able, float(replica_s[b])) for b in range(len(tokens)))
        return Carried(able, 1.0 / replica_s, class_per_s, told, whole=classes is None)

    def may_beat(self, class_per_s: FloatArray, classes: tuple[int, ...]) -> bool:
        """Whether one of the classes might carry more than that `[C]` where these have replicas of their own."""
        own = list(classes)
        return bool((self._alone[own] > WORTH_A_SET * class_per_s[own]).any())

    def iteration_s(self, c: int) -> float:
        """How long an iteration may last for a class: the shorter, the stricter it is."""
        decodes = float(self._decodes[self._class == c] @ self._share[self._class == c])
        return min(float(self._promises.tpot_s[c]), float(self._promises.e2e_s[c]) / max(decodes, 1.0))

    def _of(self, classes: tuple[int, ...], weights: FloatArray, fills: int) -> tuple[Mix, Promises]:
        """Requests of some classes with these shares of all, and what is promised to them; finely of the one that fills
        the replica."""
        kinds = [self._fine(c) if c == fills else self._passing[c] for c in classes]
        place = np.repeat(np.arange(len(classes)), [len(own.share) for own in kinds])
        prompt, decodes, share = (np.concatenate(column) for column in zip(*kinds, strict=True))
        mix = Mix(place, prompt, decodes, weights[place] * share, share)
        return mix, Promises(*(column[list(classes)] for column in self._promises))

    def _fine(self, c: int) -> _Kinds:
        mine = self._class == c
        return _Kinds(self._prompt[mine], self._decodes[mine], self._share[mine])

    def _coarse(self, c: int) -> _Kinds:
        """A class in fewer kinds: by prompt, then by answer, at these shares of its requests."""
        own = self._fine(c)
        row = _parts(own.prompt, own.share, _PASSING_PROMPTS)
        part = row * (len(_PASSING_ANSWERS) + 1)
        for r in np.unique(row):
            mine = row == r
            part[mine] += _parts(own.decodes[mine], own.share[mine] / own.share[mine].sum(), _PASSING_ANSWERS)
        part = np.unique(part, return_inverse=True)[1]
        share = np.bincount(part, own.share)
        prompt, decodes = (np.bincount(part, own.share * tokens) / share for tokens in own[:2])
        return _Kinds(prompt, decodes, share.astype(np.float64))

    def _why_not(self, b: int, able: tuple[int, ...], replica_s: float) -> str:
        """What keeps a bucket from being carried; empty if nothing does."""
        if np.isfinite(replica_s):
            return ""
        c = int(self._demand.class_index[b])
        tokens = float(self._demand.prompt_tokens[b] + self._demand.output_tokens[b])
        if tokens > self._replica.longest:
            return f"{tokens:.0f} tokens, and a replica holds {self._replica.longest:.0f}"
        if self._alone[c] > 0.0:
            return "beside the other classes nothing is left for it" if c in able else "kept for other classes"
        return self._missed(c)

    def _missed(self, c: int) -> str:
        """Which targets a lone request of a class would miss."""
        mix, promises = self._of((c,), np.ones(1), c)
        none, met = np.full(1, np.inf), np.zeros(1)
        told = []
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            target_s = float(getattr(promises, name)[0])
            if np.isfinite(target_s):
                only = Promises(none, none, none, promises.attainment)._replace(**{name: np.array([target_s])})
                attained(self._replica, mix, only, _TRICKLE * lone_per_s(self._replica, mix), met)
                if met[0] < promises.attainment[0]:
                    words = {"ttft_s": "time to first token", "tpot_s": "time per token", "e2e_s": "time to the end"}
                    told.append(f"{100 * met[0]:.0f} % would meet a {words[name]} of {target_s:g} s")
        return "on an idle replica " + (" and ".join(told) or "the targets are not met often enough together")
