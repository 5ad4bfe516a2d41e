"""Offers: what a market asks for machines with GPUs, on demand and spot, by provider and region; and what-ifs on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final, Literal

from ..catalog.gpus import gpus_called

__all__ = ["Offer", "StockLimit", "cheapest_first", "priced", "stale", "undominated", "without"]

_NAMED: Final = 3
"""How many of a provider's undated or old prices a warning names."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Machines of one kind that can be rented at one price."""

    gpu: str
    """Of the catalogue."""
    usd_per_hr: float
    """Of one unit, host included."""
    gpus: int = 1
    """GPUs of one unit: what is rented at a time. 8 for a `p5.48xlarge`, 1 where GPUs are sold one by one."""
    machine_gpus: int = 1
    """GPUs that stand in one machine, the widest a tensor-parallel group can be; at least `gpus`."""
    kind: Literal["on_demand", "spot"] = "on_demand"
    """Spot machines may be taken away."""
    provider: str = ""
    region: str = ""
    instance: str = ""
    stock: int | None = None
    """Units that can be had; None is no limit."""
    preemptions_per_hr: float = 0.0
    """Of one spot machine."""
    as_of: date | None = None
    """Day of the price."""
    source: str = ""

    @property
    def usd_per_gpu_hr(self) -> float:
        """Dollars per hour of one GPU."""
        return self.usd_per_hr / self.gpus


@dataclass(frozen=True, slots=True)
class StockLimit:
    """GPUs that can be had of some types, over all the offers that it covers together."""

    name: str
    """As the user wrote it, such as `A100`."""
    gpu_types: tuple[str, ...]
    """Of the catalogue."""
    gpus: int
    """At most, of all these types together."""
    region: str | None = None
    """Only of offers there; None: over all regions together."""

    def covers(self, offer: Offer) -> bool:
        """Whether GPUs rented by this offer count."""
        return offer.gpu in self.gpu_types and self.region in (None, offer.region)

    def __str__(self) -> str:
        where = "" if self.region is None else f" in {self.region or 'no region'}"
        return f"{self.gpus} {self.name}{where}"


def cheapest_first(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """By dollars per GPU; at one price the more useful first, then by name, so that the order is always the same."""

    def key(offer: Offer) -> tuple[object, ...]:
        useful = (
            offer.gpus,
            -offer.machine_gpus,
            offer.preemptions_per_hr,
            offer.stock is not None,
            -(offer.stock or 0),
        )
        return (offer.usd_per_gpu_hr, offer.gpu, offer.kind, *useful, offer.provider, offer.region, offer.instance)

    return tuple(sorted(offers, key=key))


def undominated(offers: Iterable[Offer], anywhere: bool = False) -> tuple[Offer, ...]:
    """Cheapest first, without those that nobody would take: of another of the same GPU and kind any number can be had, no
    dearer per GPU, in portions no larger, in machines no smaller, and not taken away more often.

    Args:
        offers: as the market has them.
        anywhere: whether one in another region or of another provider will do as well.
    """
    kept: dict[tuple[str, ...], list[Offer]] = {}
    for offer in cheapest_first(offers):
        place = () if anywhere else (offer.provider, offer.region)
        rivals = kept.setdefault((offer.gpu, offer.kind, *place), [])
        if not any(_beats(rival, offer) for rival in rivals):
            rivals.append(offer)
    return cheapest_first(offer for rivals in kept.values() for offer in rivals)


def _beats(one: Offer, other: Offer) -> bool:
    """Whether `one`, no dearer per GPU, is at least as good in all else."""
    return (
        one.stock is None
        and one.gpus <= other.gpus
        and one.machine_gpus >= other.machine_gpus
        and one.preemptions_per_hr <= other.preemptions_per_hr
    )


def priced(offers: Iterable[Offer], usd_per_gpu_hr: Mapping[str, float]) -> tuple[Offer, ...]:
    """What if a GPU cost this much: on-demand offers of every type that a name means take that price, and spot offers
    move in proportion to the cheapest on-demand price of their type before (alone, they take it themselves).

    Args:
        offers: as the market has them.
        usd_per_gpu_hr: dollars per hour of one GPU on demand, by a name such as `H100` or `A100-SXM-80GB`.

    Raises:
        CatalogError: no GPU has that name.
        ValueError: no offer is of that GPU.
    """
    changed = tuple(offers)
    for name, usd in usd_per_gpu_hr.items():
        types = _offered(changed, name)
        before: dict[str, float] = {}
        for offer in changed:
            if offer.gpu in types and offer.kind == "on_demand":
                before[offer.gpu] = min(before.get(offer.gpu, offer.usd_per_gpu_hr), offer.usd_per_gpu_hr)
        changed = tuple(_at(o, usd, before.get(o.gpu)) if o.gpu in types else o for o in changed)
    return changed


def _at(offer: Offer, usd_per_gpu_hr: float, on_demand_before: float | None) -> Offer:
    usd = usd_per_gpu_hr
    if offer.kind == "spot" and on_demand_before is not None:
        usd *= offer.usd_per_gpu_hr / on_demand_before
    return replace(offer, usd_per_hr=usd * offer.gpus, source=f"what if: {usd:g} $/h a GPU")


def without(offers: Iterable[Offer], names: Sequence[str]) -> tuple[Offer, ...]:
    """What if these GPUs could not be had; names as for `priced`.

    Raises:
        CatalogError: no GPU has that name.
        ValueError: no offer is of that GPU.
    """
    left = tuple(offers)
    gone = {full for name in names for full in _offered(left, name)}
    return tuple(offer for offer in left if offer.gpu not in gone)


def _offered(offers: Sequence[Offer], name: str) -> tuple[str, ...]:
    """The GPU types of a name, if any is offered: a what-if that changes nothing is a mistake."""
    types = gpus_called(name)
    offered = sorted({offer.gpu for offer in offers})
    if not set(types) & set(offered):
        raise ValueError(f"{name}: no offer of this GPU; offered are {', '.join(offered) or 'none'}")
    return types


def stale(offers: Iterable[Offer], today: date, max_age_days: int) -> tuple[str, ...]:
    """One warning for each provider with prices older than `max_age_days`, and one for each with prices without a date."""
    old: dict[str, list[date]] = {}
    undated: dict[str, list[str]] = {}
    for offer in offers:
        provider = offer.provider or "no provider"
        if offer.as_of is None:
            undated.setdefault(provider, []).append(offer.gpu)
        elif (today - offer.as_of).days > max_age_days:
            old.setdefault(provider, []).append(offer.as_of)
    aged = [
        f"{provider}: {_prices(len(days))} older than {max_age_days} days, the oldest of {min(days).isoformat()}"
        f" ({(today - min(days)).days} days ago)"
        for provider, days in sorted(old.items())
    ]
    unknown = []
    for provider, gpus in sorted(undated.items()):
        names = sorted(set(gpus))
        some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        unknown.append(f"{provider}: {_prices(len(gpus))} without a date ({some}): nobody can say how old")
    return (*aged, *unknown)


def _prices(count: int) -> str:
    return f"{count} price{'' if count == 1 else 's'}"
