"""Reading the SkyPilot catalogue: one `vms.csv` for each cloud, as in skypilot-org/skypilot-catalog, catalogs/v5 to v8.

A row is a machine type in a zone, with its accelerators and what it costs on demand and spot. On Google's cloud the
accelerators have rows of their own, without a machine type, whose price does not include the host: it is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .columns import MAX_USD_PER_HR, Columns, number
from .machine import Machine

COLUMNS: Final = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Region", "Price", "SpotPrice")
OTHER_COLUMNS: Final = ("AvailabilityZone", "vCPUs", "MemoryGiB", "GpuInfo")
SOURCE: Final = "skypilot-org/skypilot-catalog"
_MAX_GPUS: Final = 1024

_GPUS: Final = {
    "A10": "A10-24GB",
    "A10G": "A10G-24GB",
    "A100": "A100-SXM-40GB",
    "A100-80GB": "A100-SXM-80GB",
    "A100-80GB-SXM": "A100-SXM-80GB",
    "A40": "A40-48GB",
    "A6000": "A6000-48GB",
    "RTXA6000": "A6000-48GB",
    "B200": "B200-SXM-180GB",
    "B300": "B300-SXM-288GB",
    "GB200": "GB200-186GB",
    "GH200": "GH200-96GB",
    "H100": "H100-SXM-80GB",
    "H100-80GB": "H100-SXM-80GB",
    "H100-MEGA": "H100-SXM-80GB",
    "H100-NVL": "H100-NVL-94GB",
    "H100-NVLINK": "H100-SXM-80GB",
    "H100-SXM": "H100-SXM-80GB",
    "H200": "H200-SXM-141GB",
    "H200-SXM": "H200-SXM-141GB",
    "L4": "L4-24GB",
    "L40": "L40-48GB",
    "L40S": "L40S-48GB",
    "MI300X": "MI300X-192GB",
    "MI325X": "MI325X-256GB",
    "RTX3090": "RTX3090-24GB",
    "RTX4090": "RTX4090-24GB",
    "RTX6000-Ada": "RTX6000Ada-48GB",
    "RTX6000Ada": "RTX6000Ada-48GB",
    "RTXPRO6000S": "RTX-PRO-6000-96GB",
    "RTXPRO6000WS": "RTX-PRO-6000-96GB",
    "T4": "T4-16GB",
    "V100": "V100-SXM-16GB",
    "V100-32GB": "V100-SXM-32GB",
}
"""What SkyPilot calls an accelerator (catalogs/v8/common/accelerators.csv): there `A100` has 40 GB. Names that only some
clouds make clear are corrected by `_gpu_of`."""
_HOSTS: Final = {
    "A100": {**{n: f"a2-highgpu-{n}g" for n in (1, 2, 4, 8)}, 16: "a2-megagpu-16g"},
    "A100-80GB": {n: f"a2-ultragpu-{n}g" for n in (1, 2, 4, 8)},
    "H100": {n: f"a3-highgpu-{n}g" for n in (1, 2, 4, 8)},
    "H100-MEGA": {8: "a3-megagpu-8g"},
    "H200": {8: "a3-ultragpu-8g"},
    "L4": {1: "g2-standard-4", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
}
"""Google's machine types that come with so many of an accelerator, the smallest of each; its documentation of
accelerator-optimised machines. Others (T4, V100) are attached to a machine of the n1 series."""
_N1_VCPUS_PER_GPU: Final = 4
_N1_GIB_PER_GPU: Final = 15.0
"""Assumed for a GPU attached to an n1 machine: an `n1-standard-4` each."""


@dataclass(frozen=True, slots=True)
class _Host:
    name: str
    vcpus: float
    gib: float
    usd_on_demand: float | None
    usd_spot: float | None


def machines_of(path: Path, table: Columns, provider: str, unknown: Counter[str]) -> tuple[list[Machine], list[str]]:
    """The machines with known GPUs, and notes on what was left out.

    Args:
        path: for errors.
        table: the columns as text.
        provider: whose catalogue it is.
        unknown: rows of accelerators that the catalogue lacks are counted here.

    Raises:
        SeriesError: one line with the row, the column, the value and what would be right.
    """
    names = [str(name).strip() for name in table["AcceleratorName"]]
    bare = any(name and not str(instance) for name, instance in zip(names, table["InstanceType"], strict=True))
    hosts = _hosts(path, table, names) if bare else {}
    machines, homeless = [], 0
    for row, name in enumerate(names):
        if not name:
            continue
        cells = {column: str(values[row]).strip() for column, values in table.items()}
        kind = _gpu_of(name, provider, cells)
        if kind is None:
            unknown[name] += 1
            continue
        gpus = _gpus(path, row, cells["AcceleratorCount"])
        if gpus is None:
            unknown[f"{name} in parts"] += 1
            continue
        machine = _machine(path, row, cells, kind, gpus, provider)
        if not machine.instance:
            host = _host_for(name, gpus, hosts.get(cells.get("AvailabilityZone", ""), []))
            if host is None:
                homeless += 1
                continue
            machine = _with_host(machine, host)
        machines.append(machine)
    notes = [f"{path}: left out {homeless} rows of GPUs whose host has no price in their zone"] if homeless else []
    return machines, notes


def _machine(path: Path, row: int, cells: Mapping[str, str], kind: str, gpus: int, provider: str) -> Machine:
    return Machine(
        gpu=kind,
        gpus=gpus,
        machine_gpus=gpus,
        provider=provider,
        region=cells["Region"],
        instance=cells["InstanceType"],
        usd_per_hr_on_demand=_usd(path, row, cells, "Price"),
        usd_per_hr_spot=_usd(path, row, cells, "SpotPrice"),
        source=SOURCE,
    )


def _usd(path: Path, row: int, cells: Mapping[str, str], column: str) -> float | None:
    """A price; the catalogue leaves empty, or writes 0 for, what is not sold."""
    text = cells[column].lower()
    value = 0.0 if text in ("", "nan") else number(path, row, column, text, MAX_USD_PER_HR)
    return value or None


def _gpus(path: Path, row: int, text: str) -> int | None:
    """Whole GPUs of a machine; None for a slice of one."""
    count = number(path, row, "AcceleratorCount", text, _MAX_GPUS, above_zero=True)
    return int(count) if count == round(count) else None


def _gpu_of(name: str, provider: str, cells: Mapping[str, str]) -> str | None:
    """The GPU of the catalogue, by SkyPilot's name and by what else tells cards of one name apart."""
    told = f"{cells['InstanceType']} {cells.get('GpuInfo', '')}".lower()
    azure_card = provider.lower() == "azure" and cells["InstanceType"].lower().startswith("standard_nc")
    if name == "A100-80GB" and ("pcie" in told or azure_card):
        return "A100-PCIe-80GB"
    if name in ("H100", "H100-80GB") and azure_card:
        return "H100-NVL-94GB"
    if name in ("H100", "H100-80GB") and ("pcie" in told or provider.lower() == "runpod"):
        return "H100-PCIe-80GB"
    if name == "V100" and azure_card:
        return "V100-PCIe-16GB"
    return _GPUS.get(name)


