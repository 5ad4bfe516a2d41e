"""The setting of Griggs et al., "Mélange" (arXiv:2404.14527), on our performance model: Llama-2-7B on L4, A10G, A100 and
H100, chat, long documents and a blend of both, 120 and 40 ms per token, 1 to 32 requests per second; the cheapest fleet
of each type beside the cheapest mix.

Prices: A10G and A100 as in the example of the authors' code (tyler-griggs/melange-release, melange/config/example.json);
L4 and H100 as the paper is quoted by others. Lengths are approximations: the paper bins its data sets, and its bins
could not be read. Chat: LMSYS-Chat-1M has 69.5 tokens a prompt, 214.5 an answer and 2.0 turns on average (Zheng et al.,
arXiv:2309.11998), and a second turn's prompt repeats the first. Documents: PubMed articles have 3,016 words and their
abstracts 203 on average (Cohan et al., arXiv:1804.05685), at 1.33 tokens a word. The blend is 80 % chat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poolpilot.agents.planner.composition import Problem
from poolpilot.agents.planner.demand import Edges
from poolpilot.agents.planner.problem import problem_of
from poolpilot.env.scenario import Scenario, parse_scenario

from .fleets import GREEDY, PLAN, costs, one_per_s
from .loads import drawn, scaled

PRICES_USD_PER_HR = {"L4-24GB": 0.70, "A10G-24GB": 1.01, "A100-SXM-80GB": 3.67, "H100-SXM-80GB": 7.516}
RATES_PER_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
TPOT_S = (0.12, 0.04)
CHAT, DOCUMENTS, BLEND = "chat", "documents", "blend"
PUBLISHED = {
    (CHAT, 0.12): "15-77 %",
    (CHAT, 0.04): "9-68 %",
    (DOCUMENTS, 0.12): "15-33 %",
    (DOCUMENTS, 0.04): "2-22 %",
    (BLEND, 0.12): "13-51 %",
    (BLEND, 0.04): "4-51 %",
}
"""How much cheaper the mix is said to be than fleets of one type, from the best to the worst of them over the rates: the
authors' own account of their figures (docs/index.md of their repository)."""
_CHAT = {
    "prompt_tokens": {"kind": "lognormal", "mean": 210, "p95": 800, "max": 3000},
    "output_tokens": {"kind": "lognormal", "mean": 215, "p95": 640, "max": 1500},
}
_DOCUMENTS = {
    "prompt_tokens": {"kind": "lognormal", "mean": 4000, "p95": 8500, "max": 12_000},
    "output_tokens": {"kind": "lognormal", "mean": 270, "p95": 420, "max": 700},
}
_CHAT_SHARE = 0.8
_CONTEXT = {CHAT: 4608, DOCUMENTS: 12_800, BLEND: 12_800}
"""Tokens that an engine must take at once, answer included; the KV cache must hold that many."""
BUCKETS = Edges(prompt_tokens=(100, 250, 500, 1000, 2000, 4000, 8000), output_tokens=(100, 250, 500))


@dataclass(frozen=True)
class Row:
    """One data set, target and rate."""

    lengths: str
    tpot_s: float
    rate_per_s: float
    usd_per_hr: dict[str, float | None]
    """By fleet; None of one that cannot serve it."""

    @property
    def savings(self) -> tuple[float, float]:
        """Of the plan against the cheapest and the dearest fleet of one type that can serve it, as shares."""
        alone = [usd for name, usd in self.usd_per_hr.items() if name not in (GREEDY, PLAN) and usd]
        plan = self.usd_per_hr[PLAN]
        if plan is None or not alone:
            return float("nan"), float("nan")
        return 1.0 - plan / min(alone), 1.0 - plan / max(alone)


def scenario_of(lengths: str, tpot_s: float) -> Scenario:
    """The setting as a scenario of one request per second."""
    parts: dict[str, list[tuple[float, dict[str, Any]]]] = {
        CHAT: [(1.0, _CHAT)],
        DOCUMENTS: [(1.0, _DOCUMENTS)],
        BLEND: [(_CHAT_SHARE, _CHAT), (1.0 - _CHAT_SHARE, _DOCUMENTS)],
    }
    generated = [
        {"kind": "generated", "classes": {"all": {"rate_per_s": share, **own}}} for share, own in parts[lengths]
    ]
    return parse_scenario(
        {
            "schema": 1,
            "name": "melange",
            "summary": "One class of requests, routed by length.",
            "duration_s": 3600,
            "model": "llama-2-7b",
            "planning": {
                "prices": [
                    {"gpu": gpu, "usd_per_hr": usd, "source": "arXiv:2404.14527"}
                    for gpu, usd in PRICES_USD_PER_HR.items()
                ],
                "precisions": ["fp16"],
                "max_tensor_parallel": 1,
                "engine": {"max_num_seqs": 256, "max_num_batched_tokens": 2048, "max_model_len": _CONTEXT[lengths]},
                "headroom": 1.0,
                "route_by_length": True,
            },
            "classes": {"all": {"target": {"tpot_s": tpot_s, "attainment": 0.99}}},
            "workload": {"kind": "mix", "parts": generated},
        },
        Path("melange.yaml"),
        needs_pools=False,
    )


def problem_for(scenario: Scenario) -> Problem:
    """What may be rented, at one request per second."""
    return one_per_s(problem_of(scenario, drawn(scaled(scenario, 4.0)), load="mean", buckets=BUCKETS))


def rows(
    lengths: Sequence[str] = (CHAT, DOCUMENTS, BLEND),
    tpot_s: Sequence[float] = TPOT_S,
    rates_per_s: Sequence[float] = RATES_PER_S,
    by_length: bool = True,
) -> Iterator[Row]:
    """All of them; `by_length` off, the class is routed as a whole."""
    for kind in lengths:
        for target_s in tpot_s:
            problem = problem_for(scenario_of(kind, target_s))
            problem = replace(problem, wishes=replace(problem.wishes, route_by_length=by_length))
            for rate in rates_per_s:
                yield Row(kind, target_s, rate, costs(replace(problem, demand=problem.demand.scaled(rate))))
