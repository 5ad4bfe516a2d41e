"""`python -m poolpilot.benchmarks.pipelines`: one pipeline over unlike GPUs, split evenly, by memory, and as planned.

Each split is a pool of one replica in a scenario of its own, and is simulated by the fleet simulator under more requests
than it can serve; what it finishes a second is its throughput. The order of the machines is the planner's for all splits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from poolpilot.agents.planner.layouts.chains import Group, best_chain
from poolpilot.agents.planner.layouts.layout import LAYOUT_FLAGS
from poolpilot.agents.planner.layouts.partition import Load, Place
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.contract import Action
from poolpilot.env.perf.roofline import DoesNotFit, even_split
from poolpilot.env.scenario import Scenario, ScenarioError
from poolpilot.env.scenario.document import parse_scenario
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import world_from_scenario
from poolpilot.env.window import FINISHED

from .report import Section, markdown, print_sections, put

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pipelines.md"
TICK_S = 30.0


@dataclass(frozen=True)
class Case:
    """A pipeline."""

    name: str
    model: str
    precision: str
    groups: tuple[Group, ...]
    between: str = "Ethernet-100G"
    prompt_tokens: int = 512
    output_tokens: int = 256
    sequences: int = 128

    @property
    def load(self) -> Load:
        """What it is split for."""
        return Load(self.sequences, self.prompt_tokens, self.output_tokens)


CASES = (
    Case("A100-40 + L4", "llama-2-13b", "fp16", (Group("A100-40gb"), Group("L4"))),
    Case("A100-40 + V100-16", "llama-2-13b", "fp16", (Group("A100-40gb"), Group("V100"))),
    Case("2 x L4 + T4", "llama-2-13b", "fp16", (Group("L4", 2), Group("T4"))),
    Case("L4 + 2 x T4", "llama-2-13b", "int8", (Group("L4"), Group("T4", 2))),
    Case("H100 + L40S", "llama-3.1-70b", "fp8", (Group("H100"), Group("L40S"))),
    Case("A100-80 + V100-16", "llama-3.1-70b", "int4", (Group("A100"), Group("V100"))),
    Case("2 x A100-80 + 2 x L40S, TP 2", "llama-3.1-70b", "bf16", (Group("A100", 1, 2), Group("L40S", 1, 2))),
    Case("H200 + L40S", "llama-3.1-70b", "bf16", (Group("H200"), Group("L40S"))),
    Case("A100-40 + 2 x L4 + 3 x T4", "llama-30b", "fp16", (Group("A100-40gb"), Group("L4", 2), Group("T4", 3))),
    Case(
        "4 x A100-40 + 4 x L4 + 4 x T4", "llama-2-70b", "fp16", (Group("A100-40gb", 4), Group("L4", 4), Group("T4", 4))
    ),
    Case("8 x L4, alike", "llama-3-70b", "fp8", (Group("L4", 8),), prompt_tokens=900, output_tokens=100),
)
"""The clusters of A100-40GB, L4 and T4 are Helix's (arXiv:2406.01566: 4, 8 and 12 of them, for LLaMA-30B and
LLaMA-2-70B), as far as one pipeline of 16 stages can take them; 8 x L4 is what vLLM's pull request 6920 measured."""


@dataclass(frozen=True)
class Measured:
    """One split, simulated."""

    layers: tuple[int, ...]
    fits: bool
    why_not: str = ""
    kv_tokens: int = 0
    requests_per_s: float = 0.0
    lone_token_s: float = 0.0
    """Seconds of a token for a request that is alone."""


@dataclass(frozen=True)
class Result:
    """One case."""

    case: Case
    places: tuple[Place, ...]
    even: Measured
    by_memory: Measured
    planned: Measured
    alone: Measured | None
    """The best of its groups without the others; None if the model fits on none."""


def by_memory(places: Sequence[Place], layers: int) -> tuple[int, ...]:
    """Layers in proportion to each stage's memory, by largest remainders, at least one each."""
    memory = np.array([gpu(place.gpu).memory_gb * place.tensor_parallel for place in places])
    wanted = memory / memory.sum() * layers
    split = np.maximum(np.floor(wanted), 1.0)
    for index in np.argsort(split - wanted)[: int(layers - split.sum())]:
        split[index] += 1
    return tuple(int(count) for count in split)


