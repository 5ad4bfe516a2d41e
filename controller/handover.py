"""What a leader leaves to the next one with every tick: the bill so far, the count of ticks, the clock, and what everybody
remembers. With it a term goes on where the last one ended; without it, it begins anew.

It is kept in the store, in one step with the tick, and in the working folder beside the bill. The newer one counts: a disk
that was full has an old one, and so has a store that was gone. Nothing of it is needed for traffic, and whatever cannot be
used is left out and named: nothing of another scenario is taken over, and of another policy only what is not the policy's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..env.contract import (
    BILL_LAYERS,
    IDLE_PARTS,
    SCALING_PARTS,
    SCHEMA_VERSION,
    Cluster,
    FloatArray,
    Memory,
    Plan,
    ScalingCost,
    SchemaError,
)
from ..env.wire import from_json, memory_from_json, memory_to_json, to_json
from ..telemetry.record.shapes import fit

_LOG: Final = logging.getLogger(__name__)
FILE: Final = "handover.json"
MAX_BYTES: Final = 8 << 20
_CLOCK_SLACK_S: Final = 1e12


class HandoverError(ValueError):
    """It cannot be used; the message names the field."""


@dataclass(frozen=True)
class Account:
    """Where a cluster stands after a tick. Symbols: `P` pools, `C` classes, `L` layers of the bill, `K` idle parts."""

    began_unix_s: float
    """When the first tick of all was counted, on the wall's clock; tells this account from any other."""
    scenario: str
    """Its name."""
    class_names: tuple[str, ...]
    pool_names: tuple[str, ...]
    cluster_hash: str
    """Of everything else that the scenario says of the cluster."""
    fencing_token: int
    tick: int
    """Of the last decision."""
    time_s: float
    """Of the last decision, on the decider's clock."""
    wall_s: float
    """When it was counted, in seconds since 1970."""
    ticks: int
    """Counted so far."""
    fallback_ticks: int
    """Of these, those at which the fallback decided."""
    usd: FloatArray
    """`[P, C, L]` spent so far, as far as known."""
    idle_usd: FloatArray
    """`[K]` of the idle layer."""
    scaling: tuple[ScalingCost, ...]
    """The dearest decisions so far."""
    plan: Plan
    """In force."""
    changed_at_s: FloatArray
    """`[P]` when the guard last saw a pool's wanted count change; -inf for never."""
    schema: int = SCHEMA_VERSION

    def next_s(self, wall_s: float, tick_s: float, speed_up: float) -> float:
        """The decider's time at `wall_s`: it went on all the while, whatever was done to the wall's clock."""
        return self.time_s + max((wall_s - self.wall_s) * speed_up, tick_s)


@dataclass(frozen=True)
class Remembered:
    """One who decides, and what it remembers."""

    name: str
    policy_hash: str
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True)
class Handover:
    """All of it."""

    account: Account
    policy: Remembered
    fallback: Remembered

    def text(self) -> str:
        """As JSON, for `parsed`."""
        minds = {
            name: {"name": one.name, "policy_hash": one.policy_hash, "memory": memory_to_json(one.memory)}
            for name, one in (("policy", self.policy), ("fallback", self.fallback))
        }
        return json.dumps({"account": to_json(self.account), **minds}, allow_nan=False, separators=(",", ":"))

    @property
    def newness(self) -> tuple[int, int]:
        """Grows from tick to tick, and from leader to leader."""
        return self.account.fencing_token, self.account.tick


def cluster_hash(cluster: Cluster) -> str:
    """Short hash of all that is said of a cluster."""
    return hashlib.sha256(json.dumps(to_json(cluster), sort_keys=True).encode()).hexdigest()[:16]


def parsed(text: str | bytes, scenario: str, cluster: Cluster) -> Handover:
    """What was handed over, as far as it is of this scenario.

    Raises:
        HandoverError: it is broken, or of another scenario, or of other pools or classes.
    """
    try:
        document: Any = json.loads(text)
        if not isinstance(document, dict) or set(document) != {"account", "policy", "fallback"}:
            raise SchemaError("wanted exactly account, policy and fallback")
        account = from_json(Account, document["account"], "account")
        _check(account, scenario, cluster)
        return Handover(account, _remembered(document, "policy"), _remembered(document, "fallback"))
    except (ValueError, RecursionError) as error:
        raise HandoverError(str(error)) from None


