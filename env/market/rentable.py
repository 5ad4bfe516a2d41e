"""From what a scenario says under `planning:` to what can be rented: offers and stock limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..catalog.gpus import gpus_called
from ..one_line import one_line
from ..scenario.planning import InlineOffer, Planning, PriceFile
from .offers import Offer, StockLimit, undominated
from .price_list import read_price_list
from .series import SeriesError

SHIPPED_PRICES: Final = Path(__file__).with_name("prices.csv")
"""Prices that come with the package: a start, and as old as their dates say."""


@dataclass(frozen=True, slots=True)
class Rentable:
    """What a planner may choose from."""

    offers: tuple[Offer, ...]
    """Cheapest per GPU first, without those that another beats in everything."""
    stock: tuple[StockLimit, ...] = ()
    """GPUs that can be had over several offers together."""
    notes: tuple[str, ...] = ()
    """What was left out of the files, a line each."""


def rentable(planning: Planning, base_dir: Path) -> Rentable:
    """The offers of a scenario's price files and of its own, filtered as it says.

    Raises:
        SeriesError: a price file cannot be used, or no offer is left; one line.
    """
    offers: list[Offer] = []
    notes: list[str] = []
    rate = planning.spot_preemptions_per_hr
    for source in planning.price_sources() or (SHIPPED_PRICES,):
        if isinstance(source, InlineOffer):
            offers.append(_written(source, rate))
            continue
        file = source if isinstance(source, PriceFile) else PriceFile(path=source)
        try:
            read = read_price_list(base_dir / file.path, file.provider, file.as_of, rate)
        except SeriesError as error:
            raise SeriesError(one_line(f"planning.prices: {error}")) from None
        offers += read.offers
        notes += read.notes
    types = None if planning.gpus is None else {full for name in planning.gpus for full in gpus_called(name)}
    limits = _stock(planning)
    kept = [o for o in offers if _wanted(o, planning, types) and _in_stock(o, limits)]
    if not kept:
        raise SeriesError(_nothing_left(offers, planning))
    # Where stages of one replica may be unlike, a dearer region may have the card that a cheaper one lacks.
    anywhere = not planning.mixed_pipelines and all(limit.region is None for limit in limits)
    return Rentable(undominated(kept, anywhere), limits, tuple(notes))


def _written(own: InlineOffer, spot_preemptions_per_hr: float) -> Offer:
    rate = spot_preemptions_per_hr if own.preemptions_per_hr is None else own.preemptions_per_hr
    return Offer(
        gpu=own.gpu,
        usd_per_hr=own.usd_per_hr,
        gpus=own.gpus,
        machine_gpus=own.machine_gpus or own.gpus,
        kind=own.kind,
        provider=own.provider,
        region=own.region,
        instance=own.instance,
        stock=own.stock,
        preemptions_per_hr=rate if own.kind == "spot" else 0.0,
        as_of=own.as_of,
        source=own.source or "given: the scenario file",
    )


def _wanted(offer: Offer, planning: Planning, types: set[str] | None) -> bool:
    return (
        (types is None or offer.gpu in types)
        and (planning.providers is None or offer.provider in planning.providers)
        and (planning.regions is None or offer.region in planning.regions)
        and (offer.kind == "on_demand" or planning.max_spot_share > 0.0)
    )


def _in_stock(offer: Offer, limits: tuple[StockLimit, ...]) -> bool:
    """Whether one unit can be had. A type with stock by region has none in the regions left out."""
    by_region = [limit for limit in limits if offer.gpu in limit.gpu_types and limit.region is not None]
    if by_region and not any(limit.covers(offer) for limit in by_region):
        return False
    return offer.stock != 0 and all(offer.gpus <= limit.gpus for limit in limits if limit.covers(offer))


def _nothing_left(offers: list[Offer], planning: Planning) -> str:
    """Which of the wishes leaves nothing, as far as one alone does."""
    if not offers:
        return "planning.prices: no offer of a GPU that the catalogue has"
    for field, wanted, had in (
        ("gpus", planning.gpus, {o.gpu for o in offers}),
        ("providers", planning.providers, {o.provider for o in offers}),
        ("regions", planning.regions, {o.region for o in offers}),
    ):
        names = {full for name in wanted or () for full in (gpus_called(name) if field == "gpus" else (name,))}
        if wanted is not None and not names & had:
            return f"planning.{field}: no offer has {', '.join(wanted)}; offers have {', '.join(sorted(had)[:12])}"
    spot = "; spot offers need planning.max_spot_share above 0" if planning.max_spot_share == 0.0 else ""
    return f"planning: gpus, providers, regions and stock together leave none of {len(offers)} offers{spot}"


def _stock(planning: Planning) -> tuple[StockLimit, ...]:
    limits = []
    for name, count in planning.stock.items():
        types = gpus_called(name)
        if isinstance(count, int):
            limits.append(StockLimit(name, types, count))
        else:
            limits += [StockLimit(name, types, gpus, region) for region, gpus in count.items()]
    return tuple(limits)
