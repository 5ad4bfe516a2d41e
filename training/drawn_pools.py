"""The pools of a training world: what each model is served on, at which price, and how its machines come and go.

Symbols: `C` classes of one model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from ..agents.planner.carrying import replica_of
from ..env.catalog.gpus import GPUS, gpu
from ..env.catalog.models import model as model_called
from ..env.market.offers import Offer
from ..env.market.price_list import read_price_list
from ..env.market.rentable import SHIPPED_PRICES
from ..env.perf.crowd import Mix, Replica
from ..env.perf.law import IterationLaw
from ..env.perf.mixes import Promises, most_per_s
from ..env.perf.roofline import pipeline_kv_tokens, pipeline_law, stages_of
from ..env.scenario.pools import Engine
from . import held_out
from .drawn_traffic import DURATION_S, MAX_MODEL_LEN, DrawnClass

LEAST_KV_TOKENS: Final = 3 * MAX_MODEL_LEN
"""A replica that holds less than three of the longest requests is not how anybody serves."""
SLOWER: Final = 1.2
"""What a pool carries is counted as if it were so many times as slow as believed: slower than any that training draws."""
WIDEST_CHUNK_S: Final = 0.25
"""A slower chunk of 2,048 prompt tokens is cut in four."""
DEAREST: Final = 4.0
"""A pool whose work costs so many times that of the cheapest is no choice worth drawing."""
MOST_REPLICAS: Final = 48
"""Of a pool: more would only cost time."""
PRECISIONS: Final = ("bf16", "fp8", "int4")
MODELS: Final = (
    "meta-llama/Llama-3.1-8B",
    "mistralai/Mistral-7B-v0.1",
    "meta-llama/Llama-2-13b-hf",
    "Qwen/Qwen3-14B",
    "Qwen/Qwen2.5-32B",
    "Qwen/Qwen3-32B",
    "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Llama-3.1-70B",
)
"""Models to draw from, by their names in the catalogue: of sizes that one to four GPUs serve."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a replica of a model lies on GPUs."""

    gpu: str
    tensor_parallel: int
    precision: str
    law: IterationLaw
    kv_tokens: int


@dataclass(frozen=True)
class DrawnPool:
    """One pool of a world before its counts are known."""

    name: str
    model: str
    layout: Layout
    price: dict[str, Any]
    engine: Engine
    spot: bool
    serves: frozenset[str]
    """Classes that it may serve."""
    per_s: float
    """Requests of these classes, mixed as they come, that one replica carries within all their targets."""

    def replicas_per_rate(self, classes: Sequence[DrawnClass]) -> float:
        """Replicas that a request a second of the world's whole traffic takes here, of the classes given."""
        return sum(c.share for c in classes if c.name in self.serves) / self.per_s

    def serves_all(self, classes: Sequence[DrawnClass]) -> bool:
        """Whether none of its model's classes needs another pool."""
        return all(c.name in self.serves for c in classes)

    @property
    def usd_per_rate(self) -> float:
        """Dollars an hour for a request a second of what it serves."""
        return float(self.price["usd_per_hr"]) / self.per_s


@lru_cache(maxsize=1)
def trained_offers() -> dict[str, tuple[Offer, ...]]:
    """What training rents, by GPU type: the shipped price list without what is held out."""
    found: dict[str, list[Offer]] = {}
    for offer in read_price_list(SHIPPED_PRICES).offers:
        if offer.provider not in held_out.PROVIDERS and offer.gpu not in held_out.GPUS:
            found.setdefault(offer.gpu, []).append(offer)
    return {name: tuple(offers) for name, offers in found.items() if any(o.kind == "on_demand" for o in offers)}


@lru_cache(maxsize=64)
def layouts_of(model: str) -> tuple[Layout, ...]:
    """Every way to serve the model on one to four GPUs that training rents: the fewest that hold it, and twice as many."""
    shape, found = model_called(model), []
    for name in sorted(trained_offers()):
        card = GPUS[name]
        for precision in PRECISIONS:
            if precision == "fp8" and not card.supports_fp8:
                continue
            held = []
            for gpus in (1, 2, 4):
                stages = stages_of(gpu(name), shape, gpus, 1, None)
                try:
                    kv_tokens = pipeline_kv_tokens(stages, shape, precision, 0.9)
                    law = pipeline_law(stages, shape, precision, batch_tokens=2048)
                except ValueError:
                    continue
                if kv_tokens >= LEAST_KV_TOKENS:
                    held.append(Layout(name, gpus, precision, law, kv_tokens))
            found += held[:2]
    return tuple(found)


