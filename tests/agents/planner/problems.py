"""Problems of the planner drawn at random, small enough to try every answer, and the judge that does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import linprog

from poolpilot.agents.planner.composition import Composition, Option, Problem, Wishes
from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.layouts.layout import Layout, LayoutStage
from poolpilot.env.contract import FloatArray
from poolpilot.env.market.offers import Offer, StockLimit

GPUS = ("L4", "L40S", "A100-80GB", "H100")


def a_layout(gpus: dict[str, int], model: str = "m", precision: str = "bf16") -> Layout:
    """One stage a GPU type."""
    return Layout(model, precision, tuple(LayoutStage(gpu, 8, count) for gpu, count in gpus.items()))


def an_option(offers: tuple[Offer, ...], gpus: dict[int, int], capacity: FloatArray, **more: object) -> Option:
    """Replicas that take `gpus` of each offer; named by what they are made of."""
    model = str(more.pop("model", "m"))
    layout = a_layout({offers[f].gpu: count for f, count in gpus.items()}, model)
    name = "+".join(f"{offers[f].gpu}-{offers[f].kind}-x{count}" for f, count in gpus.items()) + f"-{model}"
    return Option(str(more.pop("name", name)), layout, tuple(gpus), capacity, **more)  # type: ignore[arg-type]


def a_problem(seed: int, *, tight: float = 0.4, models: int = 1, counted: bool = False) -> Problem:
    """Up to three offers, four options, three classes and six buckets, under every kind of limit now and then.

    Args:
        tight: how often there is each limit.
        models: that classes and options are of.
        counted: options have counts of their own and starts that cost.
    """
    rng = np.random.default_rng(seed)

    def now_and_then() -> bool:
        return bool(rng.random() < tight)

    offers = tuple(
        Offer(
            gpu=GPUS[f],
            usd_per_hr=float(np.round(rng.uniform(0.4, 4.0), 2)),
            gpus=int(rng.choice([1, 1, 2])),
            machine_gpus=8,
            kind="spot" if rng.random() < 0.4 else "on_demand",
            stock=int(rng.integers(1, 5)) if now_and_then() else None,
        )
        for f in range(int(rng.integers(1, 4)))
    )
    class_names = tuple(f"class-{c}" for c in range(int(rng.integers(models, 4))))
    class_index = np.repeat(np.arange(len(class_names)), rng.integers(1, 3, len(class_names)))
    buckets = len(class_index)
    rate = rng.uniform(0.0, 2.5, buckets) * (rng.random(buckets) < 0.9)
    demand = Demand(class_names, class_index, np.full(buckets, 500.0), np.full(buckets, 100.0), rate)
    options: dict[str, Option] = {}
    for o in range(int(rng.integers(2, 5))):
        chosen = rng.permutation(len(offers))[: 2 if rng.random() < 0.25 else 1]
        gpus = {int(f): int(rng.choice([1, 1, 2])) for f in sorted(chosen)}
        model = f"m{o % models}"
        own = np.array([c % models == o % models for c in class_index])
        capacity = np.where(own & (rng.random(buckets) < 0.85), rng.uniform(0.8, 4.0, buckets), 0.0)
        more: dict[str, object] = {}
        if counted:
            running = int(rng.integers(0, 3))
            more = {"running": running, "start_usd": float(rng.uniform(0.0, 1.0))}
            if now_and_then():
                more["max_replicas"] = int(rng.integers(1, 4))
            if now_and_then():
                more["min_replicas"] = 1
        option = an_option(offers, gpus, capacity, model=model, **more)
        options.setdefault(option.name, option)
    wishes = Wishes(
        budget_usd_per_hr=float(rng.uniform(2.0, 20.0)) if now_and_then() else None,
        max_spot_share=float(rng.choice([0.0, 0.3, 0.7])) if now_and_then() else 1.0,
        min_on_demand_replicas=int(rng.integers(1, 3)) if rng.random() < tight / 2 else 0,
        min_replicas=int(rng.integers(1, 4)) if now_and_then() else 0,
        headroom=1.1,
        route_by_length=bool(rng.random() < 0.5),
    )
    stock = (StockLimit("all", GPUS, int(rng.integers(2, 7))),) if now_and_then() else ()
    return Problem(offers, tuple(options.values()), demand, wishes, stock)


def gpus_of(problem: Problem, replicas: FloatArray) -> FloatArray:
    """`[F]` GPUs that replicas take of each offer."""
    taken = np.zeros(len(problem.offers))
    for option, count in zip(problem.options, replicas, strict=True):
        for f, gpus in zip(option.offers, option.layout.gpus.values(), strict=True):
            taken[f] += gpus * count
    return taken


def rent(problem: Problem, replicas: FloatArray) -> float:
    """$/h of the units that hold these replicas."""
    units = np.ceil(gpus_of(problem, replicas) / [offer.gpus for offer in problem.offers] - 1e-9)
    return float(units @ [offer.usd_per_hr for offer in problem.offers])


def starts(problem: Problem, replicas: FloatArray) -> float:
    """$/h that starts count."""
    return float(sum(o.start_usd * max(n - o.running, 0) for o, n in zip(problem.options, replicas, strict=True)))


def is_spot(problem: Problem, option: Option) -> bool:
    return any(problem.offers[f].kind == "spot" for f in option.offers)


def models_served(problem: Problem) -> set[str]:
    """Models that some demand could go to, whole classes where these are routed whole."""
    found = set()
    for option in problem.options:
        for rows in routing_rows(problem):
            if (option.capacity_per_s[rows] > 0).all():
                found.add(option.layout.model)
    return found


def routing_rows(problem: Problem) -> list[list[int]]:
    """Buckets that share a row of routing; those without demand are nobody's."""
    demand = problem.demand
    wanted = [b for b in range(len(demand.rate_per_s)) if demand.rate_per_s[b] > 0]
    if problem.wishes.route_by_length:
        return [[b] for b in wanted]
    by_class = [[b for b in wanted if demand.class_index[b] == c] for c in range(len(demand.class_names))]
    return [buckets for buckets in by_class if buckets]