def scenario_of(
    case: Case, places: Sequence[Place], layers: Sequence[int], rate_per_s: float, duration_s: float
) -> Scenario:
    """A pool of one such replica, and chat for it.

    Raises:
        ScenarioError: the split does not fit.
    """
    stages = [
        {
            "gpu": place.gpu,
            "layers": count,
            "tensor_parallel": place.tensor_parallel,
            "link_to_next": place.link_to_next,
        }
        for place, count in zip(places, layers, strict=True)
    ]
    lengths = {"prompt_tokens": case.prompt_tokens, "output_tokens": case.output_tokens}
    return parse_scenario(
        {
            "schema": 1,
            "name": "pipeline",
            "summary": case.name,
            "duration_s": duration_s,
            "tick_s": TICK_S,
            "model": case.model,
            "pools": {
                "pipeline": {
                    "stages": stages,
                    "precision": case.precision,
                    "price": {"usd_per_hr": 1.0},
                    "replicas": {"min": 1, "max": 1, "start": 1},
                    "engine": {"max_num_seqs": case.sequences, "max_model_len": LAYOUT_FLAGS.min_kv_tokens},
                }
            },
            "classes": {"chat": {"target": {"e2e_s": 1e6}}},
            "workload": {
                "kind": "generated",
                "classes": {
                    "chat": {
                        "rate_per_s": rate_per_s,
                        # Log-normal with the mean that is split for.
                        **{
                            name: {"kind": "lognormal", "median": mean * 0.882, "sigma": 0.5, "max": 4 * mean}
                            for name, mean in lengths.items()
                        },
                    }
                },
            },
            "world": {"performance_error_frac": 0.0, "give_up_after_s": 1e6},
        },
        Path("pipeline.yaml"),
    )


