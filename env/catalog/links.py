"""How GPUs of one machine, and machines, talk to each other: published figures of each link."""

from __future__ import annotations

from dataclasses import dataclass

from .names import find


@dataclass(frozen=True, slots=True)
class Link:
    """A link between the GPUs of one replica."""

    name: str
    gb_per_s: float
    """Gigabytes per second that one GPU can send, in one direction."""
    max_gpus: int
    """Most GPUs joined by it; a wider replica falls back to the PCIe of the machine."""
    kind: str
    """"direct" from card to card, "pcie" through the host, "network" between machines."""
    source: str


_PCIE = "PCI-SIG base specification, x16, after line coding"
_NVLINK = "NVIDIA data sheets of the GPUs that carry it (half of the bidirectional figure)"
_NETWORK = "line rate of one adapter for each pair of GPUs (IEEE 802.3, InfiniBand roadmap)"
_BRIDGE = "NVIDIA data sheets; the bridge joins two cards"

_LINKS = (
    #    name, GB/s, GPUs, kind, source
    Link("PCIe3", 16.0, 8, "pcie", _PCIE),
    Link("PCIe4", 32.0, 8, "pcie", _PCIE),
    Link("PCIe5", 64.0, 8, "pcie", _PCIE),
    Link("PCIe6", 128.0, 8, "pcie", _PCIE),
    Link("NVLink2", 150.0, 8, "direct", _NVLINK),
    Link("NVLink3", 300.0, 8, "direct", _NVLINK),
    Link("NVLink4", 450.0, 8, "direct", _NVLINK),
    Link("NVLink5", 900.0, 8, "direct", _NVLINK),
    Link("NVLink5-rack", 900.0, 72, "direct", "NVIDIA GB200 NVL72 data sheet: one domain of 72 GPUs"),
    Link("NVLink3-bridge-112", 56.25, 2, "direct", _BRIDGE),
    Link("NVLink3-bridge", 300.0, 2, "direct", _BRIDGE),
    Link("NVLink4-bridge", 300.0, 2, "direct", _BRIDGE),
    Link("NVLink4-bridge-900", 450.0, 4, "direct", "NVIDIA H200 NVL data sheet: bridges join two or four cards"),
    Link("InfinityFabric2", 400.0, 4, "direct", "AMD Instinct MI250 data sheet"),
    Link("InfinityFabric3", 448.0, 8, "direct", "AMD Instinct MI300X data sheet"),
    Link("Ethernet-100G", 12.5, 2, "network", _NETWORK),
    Link("InfiniBand-HDR200", 25.0, 2, "network", _NETWORK),
    Link("InfiniBand-NDR400", 50.0, 2, "network", _NETWORK),
)
BETWEEN_MACHINES = "InfiniBand-HDR200"
"""What joins the machines of a pipeline whose GPUs fill more than one, unless said otherwise: the network whose
transfers were measured."""
MACHINE_GPUS = 8
"""GPUs of one machine at most."""

LINKS = {entry.name: entry for entry in _LINKS}
_ALIASES = {name.lower(): name for name in LINKS}


def link(name: str) -> Link:
    """The link called `name`; CatalogError names the closest ones."""
    return find("link", name, LINKS, _ALIASES)