def allowed(problem: Problem, replicas: FloatArray) -> bool:
    """Whether counts keep to every limit that does not depend on routing."""
    wishes, taken = problem.wishes, gpus_of(problem, replicas)
    units = np.ceil(taken / [offer.gpus for offer in problem.offers] - 1e-9)
    rented = units * [offer.gpus for offer in problem.offers]
    if any(o.stock is not None and n > o.stock for o, n in zip(problem.offers, units, strict=True)):
        return False
    if any(
        sum(n for offer, n in zip(problem.offers, rented, strict=True) if limit.covers(offer)) > limit.gpus
        for limit in problem.stock
    ):
        return False
    if wishes.budget_usd_per_hr is not None and rent(problem, replicas) > wishes.budget_usd_per_hr + 1e-9:
        return False
    for option, count in zip(problem.options, replicas, strict=True):
        if count < option.min_replicas or (option.max_replicas is not None and count > option.max_replicas):
            return False
    rows = routing_rows(problem)
    for model in models_served(problem):
        own = [
            (option, count)
            for option, count in zip(problem.options, replicas, strict=True)
            if option.layout.model == model and any((option.capacity_per_s[r] > 0).all() for r in rows)
        ]
        if sum(count for _, count in own) < wishes.min_replicas:
            return False
        if sum(n for option, n in own if not is_spot(problem, option)) < wishes.min_on_demand_replicas:
            return False
    return True


def most_served(problem: Problem, replicas: FloatArray) -> float | None:
    """Requests/s that counts can serve within the spot share, by a linear program over routing alone; None: not even
    nothing."""
    rows, options, demand = routing_rows(problem), problem.options, problem.demand
    if not rows:
        return 0.0
    pairs = [
        (r, o) for r in range(len(rows)) for o in range(len(options)) if (options[o].capacity_per_s[rows[r]] > 0).all()
    ]
    if not pairs:
        return 0.0
    rate = [float(demand.rate_per_s[buckets].sum()) for buckets in rows]
    upper: list[list[float]] = []
    limit: list[float] = []
    for o, option in enumerate(options):
        need = [
            problem.wishes.headroom * float((demand.rate_per_s[rows[r]] / option.capacity_per_s[rows[r]]).sum())
            if k == o
            else 0.0
            for r, k in pairs
        ]
        upper.append(need)
        limit.append(float(replicas[o]))
    for r in range(len(rows)):
        upper.append([1.0 if k == r else 0.0 for k, _ in pairs])
        limit.append(1.0)
    for c in range(len(demand.class_names)):
        own = [demand.class_index[rows[r][0]] == c for r in range(len(rows))]
        spot = [is_spot(problem, options[o]) for _, o in pairs]
        most = problem.wishes.max_spot_share
        upper.append([(s - most) * rate[r] if own[r] else 0.0 for (r, _), s in zip(pairs, spot, strict=True)])
        limit.append(0.0)
    found = linprog([-rate[r] for r, _ in pairs], A_ub=upper, b_ub=limit, bounds=(0, None))
    return float(-found.fun) if found.status == 0 else None


