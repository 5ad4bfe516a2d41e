"""The case study of A100s alone against A100 and L40S with quantised weights (scenario `case-study`), before and after,
simulated; and what its figures hang on.

Steps from before to after: `before` is A100 in 16 bits; `mixing` adds L40S, still in 16 bits; `quantising` stays on A100
and lets the precisions in; `after` does both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from poolpilot.agents.planner.baselines import most_load, planned, restricted
from poolpilot.agents.planner.composition import Composition, Option, Problem
from poolpilot.agents.planner.problem import problem_of
from poolpilot.agents.planner.written import planned_scenario
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.classes import Target
from poolpilot.env.scenario.planning import InlineOffer
from poolpilot.env.workload.spec import Lognormal

from .loads import drawn, loads_of, scaled, with_loads
from .simulated import Attained, attained

SCENARIO = "case-study"
SHIPPED = "as shipped"
BEFORE, MIXING, QUANTISING, AFTER = "before", "mixing", "quantising", "after"
STEPS = (BEFORE, MIXING, QUANTISING, AFTER)
CLAIMED_COST, CLAIMED_THROUGHPUT = 0.42, 0.18
CLAIMED_PER_REQUEST = 1.0 - (1.0 - CLAIMED_COST) / (1.0 + CLAIMED_THROUGHPUT)
"""42 % less rent that carries 18 % more requests: 51 % less for each."""
SEEDS = (0, 1, 2, 3, 4)
A100, L40S = "A100-SXM-80GB", "L40S-48GB"
_16_BITS = ("bf16", "fp16")


@dataclass(frozen=True)
class Step:
    """One fleet of a variant."""

    step: str
    composition: Composition
    usd_per_hr: float
    replicas: dict[str, int]
    """By option."""
    growth: float
    """How many times the load it would carry for the claimed share of the bill before."""


@dataclass(frozen=True)
class Outcome:
    """A variant's fleets."""

    variant: str
    problem: Problem
    scenario: Scenario
    steps: dict[str, Step]

    def saving(self, step: str) -> float:
        """Of the bill before, as a share, for the same load."""
        return 1.0 - self.steps[step].usd_per_hr / self.steps[BEFORE].usd_per_hr


Change = Callable[[Scenario], Scenario]


def variants() -> dict[str, Change]:
    """What is varied, and how the shipped scenario changes: the first is the scenario as it stands."""
    simple, strict = 0.96, 0.999
    return {
        SHIPPED: lambda shipped: shipped,
        "a quarter of the load": lambda shipped: scaled(shipped, 0.25),
        "four times the load": lambda shipped: scaled(shipped, 4.0),
        "summaries a quarter as long": _short_summaries,
        "A100 by whole machines of eight": lambda shipped: _offered(
            shipped, A100, gpus=8, usd_per_hr=27.44705, source="AWS us-east-1 p4de.24xlarge on demand, 2026-07-20"
        ),
        "A100 with 40 GB": lambda shipped: _offered(
            shipped,
            A100,
            gpu="A100-SXM-40GB",
            usd_per_hr=2.745,
            source="AWS us-east-1 p4d.24xlarge on demand, 21.957642 $/h for eight, 2026-07-20",
        ),
        "A100 at GCP's list price": _at_gcp,
        "RunPod's list prices": lambda shipped: _offered(
            _offered(shipped, A100, usd_per_hr=1.79, source="RunPod secure cloud, 2026-10-19"),
            L40S,
            usd_per_hr=0.99,
            source="RunPod, 2026-09-20",
        ),
        "chat is the simpler class": lambda shipped: _floors(shipped, chat=simple, summarisation=strict),
        "both are simple": lambda shipped: _floors(shipped, chat=simple, summarisation=simple),
        "both are simple, no 4-bit weights": lambda shipped: _precisions(
            _floors(shipped, chat=simple, summarisation=simple), "bf16", "fp8", "int8"
        ),
        "both are simple, A100 at GCP's list price": lambda shipped: _floors(
            _at_gcp(shipped), chat=simple, summarisation=simple
        ),
        "first token within 2 s": lambda shipped: _within(shipped, ttft_s=2.0, tpot_s=0.1),
        "first token within 2 s, no tensor parallelism": lambda shipped: _planning(
            _within(shipped, ttft_s=2.0, tpot_s=0.1), max_tensor_parallel=1
        ),
        "first token within 2 s, both are simple": lambda shipped: _floors(
            _within(shipped, ttft_s=2.0, tpot_s=0.1), chat=simple, summarisation=simple
        ),
        "each token within 350 ms, the first within 5 s": lambda shipped: _within(shipped, ttft_s=5.0, tpot_s=0.35),
        "each token within 50 ms": lambda shipped: _within(shipped, ttft_s=0.35, tpot_s=0.05),
    }