def as_far_as_same(left: Handover, cluster: Cluster, policy: Remembered, fallback: Remembered) -> Handover:
    """What of a handover may be used by those who decide now: `memory` only where name and hash are the same.

    Of a cluster about which the scenario says something else now (prices, targets, limits) nobody remembers anything.
    """
    same_cluster = left.account.cluster_hash == cluster_hash(cluster)

    def recalled(then: Remembered, now: Remembered, who: str) -> Remembered:
        if same_cluster and (then.name, then.policy_hash) == (now.name, now.policy_hash):
            return then
        _LOG.warning(
            "%s: %s (%s) left a memory; %s (%s)%s begins without one",
            who,
            then.name,
            then.policy_hash,
            now.name,
            now.policy_hash,
            "" if same_cluster else " of a changed cluster",
        )
        return replace(now, memory={})

    return Handover(
        left.account, recalled(left.policy, policy, "policy"), recalled(left.fallback, fallback, "fallback")
    )


def newest(candidates: Mapping[str, str | bytes | None], scenario: str, cluster: Cluster) -> Handover | None:
    """The newest of what the folder and the store hold; None if that is nothing of use.

    What the store holds counts only if the folder has an account of the same beginning: a store may have served others.

    Args:
        candidates: texts, by where they are from; the first is the folder's.
        scenario: its name.
        cluster: its pools and classes.
    """
    found: list[Handover] = []
    for where, text in candidates.items():
        if text is None:
            continue
        try:
            one = parsed(text, scenario, cluster)
        except HandoverError as error:
            _LOG.warning("%s: not taken over: %s", where, error)
            continue
        if where != next(iter(candidates)) and not (
            found and found[0].account.began_unix_s == one.account.began_unix_s
        ):
            _LOG.warning("%s: not taken over: it is not of the account that this folder has", where)
            continue
        found.append(one)
    return max(found, key=lambda one: one.newness, default=None)


def read(path: Path) -> bytes | None:
    """The folder's; None if there is none, or it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        _LOG.warning("%s: not taken over: %s", path, error)
        return None


def _check(account: Account, scenario: str, cluster: Cluster) -> None:
    for name, wanted in (
        ("scenario", scenario),
        ("class_names", cluster.class_names),
        ("pool_names", cluster.pool_names),
    ):
        if getattr(account, name) != wanted:
            raise SchemaError(f"account.{name}: {getattr(account, name)!r}, wanted {wanted!r} as in the scenario")
    fit(account.plan, cluster, "account.plan")
    pools, classes = len(cluster.pool_names), len(cluster.class_names)
    shapes = {"usd": (pools, classes, len(BILL_LAYERS)), "idle_usd": (len(IDLE_PARTS),), "changed_at_s": (pools,)}
    for name, shape in shapes.items():
        if getattr(account, name).shape != shape:
            raise SchemaError(f"account.{name}: shape {getattr(account, name).shape}, wanted {shape}")
    if np.isnan(account.changed_at_s).any() or (account.changed_at_s > account.time_s).any():
        raise SchemaError(f"account.changed_at_s: {account.changed_at_s.tolist()}, wanted times up to account.time_s")
    for name in ("usd", "idle_usd", "began_unix_s", "time_s", "wall_s"):
        values = np.asarray(getattr(account, name))
        if not (np.isfinite(values) & (values >= 0.0) & (values < _CLOCK_SLACK_S)).all():
            raise SchemaError(f"account.{name}: {values.tolist()}, wanted finite numbers from 0")
    for name in ("fencing_token", "tick", "ticks", "fallback_ticks"):
        if getattr(account, name) < 0:
            raise SchemaError(f"account.{name}: {getattr(account, name)}, wanted a count")
    for i, cost in enumerate(account.scaling):
        if cost.pool not in cluster.pool_names or cost.part not in SCALING_PARTS or not np.isfinite(cost.usd):
            raise SchemaError(
                f"account.scaling[{i}]: {cost}, wanted a pool of the scenario and a part of its idle bill"
            )


def _remembered(document: Mapping[str, Any], who: str) -> Remembered:
    one = document[who]
    if not isinstance(one, dict) or set(one) != {"name", "policy_hash", "memory"}:
        raise SchemaError(f"{who}: wanted exactly name, policy_hash and memory")
    if not isinstance(one["name"], str) or not isinstance(one["policy_hash"], str):
        raise SchemaError(f"{who}: wanted its name and hash as texts")
    return Remembered(one["name"], one["policy_hash"], memory_from_json(one["memory"], f"{who}.memory"))