def draw_pools(
    rng: np.random.Generator, model: str, classes: Sequence[DrawnClass], count: int, difficulty: float
) -> list[DrawnPool]:
    """At most `count` pools for a model and its classes, cheapest work first; none if nothing drawn can serve them.

    One at least is on demand and can serve every class. Spot pools come in one to three zones of a machine type.
    """
    layouts = layouts_of(model)
    pools: list[DrawnPool] = []
    zones = 0
    if count > 1 and rng.random() < 0.5 * difficulty:
        zones = int(rng.integers(1, min(3, count - 1) + 1))
    for index in rng.permutation(len(layouts))[: 4 * count]:
        if len(pools) == count - zones:
            break
        pool = _pool(rng, model, layouts[int(index)], classes, spot=False)
        if pool is not None and all(pool.layout.gpu != other.layout.gpu for other in pools):
            pools.append(pool)
    pools = _worth(pools, classes)
    if not any(pool.serves_all(classes) for pool in pools):
        return []
    if zones:
        pools += _zones(rng, model, pools, layouts, classes, zones)
    return sorted(pools, key=lambda pool: pool.usd_per_rate)


def _zones(
    rng: np.random.Generator,
    model: str,
    pools: list[DrawnPool],
    layouts: tuple[Layout, ...],
    classes: Sequence[DrawnClass],
    zones: int,
) -> list[DrawnPool]:
    """One machine type in several spot zones, each with a price of its own: a type rented anyway, or another."""
    own = [pool.layout for pool in pools]
    layout = own[int(rng.integers(len(own)))] if rng.random() < 0.6 else layouts[int(rng.integers(len(layouts)))]
    first = _pool(rng, model, layout, classes, spot=True)
    if first is None or not first.serves_all(classes):
        return []
    found = []
    for zone in range(zones):
        usd = first.price["usd_per_hr"] * float(np.exp(rng.uniform(-0.15, 0.15)))
        name = first.name if zones == 1 else f"{first.name}-{'abc'[zone]}"
        found.append(replace(first, name=name, price={**first.price, "usd_per_hr": round(usd, 4)}))
    return found


def _pool(
    rng: np.random.Generator, model: str, layout: Layout, classes: Sequence[DrawnClass], spot: bool
) -> DrawnPool | None:
    """A pool on this layout at a price drawn for it; None if it can serve none of the classes."""
    seqs = int(rng.choice((16, 32, 64, 128, 256)))
    price = _price(rng, layout, spot)
    # Who serves on slow machines takes small chunks: every answer waits while one is computed.
    budget = 2048 if layout.law.linear(2048.0) <= WIDEST_CHUNK_S else 512
    engine = Engine(max_num_seqs=seqs, max_num_batched_tokens=budget, max_model_len=MAX_MODEL_LEN)
    replica = replica_of(layout.law.scaled(SLOWER), layout.kv_tokens, engine)
    served = list(classes)
    per_s = _carried_per_s(replica, served)
    if not per_s and len(classes) > 1:
        served = [c for c in classes if _carried_per_s(replica, [c])]
        per_s = _carried_per_s(replica, served) if served and len(served) < len(classes) else 0.0
    if not per_s:
        return None
    name = layout.gpu.split("-")[0].lower()
    if layout.tensor_parallel > 1:
        name += f"x{layout.tensor_parallel}"
    name += "-spot" if spot else ""
    return DrawnPool(name, model, layout, price, engine, spot, frozenset(c.name for c in served), per_s)


def _carried_per_s(replica: Replica, classes: Sequence[DrawnClass]) -> float:
    """What a replica carries of these classes, mixed as they come; 0 if even a trickle misses a target."""
    total = sum(c.share for c in classes)
    prompt, output, share = (np.concatenate([c.cells[i] for c in classes]) for i in range(3))
    own = np.repeat(np.arange(len(classes)), [len(c.cells[0]) for c in classes])
    weight = share * np.array([c.share / total for c in classes])[own]
    mix = Mix(own, prompt, np.maximum(output - 1.0, 0.0), weight, share)
    columns = np.array([c.targets for c in classes]).T
    return float(most_per_s(replica, mix, Promises(*(np.ascontiguousarray(column) for column in columns)), 0.0))


