"""What a scenario's pools and load mean to the planner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.planner.composition import Problem
from poolpilot.agents.planner.layouts.partition import USUAL_LOAD
from poolpilot.agents.planner.problem import load_of, problem_of
from poolpilot.env.scenario import Scenario, load_scenario, shipped_scenarios
from poolpilot.env.workload.load import load_workload
from poolpilot.env.workload.requests import Workload


def loaded(name: str) -> tuple[Scenario, Workload]:
    scenario = load_scenario(name, needs_pools=False)
    return scenario, load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)


def of(name: str, **wishes: float) -> Problem:
    return problem_of(*loaded(name), **wishes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(shipped_scenarios()))
def test_own_pools_are_the_options(name: str) -> None:
    scenario, workload = loaded(name)
    problem = problem_of(scenario, workload)
    assert [option.name for option in problem.options] == list(scenario.pools)
    cluster = scenario.cluster()
    for p, option in enumerate(problem.options):
        pool = scenario.pools[option.name]
        rent = sum(problem.offers[f].usd_per_hr for f in option.offers)
        assert rent == pytest.approx(pool.price.usd_per_hr)
        assert sum(option.layout.gpus.values()) == pool.gpus
        assert all(problem.offers[f].stock == pool.replicas.max for f in option.offers)
        served = cluster.serves[problem.demand.class_index, p]
        assert ((option.capacity_per_s > 0) == served).all()
        assert [not reason for reason in option.why_not] == served.tolist()


def test_a_looser_attainment_never_carries_less_and_replaces_every_class_s_own() -> None:
    strict, loose = of("mixed-chat", attainment=0.99), of("mixed-chat", attainment=0.9)
    for one, other in zip(strict.options, loose.options, strict=True):
        assert (other.capacity_per_s >= one.capacity_per_s * (1 - 1e-9)).all()


@pytest.mark.parametrize("attainment", [0.0, 1.0, 1.5])
def test_an_attainment_that_cannot_be_planned_for_is_refused(attainment: float) -> None:
    with pytest.raises(ValueError, match=r"attainment: .*wanted a share above 0 and below 1"):
        of("mixed-chat", attainment=attainment)


def test_wishes_come_from_the_scenario_unless_given() -> None:
    scenario, workload = loaded("mixed-chat")
    guard = scenario.guard.model_copy(update={"budget_usd_per_hr": 12.5})
    limited = scenario.model_copy(update={"guard": guard})
    assert problem_of(limited, workload).wishes.budget_usd_per_hr == 12.5
    given = problem_of(limited, workload, budget_usd_per_hr=9.0, headroom=1.3).wishes
    assert (given.budget_usd_per_hr, given.headroom) == (9.0, 1.3)


def test_buckets_serve_the_same_classes_as_whole_classes_do() -> None:
    scenario, workload = loaded("two-models")
    problem = problem_of(scenario, workload, buckets=12)
    assert len(problem.demand.class_index) > 12
    cluster = scenario.cluster()
    for p, option in enumerate(problem.options):
        assert not np.any(option.capacity_per_s[~cluster.serves[problem.demand.class_index, p]])


RENT = """
schema: 1
name: rent
summary: What may be rented for two classes of one model.
duration_s: 600
model: llama-2-13b
classes:
  chat: {target: {ttft_s: 2.0, tpot_s: 0.08, attainment: 0.99}, quality_floor: 0.99}
  batch: {target: {deadline_s: 300, attainment: 0.95}, quality_floor: 0.9}
workload:
  kind: generated
  classes:
    chat: {rate_per_s: 6, prompt_tokens: {kind: fixed, tokens: 500}, output_tokens: {kind: fixed, tokens: 200}}
    batch: {rate_per_s: 1, prompt_tokens: {kind: fixed, tokens: 9000}, output_tokens: {kind: fixed, tokens: 100}}
planning:
  prices:
    - {gpu: H100-SXM-80GB, usd_per_hr: 3.0}
    - {gpu: H100-SXM-80GB, usd_per_hr: 1.5, kind: spot}
    - {gpu: L40S-48GB, usd_per_hr: 1.0, stock: 5}
  stock: {H100: 4}
  engine: {max_model_len: 4096}
  headroom: 1.25
  budget_usd_per_hr: 40
  min_replicas: 2
"""


def to_rent(tmp_path: Path, **changes: str) -> tuple[Scenario, Workload]:
    text = RENT
    for old, new in changes.items():
        text = text.replace(f"{old}:", new)
    (tmp_path / "rent.yaml").write_text(text)
    return loaded(str(tmp_path / "rent.yaml"))


def test_what_may_be_rented_makes_the_problem(tmp_path: Path) -> None:
    problem = problem_of(*to_rent(tmp_path))
    assert {offer.gpu for offer in problem.offers} == {"H100-SXM-80GB", "L40S-48GB"}
    assert all(offer.kind == "on_demand" for offer in problem.offers)  # max_spot_share is 0
    assert [str(limit) for limit in problem.stock] == ["4 H100"]
    wishes = problem.wishes
    assert (wishes.headroom, wishes.budget_usd_per_hr, wishes.min_replicas) == (1.25, 40.0, 2)
    assert problem.demand.prompt_tokens.tolist() == [500.0, 4095.0]  # cut to what an engine takes
    shared = [option for option in problem.options if "-for-" not in option.name]
    precisions = {option.layout.precision: option.capacity_per_s > 0 for option in shared}
    assert precisions["int4"].tolist() == [False, True]
    assert precisions["fp8"].tolist() == [True, True]


def test_what_nobody_can_serve_is_noted(tmp_path: Path) -> None:
    problem = problem_of(*to_rent(tmp_path, ttft_s="ttft_s: 0.0001, e2e_s:"))
    assert any(note.startswith("nobody can serve chat: ") for note in problem.notes)


def test_pipelines_are_split_for_the_requests_of_their_model_and_hold_the_longest(tmp_path: Path) -> None:
    scenario, workload = to_rent(tmp_path)
    problem = problem_of(scenario, workload)
    assert scenario.planning is not None
    engine = scenario.planning.engine
    names = ["llama-2-13b", "llama-2-13b"]
    load = load_of(problem.demand, names, "llama-2-13b", engine)
    rates = problem.demand.rate_per_s
    assert load.sequences == engine.max_num_seqs
    assert load.prompt_tokens == pytest.approx(rates @ problem.demand.prompt_tokens / rates.sum())
    assert load.output_tokens == pytest.approx(rates @ problem.demand.output_tokens / rates.sum())
    only_chat = load_of(problem.demand, ["llama-2-13b", "other"], "llama-2-13b", engine)
    assert only_chat.prompt_tokens == 500.0
    assert load_of(problem.demand, names, "nobody's", engine).prompt_tokens == USUAL_LOAD.prompt_tokens
    # vLLM does not start where the cache is shorter than the longest request.
    for option in problem.options:
        assert option.layout.kv_tokens(engine.gpu_memory_utilization) >= engine.max_model_len
