"""A plan explains itself: pools, classes, and why other GPUs stay out."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from poolpilot.agents.planner.composition import Option, Problem
from poolpilot.agents.planner.explaining.explain import layout_text, not_chosen, planned_classes, planned_pools
from poolpilot.agents.planner.layouts.layout import Layout, LayoutStage
from poolpilot.agents.planner.solving.milp import compose

from ..markets import A100, L40S, a_market, a_plan, counted

NAMES = ("a100", "l40s", "l40s-int4", "west")
MIXED = [[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0.25, 0, 0.75]]


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ([LayoutStage(A100, 40)], "A100-SXM-80GB"),
        ([LayoutStage(A100, 40, 2)], "2 x A100-SXM-80GB, TP 2"),
        ([LayoutStage(L40S, 22), LayoutStage(L40S, 18)], "2 x L40S-48GB, PP 2 (22+18)"),
        ([LayoutStage(L40S, 20, 2), LayoutStage(L40S, 20, 2)], "4 x L40S-48GB, TP 2, PP 2 (20+20)"),
        ([LayoutStage(A100, 30), LayoutStage(L40S, 10, 2)], "A100-SXM-80GB > 2 x L40S-48GB, PP 2 (30+10)"),
    ],
    ids=["one", "tensor parallel", "pipeline", "both", "unlike"],
)
def test_layouts_in_words(stages: list[LayoutStage], text: str) -> None:
    assert layout_text(Layout("m", "bf16", tuple(stages))) == text


def test_pools_tell_who_they_are_and_what_they_carry() -> None:
    problem = a_market(headroom=1.2)
    pools = {pool.name: pool for pool in planned_pools(problem, counted(problem, [2, 1, 0, 1], MIXED), NAMES)}
    assert list(pools) == ["a100", "l40s", "west"]  # dearest first, empty ones left out
    big, west = pools["a100"], pools["west"]
    assert (big.gpus, big.precision, big.replicas, big.provider, big.region) == ({A100: 1}, "bf16", 2, "big", "east")
    assert (big.usd_per_hr, big.usd_per_hr_each, big.price_as_of) == (16.0, 8.0, date(2026, 1, 2))
    assert big.serves == {"chat": 6.0, "summarisation": 0.5}
    assert big.share_of_requests == pytest.approx(6.5 / 12.5)
    assert big.used_frac == pytest.approx((6 / 8 + 0.5 / 3) * 1.2 / 2)
    assert (west.gpus, west.kind, west.price_as_of) == ({L40S: 2}, "spot", None)
    assert sum(pool.share_of_requests for pool in pools.values()) == pytest.approx(1.0)


def test_classes_tell_who_serves_them_and_what_is_expected() -> None:
    problem = a_market()
    half = [[0.5, 0, 0, 0], [0, 0, 0, 0.5], *MIXED[2:]]
    plan = counted(problem, [2, 1, 0, 1], half)
    chat, summarisation, batch = planned_classes(problem, plan, NAMES, np.array([0.9, 0.95, 1.0]))
    assert (chat.rate_per_s, chat.carried_frac) == (8.0, pytest.approx(0.5))
    assert chat.shares == {"a100": pytest.approx(0.375), "west": pytest.approx(0.125)}
    assert (chat.attainment_wanted, chat.attainment) == (0.9, pytest.approx(0.45))
    # 6 of 8 requests short at 8/s, 2 of 8 long at 3/s: one replica carries 1 / (0.75 / 8 + 0.25 / 3).
    assert chat.capacity_per_s["a100"] == pytest.approx(1 / (0.75 / 8 + 0.25 / 3))
    assert summarisation.shares == {"a100": 1.0}
    assert batch.attainment == pytest.approx(1.0)


def reasons(problem: Problem) -> dict[str, str]:
    return {entry.what: entry.reason for entry in not_chosen(problem, compose(problem))}


def test_what_is_left_out_has_a_reason_in_dollars_or_targets() -> None:
    problem, plan = a_plan(max_spot_share=0.0, headroom=1.0)
    assert plan.replicas.tolist()[1:] == [0, 0, 0]  # A100s alone
    said = reasons(problem)
    # Of the L40S, the option that comes nearest stands for all.
    assert list(said) == [L40S]
    assert re.fullmatch(r"a request of batch in int4 costs 1\.\d\d times the plan's; chat: quality .*", said[L40S])
    gone = replace(
        problem, options=tuple(replace(o, max_replicas=0) if o.offers != (0,) else o for o in problem.options)
    )
    assert reasons(gone)[L40S] == "none to be had"
    spot = replace(problem, options=problem.options[:1] + problem.options[3:])
    assert reasons(spot)[L40S] == "spot, of which nothing is wanted (max_spot_share: 0)"


def test_of_gpus_that_are_used_other_precisions_are_told_apart() -> None:
    problem = a_market(max_spot_share=0.0, headroom=1.0)
    cheap = replace(
        problem, offers=(problem.offers[0], replace(problem.offers[1], usd_per_hr=0.2, stock=None), problem.offers[2])
    )
    plan = compose(cheap)
    assert plan.replicas[1] > 0
    assert plan.replicas[2] > 0
    said = {entry.what: entry.reason for entry in not_chosen(cheap, plan)}
    assert said[f"{L40S} fp8"].startswith("spot")
    assert A100 in said
    assert "times the plan's" in said[A100]


def test_classes_of_another_model_are_no_reason() -> None:
    problem = a_market(headroom=1.0)
    small = Option(
        "other", Layout("small", "bf16", problem.options[1].layout.stages), (1,), np.array([0.0, 0.0, 0.0, 1.0])
    )
    small = replace(small, why_not=("another model",) * 3 + ("",))
    plan = compose(problem)
    both = replace(problem, options=(*problem.options, small))
    found = not_chosen(
        both, replace(plan, replicas=np.append(plan.replicas, 0), share=np.pad(plan.share, ((0, 0), (0, 1))))
    )
    assert all("another model" not in entry.reason for entry in found)


def test_the_nearest_to_being_chosen_comes_first_and_chosen_ones_never() -> None:
    problem, plan = a_plan(headroom=1.0)
    entries = not_chosen(problem, plan)
    used = [problem.options[o].layout for o in np.flatnonzero(plan.replicas)]
    assert not {f"{gpu} {layout.precision}" for layout in used for gpu in layout.gpus} & {e.what for e in entries}
    ratios = [e.usd_per_1000 / e.against_usd_per_1000 for e in entries if e.usd_per_1000 and e.against_usd_per_1000]
    assert ratios == sorted(ratios)
    assert len(not_chosen(problem, plan, most=1)) <= 1
