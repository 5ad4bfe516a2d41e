"""Layouts on offers: which sources fit, what they are called, and who may be served on them."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.layouts.layout import Layout, LayoutStage
from poolpilot.agents.planner.options import Asked, offers_for, options_of, why_nobody
from poolpilot.env.contract import Targets
from poolpilot.env.market.offers import Offer
from poolpilot.env.scenario.pools import Engine

H100, A100, L40S = "H100-SXM-80GB", "A100-SXM-80GB", "L40S-48GB"
MODEL = "meta-llama/Llama-2-13b-hf"
WIDE = Layout(MODEL, "bf16", (LayoutStage(H100, 40, 2),))
SINGLE = Layout(MODEL, "bf16", (LayoutStage(H100, 40),))
QUANTISED = Layout(MODEL, "int4", (LayoutStage(L40S, 40),))
UNLIKE = Layout(MODEL, "bf16", (LayoutStage(H100, 25), LayoutStage(A100, 15)))
OFFERS = (
    Offer(H100, 3.0, provider="a", region="east"),
    Offer(H100, 12.0, gpus=4, machine_gpus=4, provider="a", region="west"),
    Offer(A100, 2.0, provider="a", region="east"),
    Offer(A100, 1.0, kind="spot", provider="a", region="east"),
    Offer(A100, 1.9, provider="b", region="east"),
    Offer(L40S, 1.0, provider="a", region="east"),
)
NONE = np.full(2, np.nan)


def demand() -> Demand:
    """Chat and batch work, of two lengths each."""
    return Demand(
        ("chat", "batch"),
        np.array([0, 0, 1, 1]),
        np.array([200.0, 1500.0, 300.0, 3000.0]),
        np.array([100.0, 300.0, 200.0, 100.0]),
        np.array([2.0, 1.0, 1.0, 0.5]),
    )


def asked(ttft_s: float = 2.0, tpot_s: float = 0.08, floors: tuple[float, ...] = (), batch: str = MODEL) -> Asked:
    targets = Targets(
        ttft_s=np.array([ttft_s, np.nan]),
        tpot_s=np.array([tpot_s, np.nan]),
        e2e_s=NONE,
        deadline_s=np.array([np.nan, 600.0]),
        attainment=np.array([0.99, 0.95]),
        budget_usd_per_hr=np.array(np.inf),
    )
    return Asked((MODEL, batch), targets, floors)


@pytest.mark.parametrize(
    ("layout", "mix_kinds", "expected"),
    [
        (SINGLE, False, [(0,), (1,)]),
        (WIDE, False, [(1,)]),
        (QUANTISED, False, [(5,)]),
        (UNLIKE, False, [(0, 2)]),
        (UNLIKE, True, [(0, 2), (0, 3)]),
    ],
    ids=["any machine", "a group within a machine", "its GPU", "one place and kind", "kinds mixed"],
)
def test_sources_of_a_layout(layout: Layout, mix_kinds: bool, expected: list[tuple[int, ...]]) -> None:
    assert list(offers_for(layout, OFFERS, mix_kinds=mix_kinds)) == expected


def test_each_layout_is_an_option_on_each_source_with_a_name_of_its_own() -> None:
    options = options_of([SINGLE, WIDE, QUANTISED, UNLIKE], OFFERS, demand(), asked(), Engine())
    names = [option.name for option in options]
    assert len(set(names)) == len(names)
    options = [option for option in options if "-for-" not in option.name]
    assert [(option.layout, option.offers) for option in options] == [
        (SINGLE, (0,)),
        (SINGLE, (1,)),
        (WIDE, (1,)),
        (QUANTISED, (5,)),
        (UNLIKE, (0, 2)),
    ]
    names = [option.name for option in options]
    assert names[0].endswith("east")
    assert names[1].endswith("west")
    assert names[3] == QUANTISED.name
    assert all((option.capacity_per_s > 0).all() for option in options)
    assert all(set(option.why_not) == {""} for option in options)


def test_spot_is_named_where_it_is_told_apart() -> None:
    alone = Layout(MODEL, "bf16", (LayoutStage(A100, 40),))
    options = options_of([alone], OFFERS, demand(), asked(), Engine())
    assert [("spot" in option.name) for option in options] == [option.offers == (3,) for option in options]


def test_a_precision_below_a_class_s_floor_serves_the_others() -> None:
    floors = (0.99, 0.9)
    kept = {"int4": 0.95, "bf16": 1.0}
    (option,) = options_of(
        [QUANTISED], OFFERS, demand(), asked(floors=floors), Engine(), quality=lambda _, precision: kept[precision]
    )
    assert (option.capacity_per_s > 0).tolist() == [False, False, True, True]
    assert option.why_not[0] == "int4 keeps 95.0 % of the quality, below the class's floor of 99.0 %"


def test_another_model_is_not_served() -> None:
    (option,) = options_of([QUANTISED], OFFERS, demand(), asked(batch="llama-2-7b"), Engine())
    assert (option.capacity_per_s > 0).tolist() == [True, True, False, False]
    assert "llama-2-7b" in option.why_not[2]


def test_requests_longer_than_a_replica_holds_are_told() -> None:
    (option,) = options_of([QUANTISED], OFFERS, demand(), asked(), Engine(max_model_len=2048))
    assert option.capacity_per_s[3] == 0.0
    assert "tokens, and a replica holds 2048" in option.why_not[3]


def test_options_that_serve_nobody_are_left_out_and_why_is_told() -> None:
    wanted = asked(ttft_s=0.001, batch="llama-2-7b")
    assert options_of([SINGLE], OFFERS, demand(), wanted, Engine()) == ()
    reasons = why_nobody([SINGLE, QUANTISED], demand(), wanted, Engine(), ())
    assert set(reasons) == {0, 1, 2, 3}
    assert set(reasons[0]) == {SINGLE.name, QUANTISED.name}
    assert all(why for told in reasons.values() for why in told.values())
    assert (
        why_nobody([SINGLE], demand(), asked(), Engine(), options_of([SINGLE], OFFERS, demand(), asked(), Engine()))
        == {}
    )


def test_a_set_of_looser_classes_has_replicas_of_its_own_where_that_is_worth_it() -> None:
    """Beside chat a replica may not be filled as far as work that may wait lets it be."""
    options = {option.name: option for option in options_of([SINGLE], OFFERS[:1], demand(), asked(), Engine())}
    shared, kept = options[SINGLE.name], options[f"{SINGLE.name}-for-batch"]
    assert (kept.capacity_per_s[2:] > 1.05 * shared.capacity_per_s[2:]).any()
    assert kept.capacity_per_s[:2].tolist() == [0.0, 0.0]
    assert kept.why_not[0] == "kept for other classes"
    assert f"{SINGLE.name}-for-chat" not in options  # chat is the strictest: nothing is won by sending the others away
