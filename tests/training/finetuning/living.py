"""A cluster that is lived through as a sidecar lives: a registry's incumbent decides, explores if asked to, and it is recorded.

The world is the simulator; policy, exploration, guard, decision and record are those of the sidecar.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from poolpilot.agents.answering import decide_with_answer
from poolpilot.agents.learned import learned_policy
from poolpilot.agents.portfolio import PLAN_TRACKING, make_rule, policy_factory
from poolpilot.agents.registry import Registry
from poolpilot.controller.deciding import Proposed, conclude
from poolpilot.controller.exploring import FILE, Explorer
from poolpilot.env.batch import ClusterBatch, one_cluster
from poolpilot.env.contract import Action, Mode
from poolpilot.env.guard import first_state
from poolpilot.env.rows import rows_of
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.control import Exploration
from poolpilot.telemetry.record import Reach, Record, Since, Sitting, TickRecord, entry_of, read_stream
from poolpilot.telemetry.store import TickEntry
from poolpilot.training.worlds import episode_of

from ..clusters import TINY

POOLS = ("dear", "cheap")


def an_hour(folder: Path, seconds: int = 3600, rate_per_s: float = 4.0) -> Path:
    """The tiny scenario, for longer."""
    path = folder / "hour.yaml"
    text = TINY.replace("duration_s: 120", f"duration_s: {seconds}").replace(
        "rate_per_s: 4.0", f"rate_per_s: {rate_per_s}"
    )
    path.write_text(text)
    return path


def exploration(**changes: Any) -> Exploration:
    """Enabled, with a budget that is hardly spent in an hour."""
    given = {"enabled": True, "usd": 100.0, "attainment": 0.5, "spread": 0.5, "hold_ticks": 3}
    return Exploration(**{**given, **changes})


@dataclass
class Lived:
    """What was recorded, and what exploring cost."""

    entries: list[tuple[str, TickEntry]]
    explorer: Explorer | None
    records: list[TickRecord]

    @property
    def record(self) -> Record:
        """Read back."""
        return read_stream(self.entries)


def live(
    folder: Path,
    registry: Registry,
    scenario: Path,
    ticks: int,
    settings: Exploration | None = None,
    mode: Mode = Mode.ACTIVE,
    pools: tuple[str, ...] = POOLS,
    share: float = 0.0,
    seed: int = 1,
    on_trial: bool = False,
    late: Mapping[int, int] | None = None,
) -> Lived:
    """So many ticks of a scenario; those in `late` come so many slots after the one before."""
    return asyncio.run(
        _live(
            folder,
            registry,
            load_scenario(str(scenario)),
            ticks,
            settings,
            mode,
            pools,
            share,
            seed,
            on_trial,
            late or {},
        )
    )


async def _live(
    folder: Path,
    registry: Registry,
    scenario: Scenario,
    ticks: int,
    settings: Exploration | None,
    mode: Mode,
    pools: tuple[str, ...],
    share: float,
    seed: int,
    on_trial: bool,
    late: Mapping[int, int],
) -> Lived:
    batch = ClusterBatch([episode_of(scenario, seed, miss_price=1.0, quickly=True)], scenario.tick_s)
    cluster, limits = scenario.cluster(), scenario.limits()
    policy = learned_policy(registry.checkpoint(registry.incumbent()), cluster, make_rule)
    fallback = policy_factory(PLAN_TRACKING)(cluster)
    own = np.array([name in pools for name in cluster.pool_names])
    snapshot = one_cluster(batch.snapshot(), 0, cluster)
    plan = rows_of(batch.plan, 0)
    explorer = None
    if settings is not None:
        rng = np.random.default_rng(seed)
        explorer = Explorer(settings, cluster, limits, scenario.tick_s, share, own, folder / FILE, plan, rng)
    state = first_state(plan, cluster)
    in_force = state.applied
    sitting = Sitting(scenario.name, cluster, limits, (), scenario.tick_s, 1.0)
    memory, remembered = {}, {}
    since: Since | None = None
    bill = counts = None
    records = []
    for tick in range(ticks):
        action, after, answer = decide_with_answer(policy, snapshot, plan, memory)
        rule, remembered = fallback.decide(snapshot, plan, remembered)
        proposed = Proposed(action, policy.name, policy.policy_hash, rule, answer=answer)
        if on_trial:
            proposed = replace(proposed, incumbent=rule)
        reach = Reach(mode, np.array(share), own, rule)
        asked = memory
        news = ()
        if explorer is not None:
            if bill is not None:
                explorer.count(snapshot, plan, in_force, bill, counts)
            proposed, asked, reach = await explorer.explore(
                policy, proposed, memory, reach, snapshot, plan, state, patience_s=30.0
            )
            news = explorer.news(proposed)
        decision, following = conclude(proposed, snapshot, plan, cluster, limits, state, tick, reach, news)
        if explorer is not None:
            explorer.decided(decision, snapshot, plan)
        in_force = in_force if mode is Mode.ADVISE else decision.applied
        records.append(
            TickRecord(
                sitting,
                snapshot,
                plan,
                asked,
                state,
                reach,
                decision,
                answer=proposed.answer,
                in_force=None if mode is not Mode.ADVISE else in_force,
                since=since,
                wall_s=1.8e9 + float(snapshot.time_s),
            )
        )
        span_s = late.get(tick + 1, 1) * scenario.tick_s
        held = Action(**{f.name: getattr(in_force, f.name)[None] for f in fields(Action)})
        outcome = batch.clusters.advance(held, span_s)
        snapshot, plan = one_cluster(batch.snapshot(), 0, cluster), rows_of(batch.plan, 0)
        memory, state = after, replace(following, applied=in_force)
        bill, counts = rows_of(outcome.bill, 0), outcome.tally[0]
        usd = bill.usd
        since = Since(
            span_s=span_s,
            usd=usd.sum(axis=1),
            class_usd=usd.sum(axis=(0, 2)),
            idle_usd=bill.idle_usd.sum(axis=(0, 1)),
            tally=counts,
            told=counts[:, 2],
        )
    return Lived([(f"{tick}-0", entry_of(own)) for tick, own in enumerate(records)], explorer, records)