def outcome(variant: str, headroom: float | None = None, steps: Sequence[str] = STEPS) -> Outcome:
    """A variant's fleets for the same load, and what they carry for the claimed bill; `headroom` in place of its own."""
    scenario = variants()[variant](load_scenario(SCENARIO, needs_pools=False))
    problem = problem_of(scenario, drawn(scenario), load="mean", headroom=headroom)
    found: dict[str, Step] = {}
    for name in steps:
        own = restricted(problem, _allowed(name))
        answer = planned(own)
        if not isinstance(answer, Composition):
            continue
        before = found.get(BEFORE)
        budget = (1.0 - CLAIMED_COST) * (before.usd_per_hr if before else answer.usd_per_hr)
        found[name] = Step(
            step=name,
            composition=answer,
            usd_per_hr=answer.usd_per_hr,
            replicas={
                option.name: round(float(count))
                for option, count in zip(problem.options, answer.replicas, strict=True)
                if count > 0.5
            },
            growth=most_load(own, budget).factor,
        )
    return Outcome(variant, problem, scenario, found)


HEADROOMS = (1.0, 1.1, 1.2, 1.3)


def by_headroom(seeds: Sequence[int] = SEEDS) -> Iterator[tuple[float, Step, Attained]]:
    """The fleet after, planned with more and less head-room, in the same worlds."""
    for headroom in HEADROOMS:
        found = outcome(SHIPPED, headroom=headroom, steps=(BEFORE, AFTER))
        held = planned_scenario(found.scenario, found.problem, found.steps[AFTER].composition, held=True)
        yield headroom, found.steps[AFTER], attained(held, seeds)


def simulated(found: Outcome, seeds: Sequence[int] = SEEDS) -> Iterator[tuple[str, Attained]]:
    """Each step's fleet under the load that it was planned for."""
    for name, step in found.steps.items():
        held = planned_scenario(found.scenario, found.problem, step.composition, held=True)
        yield name, attained(held, seeds)


def _allowed(step: str) -> Callable[[Option], bool]:
    def allowed(option: Option) -> bool:
        mixed = step in (MIXING, AFTER) or all(gpu.startswith("A100") for gpu in option.layout.gpus)
        return mixed and (step in (QUANTISING, AFTER) or option.layout.precision in _16_BITS)

    return allowed


def _planning(scenario: Scenario, **update: Any) -> Scenario:
    assert scenario.planning is not None
    return scenario.model_copy(update={"planning": scenario.planning.model_copy(update=update)})


def _offered(scenario: Scenario, of: str, **update: Any) -> Scenario:
    assert scenario.planning is not None
    offers = [offer for offer in scenario.planning.price_sources() if isinstance(offer, InlineOffer)]
    return _planning(scenario, prices=tuple(o.model_copy(update=update) if o.gpu == of else o for o in offers))


def _at_gcp(scenario: Scenario) -> Scenario:
    source = "GCP us-central1 a2-ultragpu-1g on demand, 2026-01-29"
    return _offered(scenario, A100, usd_per_hr=5.069, source=source)


def _short_summaries(scenario: Scenario) -> Scenario:
    loads = loads_of(scenario)
    short = Lognormal(median=38.0, sigma=0.5, max=150)
    own = loads["summarisation"].model_copy(update={"output_tokens": short})
    return with_loads(scenario, {**loads, "summarisation": own})


def _precisions(scenario: Scenario, *precisions: str) -> Scenario:
    return _planning(scenario, precisions=precisions)


def _floors(scenario: Scenario, **floors: float) -> Scenario:
    classes = {
        name: requests.model_copy(update={"quality_floor": floors[name]}) for name, requests in scenario.classes.items()
    }
    return scenario.model_copy(update={"classes": classes})


def _within(scenario: Scenario, ttft_s: float, tpot_s: float) -> Scenario:
    classes = {
        name: requests.model_copy(
            update={"target": Target(ttft_s=ttft_s, tpot_s=tpot_s, attainment=requests.target.attainment)}
        )
        for name, requests in scenario.classes.items()
    }
    return scenario.model_copy(update={"classes": classes})


RATIOS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
"""Prices of A100 over L40S."""


def price_sweep(found: Outcome) -> dict[str, list[float]]:
    """Rent saved by each step as the price of an A100 over that of an L40S moves over `RATIOS`, the A100's fixed."""
    problem = found.problem
    a100 = next(offer.usd_per_gpu_hr for offer in problem.offers if offer.gpu != L40S)
    saved: dict[str, list[float]] = {name: [] for name in STEPS[1:]}
    for ratio in RATIOS:
        offers = tuple(
            replace(offer, usd_per_hr=offer.gpus * a100 / ratio) if offer.gpu == L40S else offer
            for offer in problem.offers
        )
        usd = {name: _bill(restricted(replace(problem, offers=offers), _allowed(name))) for name in STEPS}
        for name, of_step in saved.items():
            of_step.append(1.0 - usd[name] / usd[BEFORE])
    return saved


def _bill(problem: Problem) -> float:
    answer = planned(problem)
    return answer.usd_per_hr if isinstance(answer, Composition) else float("nan")
