"""A small cluster for studies of learning on the job, as a scenario's document: as it is believed, and as it is instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

Document = dict[str, Any]
SLOWER: Final = 1.3
"""Times of the pool `l40s` over what is believed of it."""
LONGER: Final = 2.0
"""Cold starts over what is believed of them."""


def two_pools(duration_s: float) -> Document:
    """What policy and planner believe: two pools and two classes whose load swells and sinks."""
    engine, cold_start = {"max_num_seqs": 64, "max_model_len": 4096}, {"provision_s": 20, "load_s": 25}
    pools = {
        "h100": pool("H100-SXM-80GB", 6.88, (1, 3), engine, cold_start),
        "l40s": pool("L40S-48GB", 1.861, (2, 8), engine, cold_start),
    }
    swing = {"kind": "diurnal", "period_s": 2400, "amplitude": 0.6}
    return {
        "schema": 1,
        "name": "two-pools",
        "summary": "Two pools, two classes.",
        "duration_s": duration_s,
        "tick_s": 10,
        "model": "llama-3.1-8b",
        "pools": pools,
        "classes": {
            "chat": {"target": {"ttft_s": 2.0, "tpot_s": 0.08, "attainment": 0.98}},
            "summarisation": {"target": {"ttft_s": 5.0, "tpot_s": 0.12, "attainment": 0.95}},
        },
        "workload": {
            "kind": "generated",
            "classes": {
                "chat": load(20.0, swing, lengths(300, 0.7, 3000), lengths(220, 0.5, 900)),
                "summarisation": load(2.0, swing, lengths(1400, 0.7, 3000), lengths(150, 0.5, 900)),
            },
        },
        "world": {"performance_error_frac": 0.0, "cold_start_error_frac": 0.0},
    }


def slowed(document: Document) -> Document:
    """The same document, changed in place: a pool is slower than believed, and every cold start longer."""
    document["pools"]["l40s"]["time_factor"] = SLOWER
    for own in document["pools"].values():
        own["cold_start"] = {name: LONGER * seconds for name, seconds in own["cold_start"].items()}
    return document


def with_rates(document: Document, per_s: Mapping[str, float]) -> Document:
    """The same document, changed in place: so many requests a second of each class."""
    for name, rate in per_s.items():
        document["workload"]["classes"][name]["rate_per_s"] = rate
    return document


def written(folder: Path, **documents: Document) -> tuple[Path, ...]:
    """Each as `NAME.yaml` in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, document in documents.items():
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return tuple(paths)


def pool(
    gpu: str, usd_per_hr: float, start_and_most: tuple[int, int], engine: Document, cold_start: Document
) -> Document:
    """One of one replica at least."""
    start, most = start_and_most
    return {
        "gpu": gpu,
        "price": {"usd_per_hr": usd_per_hr},
        "replicas": {"min": 1, "max": most, "start": start},
        "engine": dict(engine),
        "cold_start": dict(cold_start),
    }


def load(rate_per_s: float, swing: Document, prompt_tokens: Document, output_tokens: Document) -> Document:
    """What comes of a class, in the mean over its swing."""
    return {
        "rate_per_s": rate_per_s,
        "shape": [dict(swing)],
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
    }


def lengths(median: float, sigma: float, most: float) -> Document:
    """Tokens of prompts or answers."""
    return {"kind": "lognormal", "median": median, "sigma": sigma, "max": most}