def _price(rng: np.random.Generator, layout: Layout, spot: bool) -> dict[str, Any]:
    """A listed price of these GPUs, a third up or down; a spot price that is not listed is a share of the other."""
    offers = trained_offers()[layout.gpu]
    kinds = [offer for offer in offers if offer.kind == ("spot" if spot else "on_demand")]
    listed = kinds or [offer for offer in offers if offer.kind == "on_demand"]
    offer = listed[int(rng.integers(len(listed)))]
    usd = offer.usd_per_gpu_hr * layout.tensor_parallel * float(np.exp(rng.uniform(-0.35, 0.35)))
    if spot and not kinds:
        usd *= float(rng.uniform(0.3, 0.65))
    return {
        "usd_per_hr": round(usd, 4),
        "kind": "spot" if spot else "on_demand",
        "source": f"drawn about {offer.provider} {offer.instance}",
    }


def _worth(pools: list[DrawnPool], classes: Sequence[DrawnClass]) -> list[DrawnPool]:
    costs = [pool.usd_per_rate for pool in pools if pool.serves_all(classes)]
    if not costs:
        return []
    return [pool for pool in pools if pool.usd_per_rate <= DEAREST * min(costs)]


def supply_of(
    rng: np.random.Generator, pool: DrawnPool, most: int, cold_start_s: float, difficulty: float
) -> dict[str, Any]:
    """How the pool's machines start, move in price and are taken away, as a scenario file has it."""
    share = float(rng.uniform(0.3, 0.7))
    own_s = cold_start_s * float(np.exp(rng.uniform(-0.3, 0.3)))
    cold: dict[str, Any] = {"provision_s": round(share * own_s, 1), "load_s": round((1 - share) * own_s, 1)}
    if rng.random() < 0.3 * difficulty:
        cold |= {"stuck_start_frac": round(float(rng.uniform(0.02, 0.12)), 3), "give_up_s": round(3 * own_s + 60.0)}
    parts: dict[str, Any] = {"cold_start": cold, "price": pool.price}
    if rng.random() < 0.25 * difficulty:
        parts["crashes_per_hr"] = round(float(rng.uniform(0.02, 0.3)), 3)
    if not pool.spot and rng.random() < 0.1 * difficulty:
        parts["sleep"] = {"max": max(1, most // 4), "keep_s": 900.0}
    if pool.spot:
        notice_s = float(rng.choice((30.0, 30.0, 120.0)))
        if rng.random() < 0.6:
            parts["spot"] = {"notice_s": notice_s, "availability": {"steps": _machines(rng, most)}}
        else:
            rate = float(np.exp(rng.uniform(math.log(0.05), math.log(1.0))))
            parts["spot"] = {"notice_s": notice_s, "preemptions_per_hr": round(rate, 3)}
        if rng.random() < 0.6:
            parts["price"] = {**pool.price, "series": {"steps": _prices(rng, pool.price["usd_per_hr"])}}
    return parts


def _machines(rng: np.random.Generator, most: int) -> list[list[float]]:
    """How many machines there are: they come and go in steps, sometimes all at once."""
    steps: list[list[float]] = []
    at_s, count = 0.0, float(rng.integers((most + 1) // 2, most + 1))
    hold_s = float(rng.uniform(300.0, 1200.0))
    while at_s < DURATION_S:
        steps.append([round(at_s), int(count)])
        at_s += max(30.0, float(rng.exponential(hold_s)))
        swing = rng.normal(0.0, 0.25 * most) if rng.random() < 0.93 else -most
        count = float(np.clip(round(count + swing), 0, most))
    return [step for i, step in enumerate(steps) if not i or step[0] > steps[i - 1][0]]


def _prices(rng: np.random.Generator, usd_per_hr: float) -> list[list[float]]:
    """A price that wanders about the usual one, and now and then doubles."""
    steps, at_s, off = [], 0.0, float(rng.normal(0.0, 0.15))
    while at_s < DURATION_S:
        steps.append([round(at_s), round(usd_per_hr * math.exp(off), 4)])
        at_s += float(rng.uniform(240.0, 1200.0))
        off = 0.7 * off + float(rng.normal(0.0, 0.2)) + (0.7 if rng.random() < 0.08 else 0.0)
    return steps