def every_count(problem: Problem, most: int) -> Iterator[FloatArray]:
    """All counts to `most`."""
    for counts in product(range(most + 1), repeat=len(problem.options)):
        yield np.array(counts, dtype=float)


def check(problem: Problem, plan: Composition) -> None:
    """What holds of every composition."""
    wishes, demand, options = problem.wishes, problem.demand, problem.options
    assert (plan.replicas == np.round(plan.replicas)).all()
    assert (plan.replicas >= 0).all()
    assert allowed(problem, plan.replicas)
    taken = gpus_of(problem, plan.replicas)
    assert (plan.units * [offer.gpus for offer in problem.offers] >= taken - 1e-9).all()
    assert abs(plan.usd_per_hr - rent(problem, plan.replicas)) < 1e-6
    assert (plan.share >= 0).all()
    assert (plan.share.sum(axis=1) <= 1 + 1e-6).all()
    for o, option in enumerate(options):
        assert (plan.share[option.capacity_per_s <= 0, o] == 0).all()
        able = option.capacity_per_s > 0
        work = (plan.share[able, o] * demand.rate_per_s[able] / option.capacity_per_s[able]).sum() * wishes.headroom
        assert work <= plan.replicas[o] + 1e-5
    np.testing.assert_allclose(plan.served_per_s, demand.rate_per_s * plan.share.sum(axis=1), atol=1e-9)
    for c in range(len(demand.class_names)):
        own = demand.class_index == c
        spot = np.array([is_spot(problem, option) for option in options])
        by_option = (plan.share[own] * demand.rate_per_s[own, None]).sum(axis=0)
        assert by_option[spot].sum() <= wishes.max_spot_share * by_option.sum() + 1e-6
        if not wishes.route_by_length:
            routed = plan.share[own & (demand.rate_per_s > 0)]
            assert (np.abs(routed - routed[:1]) < 1e-9).all()
    if plan.objective == "cost":
        np.testing.assert_allclose(plan.share.sum(axis=1)[demand.rate_per_s > 0], 1.0, atol=1e-6)


def a_market(seed: int, gpus: int, layouts: int, buckets: int, *, rate_per_s: float = 30.0, **wishes: Any) -> Problem:
    """Many options: `gpus` types by `layouts`, unlike in speed, price, and in what lengths suit them."""
    rng = np.random.default_rng(seed)
    length, class_index = rng.uniform(0.0, 1.0, buckets), np.arange(buckets) % 5
    strict = rng.uniform(0.0, 1.0, 5)[class_index]
    offers, options = [], []
    for g in range(gpus):
        speed, memory = rng.uniform(0.5, 4.0), rng.uniform(0.0, 1.0)
        price = round(float(speed * rng.uniform(0.7, 1.3)), 2)
        offers.append(Offer(f"gpu-{g}", price, stock=int(rng.integers(8, 40))))
        for k in range(layouts):
            width = 2 ** (k % 4)
            own = speed * width**0.9 * np.exp(rng.normal(0.0, 0.15, buckets))
            fits = (length <= 0.4 + 0.6 * memory + 0.2 * k) & (strict <= 0.3 + 0.25 * speed)
            layout = Layout("m", f"precision-{k // 4}", (LayoutStage(f"gpu-{g}", 8, width),))
            capacity = np.where(fits, own / (0.2 + length), 0.0)
            options.append(Option(f"gpu-{g}-{k}", layout, (g,), capacity))
    rate = rng.dirichlet(np.ones(buckets)) * rate_per_s
    names = tuple(f"class-{c}" for c in range(5))
    demand = Demand(names, class_index, 100.0 + 8000.0 * length, np.full(buckets, 100.0), rate)
    return Problem(tuple(offers), tuple(options), demand, Wishes(route_by_length=True, **wishes))
