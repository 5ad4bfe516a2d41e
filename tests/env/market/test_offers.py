"""Offers: the cheapest kept, what-ifs applied, old prices warned of."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.catalog.gpus import CatalogError
from poolpilot.env.market.offers import Offer, StockLimit, cheapest_first, priced, stale, undominated, without

H100 = Offer("H100-SXM-80GB", 55.04, gpus=8, machine_gpus=8, provider="aws", region="us-east-1")
H100_SPOT = Offer("H100-SXM-80GB", 13.76, gpus=8, machine_gpus=8, kind="spot", provider="aws", region="us-east-1")
NVL = Offer("H100-NVL-94GB", 6.98, provider="azure", region="eastus")
L40S = Offer("L40S-48GB", 1.861, provider="aws", region="us-east-1")

offers = st.builds(
    Offer,
    gpu=st.sampled_from(["L4-24GB", "L40S-48GB"]),
    usd_per_hr=st.floats(0.1, 90.0),
    gpus=st.sampled_from([1, 2, 4]),
    machine_gpus=st.sampled_from([4, 8]),
    kind=st.sampled_from(["on_demand", "spot"]),
    provider=st.sampled_from(["aws", "gcp"]),
    region=st.sampled_from(["east", "west"]),
    stock=st.sampled_from([None, 2, 5]),
)


def test_one_machine_that_beats_another_in_everything_is_kept_alone() -> None:
    dearer = Offer("L40S-48GB", 2.24, provider="aws", region="us-east-1")
    elsewhere = Offer("L40S-48GB", 2.0, provider="aws", region="us-west-2")
    four = Offer("L40S-48GB", 10.49, gpus=4, machine_gpus=4, provider="aws", region="us-east-1")
    assert undominated([dearer, four, elsewhere, L40S]) == (L40S, elsewhere, four)
    assert undominated([dearer, four, elsewhere, L40S], anywhere=True) == (L40S, four)


def test_what_may_run_out_beats_nothing() -> None:
    scarce = Offer("L40S-48GB", 1.5, provider="aws", region="us-east-1", stock=3)
    assert undominated([L40S, scarce]) == (scarce, L40S)


@given(st.lists(offers, max_size=12), st.booleans())
def test_whatever_is_dropped_something_no_dearer_and_no_worse_is_kept(market: list[Offer], anywhere: bool) -> None:
    kept = undominated(market, anywhere)
    assert undominated(reversed(kept), anywhere) == kept == cheapest_first(kept)
    for gone in set(market) - set(kept):
        assert any(
            (one.gpu, one.kind) == (gone.gpu, gone.kind)
            and (anywhere or (one.provider, one.region) == (gone.provider, gone.region))
            and one.stock is None
            and one.usd_per_gpu_hr <= gone.usd_per_gpu_hr
            and one.gpus <= gone.gpus
            and one.machine_gpus >= gone.machine_gpus
            for one in kept
        )


def test_a_price_is_for_each_gpu_of_every_type_that_the_name_means_and_spot_moves_with_it() -> None:
    dear, spot, nvl, other = priced([H100, H100_SPOT, NVL, L40S], {"h100": 3.44})
    assert (dear.usd_per_hr, nvl.usd_per_hr, other) == (8 * 3.44, 3.44, L40S)
    assert spot.usd_per_hr == pytest.approx(13.76 / 2)
    assert dear.source == "what if: 3.44 $/h a GPU"
    (exact, untouched) = priced([H100, NVL], {"H100-SXM-80GB": 2.0})
    assert (exact.usd_per_hr, untouched) == (16.0, NVL)


def test_spot_alone_takes_the_price_itself() -> None:
    (spot,) = priced([H100_SPOT], {"H100": 1.0})
    assert spot.usd_per_hr == 8.0


def test_without_drops_every_type_that_the_name_means() -> None:
    assert without([H100, H100_SPOT, NVL, L40S], ["H100"]) == (L40S,)
    assert without([H100, NVL, L40S], ["H100-NVL", "l40s"]) == (H100,)


@pytest.mark.parametrize("what_if", [lambda o, n: without(o, [n]), lambda o, n: priced(o, {n: 1.0})])
def test_a_what_if_that_would_change_nothing_is_refused(what_if: object) -> None:
    assert callable(what_if)
    with pytest.raises(CatalogError, match="unknown GPU 'H999'; closest"):
        what_if([H100], "H999")
    with pytest.raises(ValueError, match="T4: no offer of this GPU; offered are H100-SXM-80GB"):
        what_if([H100], "T4")


def test_prices_older_than_the_limit_and_those_without_a_date_are_told_by_provider() -> None:
    def on(day: date | None, provider: str) -> Offer:
        return Offer("L4-24GB", 0.8, provider=provider, as_of=day)

    market = [
        on(date(2026, 7, 20), "aws"),
        on(date(2026, 1, 1), "aws"),
        on(date(2026, 11, 1), "gcp"),
        on(None, "runpod"),
    ]
    assert stale(market, date(2026, 11, 26), 60) == (
        "aws: 2 prices older than 60 days, the oldest of 2026-01-01 (329 days ago)",
        "runpod: 1 price without a date (L4-24GB): nobody can say how old",
    )
    assert stale(market[:3], date(2026, 11, 26), 400) == ()


def test_a_stock_limit_covers_its_types_in_its_region() -> None:
    east = StockLimit("H100", ("H100-SXM-80GB", "H100-NVL-94GB"), 8, "us-east-1")
    assert [east.covers(offer) for offer in (H100, H100_SPOT, NVL, L40S)] == [True, True, False, False]
    anywhere = StockLimit("H100", east.gpu_types, 8)
    assert [anywhere.covers(offer) for offer in (H100, NVL, L40S)] == [True, True, False]
    assert (str(east), str(anywhere)) == ("8 H100 in us-east-1", "8 H100")