def measured(
    case: Case, places: Sequence[Place], layers: Sequence[int], rate_per_s: float, duration_s: float
) -> Measured:
    """The split under more requests than it can serve, after a third of the time to fill up."""
    try:
        scenario = scenario_of(case, places, layers, rate_per_s, duration_s)
    except ScenarioError as error:
        return Measured(tuple(layers), fits=False, why_not=str(error).split("pools.pipeline: ")[-1])
    clusters = SimulatedClusters([world_from_scenario(scenario, seed=1)], tick_s=TICK_S)
    cluster = clusters.cluster
    action = Action(
        route=cluster.serves.astype(np.float64),
        admit=np.ones(cluster.class_mask.shape),
        batch_cap=cluster.max_batch_cap,
        token_budget=cluster.max_token_budget,
        replicas=cluster.max_replicas,
    )
    ticks = int(duration_s / TICK_S)
    finished = [float(clusters.advance(action).tally[0, 0, FINISHED]) for _ in range(ticks)]
    late = finished[ticks // 3 :]
    law = scenario.pool_law("pipeline")
    return Measured(
        layers=tuple(layers),
        fits=True,
        kv_tokens=scenario.pool_kv_tokens("pipeline"),
        requests_per_s=sum(late) / (len(late) * TICK_S),
        lone_token_s=float(law.iteration_s(0.0, 0.0, 1.0, case.load.context_tokens)),
    )


def result_of(case: Case, duration_s: float) -> Result:
    """The three splits of a case, in the planner's order of machines."""
    places, planned = best_chain(
        case.groups, case.model, case.precision, case.load, LAYOUT_FLAGS, between_machines=case.between
    )
    layers = model(case.model).layers
    rate_per_s = 2.0 * planned.requests_per_s
    splits = (even_split(layers, len(places)), by_memory(places, layers), planned.layers)
    even, memory, own = (measured(case, places, split, rate_per_s, duration_s) for split in splits)
    return Result(case, places, even, memory, own, _best_alone(case, duration_s))


def _best_alone(case: Case, duration_s: float) -> Measured | None:
    """One group of a case as a replica of its own: the one that serves most by its law, simulated."""
    found = []
    for group in case.groups if len(case.groups) > 1 else ():
        try:
            found.append(best_chain([group], case.model, case.precision, case.load, LAYOUT_FLAGS))
        except DoesNotFit:
            continue
    if not found:
        return None
    places, split = max(found, key=lambda one: one[1].requests_per_s)
    return measured(case, places, split.layers, 2.0 * split.requests_per_s, duration_s)


def study(cases: Sequence[Case], duration_s: float, on_step: Callable[[str], None]) -> list[Result]:
    """All cases, one after the other."""
    found = []
    for case in cases:
        on_step(f"{case.name}, {case.model} in {case.precision}")
        found.append(result_of(case, duration_s))
    return found


def sections(results: Sequence[Result]) -> list[Section]:
    """The tables."""
    return [
        Section(
            "Simulated throughput of one pipeline by how its layers are split",
            "Requests/s that a replica finishes under twice the load it can serve. Stages stand in the order in which they"
            " run. Gains are over the even split and over the split by memory; the last column is the best that GPUs of one"
            " type do without the others.",
            (
                *("pipeline", "model", "even split", "by memory", "planned"),
                *("even /s", "by memory /s", "planned /s", "gains", "one type alone /s"),
            ),
            tuple(_row(result) for result in results),
        ),
        Section(
            "Room for the cache, and a request that is alone",
            "KV cache of a replica in tokens, and milliseconds a token of a request that has the replica to itself.",
            ("pipeline", "model", "even KV", "by memory KV", "planned KV", "even ms", "by memory ms", "planned ms"),
            tuple(_more(result) for result in results),
        ),
    ]


def _row(result: Result) -> tuple[str, ...]:
    splits = (result.even, result.by_memory, result.planned)
    planned = result.planned.requests_per_s
    gains = [f"{planned / split.requests_per_s:.2f} x" if split.fits else "-" for split in splits[:2]]
    return (
        " + ".join(_runs(result.places)),
        f"{result.case.model} {result.case.precision}",
        *(_layers(split.layers) for split in splits),
        *(f"{split.requests_per_s:.2f}" if split.fits else "does not fit" for split in splits),
        " / ".join(gains),
        "does not fit" if result.alone is None else f"{result.alone.requests_per_s:.2f}",
    )


def _more(result: Result) -> tuple[str, ...]:
    splits = (result.even, result.by_memory, result.planned)
    return (
        " + ".join(_runs(result.places)),
        f"{result.case.model} {result.case.precision}",
        *(f"{split.kv_tokens:,}" if split.fits else "-" for split in splits),
        *(f"{1e3 * split.lone_token_s:.0f}" if split.fits else "-" for split in splits),
    )


def _runs(places: Sequence[Place]) -> list[str]:
    runs: list[tuple[str, int, int]] = []
    for place in places:
        name = gpu(place.gpu).name
        if runs and runs[-1][0] == name:
            runs[-1] = name, runs[-1][1] + 1, place.tensor_parallel
        else:
            runs.append((name, 1, place.tensor_parallel))
    return [(f"{count} x " if count > 1 else "") + name + (f" TP {tp}" if tp > 1 else "") for name, count, tp in runs]


def _layers(layers: Sequence[int]) -> str:
    return ", ".join(str(count) for count in layers)


def record(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(result) for result in results]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--seconds", type=click.FloatRange(min=300), default=900.0, show_default=True, help="Simulated, each split."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--write", "rewrite", is_flag=True, help=f"Rewrite the tables in {PAGE.relative_to(ROOT)}.")
def main(seconds: float, as_json: bool, rewrite: bool) -> None:
    """Simulate pipelines over unlike GPUs, split evenly, by memory, and as the planner splits them."""
    console = Console(stderr=True)
    results = study(CASES, seconds, lambda step: console.print(f"[dim]{step}[/dim]"))
    if as_json:
        click.echo(json.dumps(record(results), indent=2))
    else:
        print_sections(sections(results), Console(width=200))
    if rewrite:
        put(PAGE, "splits", markdown(sections(results)))
        console.print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
