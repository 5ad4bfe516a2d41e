"""A scenario in miniature for training: one small model, two unlike pools, two minutes."""

from pathlib import Path

TINY = """\
schema: 1
name: tiny
summary: A small model on two pools.
duration_s: 120
tick_s: 10
model: qwen2.5-0.5b
pools:
  dear:
    gpu: H100-SXM-80GB
    precision: bf16
    price: {usd_per_hr: 6.88}
    replicas: {min: 0, max: 1, start: 0}
    engine: {max_num_seqs: 4}
    cold_start: {provision_s: 5, load_s: 5}
  cheap:
    gpu: L40S-48GB
    precision: bf16
    price: {usd_per_hr: 1.861}
    replicas: {min: 1, max: 3, start: 1}
    engine: {max_num_seqs: 4}
    cold_start: {provision_s: 5, load_s: 5}
classes:
  chat:
    target: {ttft_s: 1.0, tpot_s: 0.08, attainment: 0.9}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 4.0
      prompt_tokens: {kind: lognormal, median: 200, sigma: 0.5, max: 1000}
      output_tokens: {kind: lognormal, median: 200, sigma: 0.4, max: 500}
"""


def tiny(folder: Path) -> Path:
    """The scenario as a file in `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return path
