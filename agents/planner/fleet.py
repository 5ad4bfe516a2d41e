"""What a composition means: per pool its replicas, rent and load, per class who serves it. One arithmetic for tables,
explanations and written scenarios.

Symbols: `B` buckets of demand, `O` options, `F` offers, `C` classes.
"""

from __future__ import annotations

import numpy as np

from ...env.contract import BoolArray, FloatArray, IntArray
from .composition import Composition, Problem

__all__ = [
    "capacities",
    "chosen",
    "class_shares",
    "gpus_of_offers",
    "list_usd_per_hr",
    "pool_usd_per_hr",
    "spot_options",
    "unused_usd_per_hr",
    "usable",
    "work_replicas",
]


def chosen(composition: Composition) -> IntArray:
    """Places of the options with replicas, dearest choice of the solver's order kept."""
    return np.flatnonzero(composition.replicas > 0.5)


def gpus_of_offers(problem: Problem) -> FloatArray:
    """`[O, F]` GPUs of each offer that one replica takes."""
    taken = np.zeros((len(problem.options), len(problem.offers)))
    for o, option in enumerate(problem.options):
        for offer, gpus in zip(option.offers, option.layout.gpus.values(), strict=True):
            taken[o, offer] += gpus
    return taken


def list_usd_per_hr(problem: Problem) -> FloatArray:
    """`[O]` rent of one replica's own GPUs at the price of a GPU."""
    per_gpu = np.array([offer.usd_per_gpu_hr for offer in problem.offers])
    usd: FloatArray = gpus_of_offers(problem) @ per_gpu
    return usd


def unused_usd_per_hr(problem: Problem, composition: Composition) -> FloatArray:
    """`[F]` rent of GPUs that come along with whole units and that no replica uses."""
    used = composition.replicas @ gpus_of_offers(problem)
    rented = composition.units * np.array([offer.gpus for offer in problem.offers], dtype=np.float64)
    per_gpu = np.array([offer.usd_per_gpu_hr for offer in problem.offers])
    usd: FloatArray = np.maximum(rented - used, 0.0) * per_gpu
    return usd


def pool_usd_per_hr(problem: Problem, composition: Composition) -> FloatArray:
    """`[O]` rent of all replicas of each option; an offer's unused GPUs are shared by those that use it.

    Over all options it sums to the rent of the composition's units.
    """
    taken = composition.replicas[:, None] * gpus_of_offers(problem)
    total = taken.sum(axis=0)
    shares = np.divide(taken, total, out=np.zeros_like(taken), where=total > 0)
    own = composition.replicas * list_usd_per_hr(problem)
    usd: FloatArray = own + shares @ unused_usd_per_hr(problem, composition)
    return usd


def class_shares(problem: Problem, composition: Composition) -> FloatArray:
    """`[C, O]` share of each class that an option serves: the mean of its buckets', weighted by their rates.

    A class without demand keeps the plain mean.
    """
    demand = problem.demand
    shares = np.zeros((len(demand.class_names), len(problem.options)))
    for c in range(len(shares)):
        own = demand.class_index == c
        if own.any():
            rates = demand.rate_per_s[own]
            weights = rates if rates.sum() > 0 else np.ones(len(rates))
            shares[c] = np.average(composition.share[own], axis=0, weights=weights)
    return shares


def work_replicas(problem: Problem, composition: Composition) -> FloatArray:
    """`[B, O]` replicas that serving each bucket's share keeps busy, head-room left out."""
    capacity = capacities(problem)
    asked = problem.demand.rate_per_s[:, None] * composition.share
    return np.divide(asked, capacity, out=np.zeros_like(asked), where=capacity > 0)


def capacities(problem: Problem) -> FloatArray:
    """`[B, O]` requests/s of one replica."""
    columns = [option.capacity_per_s for option in problem.options]
    return np.stack(columns, axis=1) if columns else np.zeros((len(problem.demand.rate_per_s), 0))


def usable(problem: Problem) -> BoolArray:
    """`[C, O]` whether an option serves every bucket of a class within its targets."""
    demand, carried = problem.demand, capacities(problem) > 0
    fits = np.zeros((len(demand.class_names), carried.shape[1]), dtype=np.bool_)
    for c in range(len(fits)):
        own = demand.class_index == c
        fits[c] = own.any() & carried[own].all(axis=0)
    return fits


def spot_options(problem: Problem) -> BoolArray:
    """`[O]` whether a replica stands on any machine that may be taken away."""
    return np.array(
        [any(problem.offers[f].kind == "spot" for f in option.offers) for option in problem.options], dtype=np.bool_
    )