def _hosts(path: Path, table: Columns, names: list[str]) -> dict[str, list[_Host]]:
    """Machines without accelerators of each zone that may carry some, cheapest first."""
    known = {host for by_count in _HOSTS.values() for host in by_count.values()}
    found: dict[str, list[_Host]] = {}
    for row, name in enumerate(names):
        instance = str(table["InstanceType"][row])
        if name or not (instance in known or instance.startswith("n1-")):
            continue
        cells = {column: str(values[row]).strip() for column, values in table.items()}
        host = _Host(
            instance,
            number(path, row, "vCPUs", cells.get("vCPUs", "") or "0"),
            number(path, row, "MemoryGiB", cells.get("MemoryGiB", "") or "0"),
            _usd(path, row, cells, "Price"),
            _usd(path, row, cells, "SpotPrice"),
        )
        found.setdefault(cells.get("AvailabilityZone", ""), []).append(host)
    return {zone: sorted(hosts, key=lambda host: host.usd_on_demand or MAX_USD_PER_HR) for zone, hosts in found.items()}


def _host_for(name: str, gpus: int, hosts: list[_Host]) -> _Host | None:
    """The cheapest host of a zone that carries so many of an accelerator."""
    if name in _HOSTS:
        return next((host for host in hosts if host.name == _HOSTS[name].get(gpus)), None)
    return next(
        (
            host
            for host in hosts
            if host.name.startswith("n1-")
            and host.vcpus >= _N1_VCPUS_PER_GPU * gpus
            and host.gib >= _N1_GIB_PER_GPU * gpus
        ),
        None,
    )


def _with_host(machine: Machine, host: _Host) -> Machine:
    """GPUs and host together; not sold where one of them is not."""

    def both(gpus_usd: float | None, host_usd: float | None) -> float | None:
        return None if gpus_usd is None or host_usd is None else gpus_usd + host_usd

    return replace(
        machine,
        instance=host.name,
        usd_per_hr_on_demand=both(machine.usd_per_hr_on_demand, host.usd_on_demand),
        usd_per_hr_spot=both(machine.usd_per_hr_spot, host.usd_spot),
    )
