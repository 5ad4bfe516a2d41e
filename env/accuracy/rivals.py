"""What other simulators publish about their own accuracy, as they publish it. Nobody of these was measured here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """One published figure."""

    who: str
    what: str
    """The figures, in per cent of the measured value."""
    how: str
    """On what, and how close that is to what stands on the page."""
    source: str


CLAIMS = (
    Claim(
        "BLIS",
        "E2E 6.7 (mean), 7.5 (p90), 9.2 (p99); ITL 7.1; TTFT 17.6 (mean), 21.3 (p90), 29.0 (p99)",
        "median over 36 held-out runs of vLLM 0.15.1 on H100, A100 and L40S of the error of a run's mean; its authors "
        "are its only judges",
        'inference-sim, blog "how BLIS learns latency" and repository sim-to-real-accuracy-validation',
    ),
    Claim(
        "BLIS, by GPU",
        "E2E: H100 5.5, A100 15.7, L40S 13.3",
        "the same runs",
        "the same repository",
    ),
    Claim(
        "Vidur",
        "below 9 (latency of inference)",
        "operators profiled on the very GPU and model before",
        "MLSys 2024, arXiv:2405.05465, abstract",
    ),
    Claim(
        "Vidur, by BLIS's authors",
        "E2E 2.5 (median), 10.4 (mean)",
        "Llama-2-7B only, four distinct rows",
        "sim-to-real-accuracy-validation",
    ),
    Claim(
        "LLMServingSim",
        "RTX PRO 6000, Llama-3.1-8B: TTFT 2 to 8.6, TPOT up to 1; Qwen3-30B-A3B: TTFT 13.6 (mean), 21.8 (median)",
        "the very runs that are replayed on this page, with its own profile of the GPU; what part of a run it saw "
        "before is not told",
        "casys-kaist/LLMServingSim, bench/examples",
    ),
    Claim(
        "LLMServingSim, by BLIS's authors",
        "E2E 18.8, ITL 21.8, TTFT 72.5 (medians of 32 runs)",
        "version 1.1.0, first 300 requests of each run",
        "sim-to-real-accuracy-validation",
    ),
    Claim(
        "Frontier",
        "throughput below 4; E2E 6.4 co-located, 2.6 disaggregated",
        "16 H800",
        "arXiv:2605.21312, abstract",
    ),
    Claim(
        "AIConfigurator, by BLIS's authors",
        "E2E 14.3, TTFT 653",
        "a steady-state estimator, not a simulator of requests; train and validation runs",
        "sim-to-real-accuracy-validation",
    ),
)
BEST = {"E2E": 6.7, "ITL": 7.1, "TTFT": 17.6}
"""BLIS's held-out medians of the error of a run's mean, per cent: the best that anybody publishes over several runs."""
