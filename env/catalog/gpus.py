"""GPUs: what their data sheets say. Dense figures, half of what a sheet quotes with sparsity."""

from __future__ import annotations

from dataclasses import dataclass

from .links import Link, link
from .names import CatalogError, find

__all__ = ["GPUS", "CatalogError", "Gpu", "gpu", "gpus_called"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU type. A figure that no source states is 0."""

    name: str
    architecture: str
    """Cards of one architecture behave alike; where one is not measured, a relative stands in."""
    memory_gb: float
    """Gigabytes, as quoted; see `memory_bytes`."""
    bandwidth_gb_per_s: float
    fp32_tflops: float
    fp16_tflops: float
    """Tensor cores, fp16 and (where supported) bf16, fp32 accumulation."""
    fp8_tflops: float
    int8_tops: float
    tdp_w: float
    compute_units: int
    """Streaming multiprocessors (NVIDIA), compute units (AMD): how many tiles of a product run at once."""
    cache_mb: float
    """Megabytes of the last cache before the memory: what a benchmark that repeats itself may read from."""
    link_name: str
    """Link to the replica's other GPUs."""
    pcie_name: str
    supports_bf16: bool
    supports_fp8: bool
    source: str

    @property
    def memory_bytes(self) -> float:
        """What the driver reports, where that is known; the quoted gigabytes as 10^9 bytes elsewhere. A quoted one has
        between 10^9 bytes and 2^30 bytes of it, by the card's way of correcting errors."""
        reported_mib = _REPORTED_MIB.get(self.name)
        return self.memory_gb * 1e9 if reported_mib is None else reported_mib * 2.0**20

    @property
    def link(self) -> Link:
        """The link to the replica's other GPUs."""
        return link(self.link_name)

    def link_among(self, gpus: int) -> Link:
        """What carries the traffic of a replica of so many GPUs: the machine's PCIe where the link joins fewer."""
        return self.link if gpus <= self.link.max_gpus else link(self.pcie_name)

    def multiplies(self, precision: str) -> bool:
        """Whether the tensor cores multiply numbers of this precision as they are, without unpacking them first."""
        rates = {"fp8": self.fp8_tflops, "int8": self.int8_tops, "int4": 0.0}
        return rates.get(precision, self.fp16_tflops) > 0

    def tflops(self, precision: str) -> float:
        """Peak rate at which weights of this precision are multiplied.

        A precision that the tensor cores lack is computed in 16 bits after unpacking (as vLLM's Marlin kernels do for
        int4, and for fp8 on Ampere), so only its bytes are saved.
        """
        if precision == "fp32":
            return self.fp32_tflops
        if precision == "fp8" and self.fp8_tflops:
            return self.fp8_tflops
        if precision == "int8" and self.int8_tops:
            return self.int8_tops
        return self.fp16_tflops


# `nvidia-smi`, memory total: modal-labs/modal-client pull request 2797; RTX 4090: RLinf/RLinf issue 255.
_REPORTED_MIB = {
    "A10-24GB": 23028.0,
    "A100-SXM-40GB": 40960.0,
    "A100-PCIe-80GB": 81920.0,
    "A100-SXM-80GB": 81920.0,
    "H100-SXM-80GB": 81559.0,
    "L4-24GB": 23034.0,
    "L40S-48GB": 46068.0,
    "RTX4090-24GB": 24564.0,
    "T4-16GB": 15360.0,
}

# Compute units and caches are those of the vendors' architecture whitepapers.
_NV = "NVIDIA data sheet"
_AIC = "ai-dynamo/aiconfigurator 095f58a, systems/*.yaml; NVIDIA data sheet for fp32"
_NO, _YES = False, True

# fmt: off
_GPUS = (
    #   name                 architecture memory  GB/s   fp32   fp16     fp8     int8    TDP  units cache  link                  PCIe     bf16  fp8   source
    Gpu("T4-16GB",           "Turing",      16.0,  320.0,   8.1,   65.0,    0.0,  130.0,   70.0,  40,   4.0, "PCIe3",              "PCIe3", _NO,  _NO,  _NV),
    Gpu("V100-PCIe-16GB",    "Volta",       16.0,  900.0,  14.0,  112.0,    0.0,    0.0,  250.0,  80,   6.0, "PCIe3",              "PCIe3", _NO,  _NO,  _NV),
    Gpu("V100-SXM-16GB",     "Volta",       16.0,  900.0,  15.7,  125.0,    0.0,    0.0,  300.0,  80,   6.0, "NVLink2",            "PCIe3", _NO,  _NO,  _NV),
    Gpu("V100-SXM-32GB",     "Volta",       32.0,  900.0,  15.7,  125.0,    0.0,    0.0,  300.0,  80,   6.0, "NVLink2",            "PCIe3", _NO,  _NO,  _NV),
    Gpu("A10-24GB",          "GA102",       24.0,  600.0,  31.2,  125.0,    0.0,  250.0,  150.0,  72,   6.0, "PCIe4",              "PCIe4", _YES, _NO,  _NV),
    Gpu("A10G-24GB",         "GA102",       24.0,  600.0,  31.5,   70.0,    0.0,  140.0,  300.0,  80,   6.0, "PCIe4",              "PCIe4", _YES, _NO,  _NV),
    Gpu("RTX3090-24GB",      "GA102",       24.0,  936.0,  35.6,   71.0,    0.0,  284.0,  350.0,  82,   6.0, "NVLink3-bridge-112", "PCIe4", _YES, _NO,  "NVIDIA Ampere GA102 whitepaper"),
    Gpu("A6000-48GB",        "GA102",       48.0,  768.0,  38.7,  154.8,    0.0,  309.7,  300.0,  84,   6.0, "NVLink3-bridge-112", "PCIe4", _YES, _NO,  _NV),
    Gpu("A40-48GB",          "GA102",       48.0,  696.0,  37.4,  149.7,    0.0,  299.3,  300.0,  84,   6.0, "NVLink3-bridge-112", "PCIe4", _YES, _NO,  _NV),
    Gpu("L4-24GB",           "Ada",         24.0,  300.0,  30.3,  121.0,  242.0,  242.0,   72.0,  58,  48.0, "PCIe4",              "PCIe4", _YES, _YES, _AIC),
    Gpu("RTX4090-24GB",      "Ada",         24.0, 1008.0,  82.6,  165.2,  330.3,  660.6,  450.0, 128,  72.0, "PCIe4",              "PCIe4", _YES, _YES, "NVIDIA Ada GPU architecture whitepaper"),
    Gpu("L40-48GB",          "Ada",         48.0,  864.0,  90.5,  181.05, 362.0,  362.0,  300.0, 142,  96.0, "PCIe4",              "PCIe4", _YES, _YES, _NV),
    Gpu("L40S-48GB",         "Ada",         48.0,  864.0,  91.6,  362.05, 733.0,  733.0,  350.0, 142,  96.0, "PCIe4",              "PCIe4", _YES, _YES, _AIC),
    Gpu("RTX6000Ada-48GB",   "Ada",         48.0,  960.0,  91.1,  364.2,  728.5,  728.5,  300.0, 142,  96.0, "PCIe4",              "PCIe4", _YES, _YES, _NV),
    Gpu("A100-SXM-40GB",     "GA100",       40.0, 1555.0,  19.5,  312.0,    0.0,  624.0,  400.0, 108,  40.0, "NVLink3",            "PCIe4", _YES, _NO,  _NV),
    Gpu("A100-SXM-80GB",     "GA100",       80.0, 2039.0,  19.5,  312.0,    0.0,  624.0,  400.0, 108,  40.0, "NVLink3",            "PCIe4", _YES, _NO,  _AIC),
    Gpu("A100-PCIe-80GB",    "GA100",       80.0, 1935.0,  19.5,  312.0,    0.0,  624.0,  300.0, 108,  40.0, "NVLink3-bridge",     "PCIe4", _YES, _NO,  _AIC),
    Gpu("H100-PCIe-80GB",    "Hopper",      80.0, 2000.0,  51.0,  756.5, 1513.0, 1513.0,  350.0, 114,  50.0, "NVLink4-bridge",     "PCIe5", _YES, _YES, _AIC),
    Gpu("H100-NVL-94GB",     "Hopper",      94.0, 3900.0,  60.0,  835.5, 1671.0, 1671.0,  400.0, 132,  50.0, "NVLink4-bridge",     "PCIe5", _YES, _YES, _NV),
    Gpu("H100-SXM-80GB",     "Hopper",      80.0, 3350.0,  67.0,  989.0, 1978.0, 1978.0,  700.0, 132,  50.0, "NVLink4",            "PCIe5", _YES, _YES, _AIC),
    Gpu("H200-SXM-141GB",    "Hopper",     141.0, 4800.0,  67.0,  989.0, 1978.0, 1978.0,  700.0, 132,  50.0, "NVLink4",            "PCIe5", _YES, _YES, _AIC),
    Gpu("H200-NVL-141GB",    "Hopper",     141.0, 4800.0,  60.0,  835.5, 1671.0, 1671.0,  600.0, 132,  50.0, "NVLink4-bridge-900", "PCIe5", _YES, _YES, _NV),
    Gpu("GH200-96GB",        "Hopper",      96.0, 4000.0,  67.0,  989.0, 1978.0, 1978.0,    0.0, 132,  50.0, "NVLink4",            "PCIe5", _YES, _YES, _NV),
    Gpu("GH200-144GB",       "Hopper",     144.0, 4900.0,  67.0,  989.0, 1978.0, 1978.0,    0.0, 132,  50.0, "NVLink4",            "PCIe5", _YES, _YES, _NV),
    Gpu("B200-SXM-180GB",    "Blackwell",  180.0, 7700.0,  75.0, 2250.0, 4500.0, 4500.0, 1000.0, 148, 126.0, "NVLink5",            "PCIe5", _YES, _YES, _AIC),
    Gpu("B300-SXM-288GB",    "Blackwell",  288.0, 7750.0,  75.0, 2250.0, 4500.0,    0.0, 1100.0, 148, 126.0, "NVLink5",            "PCIe6", _YES, _YES, _AIC),
    Gpu("GB200-186GB",       "Blackwell",  186.0, 8000.0,  80.0, 2500.0, 5000.0, 5000.0, 1200.0, 152, 126.0, "NVLink5-rack",       "PCIe5", _YES, _YES, _AIC),
    Gpu("RTX-PRO-6000-96GB", "GB202",       96.0, 1792.0, 120.0,  467.8,  935.6,  935.6,  600.0, 188, 128.0, "PCIe5",              "PCIe5", _YES, _YES, _AIC),
    Gpu("MI250-128GB",       "CDNA2",      128.0, 3277.0,  45.3,  362.1,    0.0,  362.1,  560.0, 208,  16.0, "InfinityFabric2",    "PCIe4", _YES, _NO,  "AMD data sheet, both dies"),
    Gpu("MI300X-192GB",      "CDNA3",      192.0, 5300.0, 163.4, 1307.4, 2614.9, 2614.9,  750.0, 304, 256.0, "InfinityFabric3",    "PCIe5", _YES, _YES, "AMD data sheet"),
    Gpu("MI325X-256GB",      "CDNA3",      256.0, 6000.0, 163.4, 1307.4, 2614.9, 2614.9, 1000.0, 304, 256.0, "InfinityFabric3",    "PCIe5", _YES, _YES, "AMD data sheet"),
)
# fmt: on

GPUS = {entry.name: entry for entry in _GPUS}

# Names without form factor or memory mean the part that clouds rent under them.
_SHORT = {
    "v100": "V100-SXM-16GB",
    "v100-16gb": "V100-SXM-16GB",
    "v100-32gb": "V100-SXM-32GB",
    "a100": "A100-SXM-80GB",
    "a100-40gb": "A100-SXM-40GB",
    "a100-80gb": "A100-SXM-80GB",
    "h100": "H100-SXM-80GB",
    "h100-80gb": "H100-SXM-80GB",
    "h200": "H200-SXM-141GB",
    "gh200": "GH200-96GB",
}


def _aliases() -> dict[str, str]:
    """Full names, names without memory where only one part has it, and the agreed short ones."""
    stems: dict[str, list[str]] = {}
    for name in GPUS:
        stems.setdefault(name.rsplit("-", 1)[0].lower(), []).append(name)
        stems.setdefault(name.split("-", 1)[0].lower(), []).append(name)
    unique = {stem: names[0] for stem, names in stems.items() if len(set(names)) == 1}
    return {**unique, **_SHORT, **{name.lower(): name for name in GPUS}}


_ALIASES = _aliases()


def gpu(name: str) -> Gpu:
    """The GPU called `name` ("H100-SXM-80GB", or short: "H100", "L4"); CatalogError names the closest ones."""
    return find("GPU", name, GPUS, _ALIASES)


def gpus_called(name: str) -> tuple[str, ...]:
    """Full names of every GPU that `name` may mean: "A100" is all A100s, "A100-80GB" those with 80 GB, a full name that
    one. The first part must be there, the others in any order; CatalogError names the closest if there is none."""
    parts = name.strip().lower().split("-")
    found = tuple(full for full in GPUS if _is_part(parts, full.lower().split("-")))
    return found or (gpu(name).name,)


def _is_part(parts: list[str], of: list[str]) -> bool:
    return parts[0] == of[0] and set(parts) <= set(of)
