"""How long a model takes to load, to wake up and to fall asleep: a small table of measured figures.

Rows are straight lines over the weights' gigabytes (1e9 bytes, all GPUs of the replica together): seconds per gigabyte
and a fixed part (imports, compilation, CUDA graphs, warm-up). Each names its source; "measured" is said of a figure even
where the model at hand lies between those that were measured. What no source was found for is an assumption and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .names import find

PROVISION_S: Final = 40.0
PROVISION_SOURCE: Final = (
    "assumed: a cloud machine from the request until its container runs; no measured source at hand"
)
SPREAD_FRAC: Final = 0.2
SPREAD_SOURCE: Final = (
    "assumed: repeats on one machine differ by 2 % (vLLM sleep-mode post), machines of a fleet by more"
)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds that grow with the weights."""

    s_per_gb: float
    fixed_s: float
    source: str

    def of(self, weight_bytes: float) -> float:
        """Seconds for so many bytes of weights."""
        return self.fixed_s + self.s_per_gb * weight_bytes / 1e9


@dataclass(frozen=True, slots=True)
class Loading:
    """From a running container until the engine serves."""

    storage: str
    loader: str
    duration: Duration


_POST = "measured: vLLM sleep-mode post, vLLM 0.11.0, A100"
_STREAMER = "measured: Run:ai model streamer benchmarks, Llama-3-8B (15 GB), A10G, vLLM 0.5.5, best concurrency"

_LOADINGS = (
    # Least squares over Qwen3 0.6B, 30B-A3B (bf16) and 235B-A22B (fp8, 4 GPUs): 38.0, 47.5 and 97.7 s; storage not stated.
    Loading("local", "safetensors", Duration(0.261, 35.0, f"{_POST}, local disk as the post has it")),
    # Per gigabyte: weights to GPU over 15 GB. Fixed: engine ready less weights to GPU, as measured in the same place.
    Loading("ebs-gp3", "safetensors", Duration(3.199, 18.1, _STREAMER)),
    Loading("ebs-gp3", "runai-streamer", Duration(0.956, 20.7, _STREAMER)),
    Loading("ebs-gp3", "tensorizer", Duration(1.074, 20.1, _STREAMER)),
    Loading("ebs-io2", "safetensors", Duration(3.133, 15.7, _STREAMER)),
    Loading("ebs-io2", "runai-streamer", Duration(0.502, 20.7, _STREAMER)),
    Loading("ebs-io2", "tensorizer", Duration(0.691, 20.5, _STREAMER)),
    Loading("s3", "runai-streamer", Duration(0.325, 18.3, _STREAMER)),
    Loading("s3", "tensorizer", Duration(2.491, 27.8, _STREAMER)),
)
LOADINGS: Final = {f"{row.storage}/{row.loader}": row for row in _LOADINGS}

# Level 1 keeps the weights in host memory, level 2 reads them again. Least squares over the same models as above.
WAKE: Final = {
    1: Duration(0.0202, 0.83, f"{_POST}, sleep level 1, 1 to 236 GB"),
    2: Duration(0.243, 0.56, f"{_POST}, sleep level 2, 1 to 8 GB"),
}
FALL_ASLEEP: Final = {
    1: Duration(0.0233, 0.62, f"{_POST} and A4000, sleep level 1, 1 to 236 GB"),
    2: Duration(0.0233, 0.62, "assumed: as level 1; level 2 was not measured"),
}


def loading(storage: str, loader: str) -> Loading:
    """The row of the table; CatalogError names those that there are."""
    return find("storage and loader", f"{storage}/{loader}", LOADINGS, {name: name for name in LOADINGS})
