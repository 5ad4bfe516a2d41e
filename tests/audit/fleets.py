"""Small fleets and logs of what they served, for the audit's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poolpilot.audit.description import Description, read_description
from poolpilot.env.accuracy.request_logs import RequestLog, replayed
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.roofline import iteration_law

ONE_POOL = """\
schema: 1
model: llama-2-13b
pools:
  l40s:
    gpu: L40S-48GB
    precision: fp8
    price: 1.8
    count: {count}
    engine: {{max_num_seqs: 64}}
    cold_start: {{provision_s: 20, load_s: 30}}
classes:
  chat:
    target: {{ttft_s: 2.0, tpot_s: 0.1, attainment: 0.95}}
"""


def described(folder: Path, text: str = ONE_POOL, **filled: object) -> Description:
    """The description as a file in `folder`, read."""
    path = folder / "pools.yaml"
    path.write_text(text.format(**filled) if filled else text)
    return read_description(path)


def served_by_one(
    slowness: float = 1.0, duration_s: float = 900.0, rate_per_s: float = 1.2, seed: int = 0
) -> dict[str, np.ndarray]:
    """Columns of a log: a replica of `ONE_POOL`'s kind serves a Poisson stream, request by request by the engine kernel,
    `slowness` times as slow as its law says."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate_per_s * duration_s)
    arrival_s = np.sort(rng.uniform(0.0, duration_s, count))
    prompt = np.clip(rng.lognormal(np.log(300), 0.7, count), 1, 3000).astype(np.int64)
    output = np.clip(rng.lognormal(np.log(120), 0.6, count), 1, 800).astype(np.int64)
    shape = model("llama-2-13b")
    log = RequestLog(
        run="test", gpu=gpu("L40S-48GB"), model=shape, tensor_parallel=1, max_num_seqs=64,
        prompt_tokens=prompt.astype(float), output_tokens=output.astype(float), arrival_s=arrival_s,
        first_token_s=arrival_s, last_token_s=arrival_s,
    )  # fmt: skip
    law = iteration_law(gpu("L40S-48GB"), shape, "fp8", 1).scaled(slowness)
    took = replayed(log, law)
    return {
        "arrival_s": arrival_s,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "ttft_s": took.ttft_s,
        "duration_s": took.e2e_s,
    }


def as_csv(columns: dict[str, np.ndarray], path: Path) -> Path:
    """The columns as a CSV file."""
    lines = [",".join(columns)]
    lines += [",".join(str(value) for value in row) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path
