"""Reading offers from CSV or Parquet files of prices, told apart by their columns.

- Our own: `gpu` and `usd_hr_ondemand`, `usd_hr_spot` or both; with what there is of `provider, region, zone, instance,
  n_gpu, machine_gpus, stock, preemptions_per_hr, as_of, source`.
- The catalogue of SkyPilot (`vms.csv` of skypilot-org/skypilot-catalog, schema 5 to 8): see `skypilot`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from ..catalog.gpus import CatalogError, gpu
from .columns import MAX_USD_PER_HR, Columns, bad, number, read_columns, some, stamp
from .machine import Machine
from .offers import Offer
from .skypilot import COLUMNS as SKYPILOT_COLUMNS
from .skypilot import OTHER_COLUMNS as OTHER_SKYPILOT_COLUMNS
from .skypilot import machines_of

OWN_FORMATS: Final = (("gpu", "usd_hr_ondemand"), ("gpu", "usd_hr_spot"))
OWN_COLUMNS: Final = (
    *("usd_hr_spot", "provider", "region", "zone", "instance", "n_gpu", "machine_gpus"),
    *("stock", "preemptions_per_hr", "as_of", "source"),
)
MAX_GPUS: Final = 1024
MAX_STOCK: Final = 1_000_000
MAX_TEXT: Final = 200
"""Longest name of a provider, a region or a source."""
_NOT_SOLD: Final = ("", "nan")


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a file offers."""

    offers: tuple[Offer, ...]
    """In the order of the file."""
    notes: tuple[str, ...] = ()
    """What was left out, and why, a line each."""


def read_price_list(
    path: Path, provider: str | None = None, as_of: date | None = None, spot_preemptions_per_hr: float = 0.0
) -> PriceList:
    """The offers of a file, and what was left out: rows of accelerators that the catalogue lacks.

    Args:
        path: CSV or Parquet.
        provider: of rows that name none; left out: of a SkyPilot catalogue its folder's or its own name.
        as_of: day of the prices that carry no date.
        spot_preemptions_per_hr: of spot machines whose row tells no rate.

    Raises:
        SeriesError: one line with the file, the row, the column, the value and what would be right.
    """
    return _price_list(path, stamp(path), provider, as_of, spot_preemptions_per_hr)


@lru_cache(maxsize=16)
def _price_list(
    path: Path, changed: tuple[int, int], provider: str | None, as_of: date | None, spot_preemptions_per_hr: float
) -> PriceList:
    table, names = read_columns(path, (*OWN_FORMATS, SKYPILOT_COLUMNS), (*OWN_COLUMNS, *OTHER_SKYPILOT_COLUMNS))
    unknown: Counter[str] = Counter()
    notes: list[str] = []
    if names == SKYPILOT_COLUMNS:
        stem = path.stem.lower()
        machines, notes = machines_of(path, table, provider or (path.parent.name if stem == "vms" else stem), unknown)
    else:
        machines = list(_own_machines(path, table, provider, unknown))
    offers = tuple(offer for machine in machines for offer in _offers(machine, as_of, spot_preemptions_per_hr))
    if unknown:
        kinds = [name or "(no name)" for name, _ in unknown.most_common()]
        notes.append(f"{path}: left out {unknown.total()} rows of accelerators not in the catalogue: {some(kinds)}")
    return PriceList(offers, tuple(notes))


def _offers(machine: Machine, as_of: date | None, spot_preemptions_per_hr: float) -> Iterator[Offer]:
    """On demand and spot, where it is sold so. A spot price that is no lower than on demand is no spot market."""
    on_demand, spot = machine.usd_per_hr_on_demand, machine.usd_per_hr_spot
    if on_demand is not None:
        yield _offer(machine, on_demand, "on_demand", 0.0, as_of)
    if spot is not None and (on_demand is None or spot < on_demand):
        own = machine.preemptions_per_hr
        yield _offer(machine, spot, "spot", spot_preemptions_per_hr if own is None else own, as_of)


def _offer(
    machine: Machine, usd: float, kind: Literal["on_demand", "spot"], preemptions_per_hr: float, as_of: date | None
) -> Offer:
    return Offer(
        gpu=machine.gpu,
        usd_per_hr=usd,
        gpus=machine.gpus,
        machine_gpus=machine.machine_gpus or machine.gpus,
        kind=kind,
        provider=machine.provider,
        region=machine.region,
        instance=machine.instance,
        stock=machine.stock,
        preemptions_per_hr=preemptions_per_hr,
        as_of=machine.as_of or as_of,
        source=machine.source,
    )


def _own_machines(path: Path, table: Columns, provider: str | None, unknown: Counter[str]) -> Iterator[Machine]:
    for row in range(len(table["gpu"])):
        cells = {name: str(values[row]).strip() for name, values in table.items()}
        try:
            kind = gpu(cells["gpu"]).name
        except CatalogError:
            unknown[cells["gpu"]] += 1
            continue
        yield _own_machine(path, row, cells, kind, provider)


def _own_machine(path: Path, row: int, cells: Mapping[str, str], kind: str, provider: str | None) -> Machine:
    def count(name: str, most: int, above_zero: bool = False) -> int | None:
        text = cells.get(name, "")
        return None if text in _NOT_SOLD else int(number(path, row, name, text, most, above_zero, whole=True))

    def amount(name: str, most: float, above_zero: bool) -> float | None:
        text = cells.get(name, "").lower()
        return None if text in _NOT_SOLD else number(path, row, name, text, most, above_zero)

    def text(name: str) -> str:
        if len(cells.get(name, "")) > MAX_TEXT or not cells.get(name, "").isprintable():
            raise bad(path, row, name, cells[name], f"at most {MAX_TEXT} printable characters")
        return cells.get(name, "")

    gpus = count("n_gpu", MAX_GPUS, above_zero=True) or 1
    machine_gpus = count("machine_gpus", MAX_GPUS, above_zero=True)
    if machine_gpus is not None and machine_gpus < gpus:
        raise bad(path, row, "machine_gpus", cells["machine_gpus"], f"at least the {gpus} of n_gpu")
    return Machine(
        gpu=kind,
        gpus=gpus,
        machine_gpus=machine_gpus,
        provider=text("provider") or provider or "",
        region=text("region"),
        instance=text("instance"),
        usd_per_hr_on_demand=amount("usd_hr_ondemand", MAX_USD_PER_HR, True),
        usd_per_hr_spot=amount("usd_hr_spot", MAX_USD_PER_HR, True),
        stock=count("stock", MAX_STOCK),
        preemptions_per_hr=amount("preemptions_per_hr", 3600.0, False),
        as_of=_day(path, row, cells.get("as_of", "")),
        source=text("source"),
    )


def _day(path: Path, row: int, text: str) -> date | None:
    """The day of a price. Of a month or a year alone its first day, so that no price looks younger than it is; words
    behind it (`2025-04 or earlier`) are not read."""
    if text in _NOT_SOLD:
        return None
    found = re.match(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?(?![\d-])", text)
    try:
        if found is None:
            raise ValueError
        return date(int(found[1]), int(found[2] or 1), int(found[3] or 1))
    except ValueError:
        raise bad(path, row, "as_of", text, "a day such as 2026-07-20, or a month or a year") from None
