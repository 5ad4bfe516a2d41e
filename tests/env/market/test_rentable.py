"""From a scenario's `planning:` to the offers that a planner may choose from."""

from __future__ import annotations

import statistics
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from poolpilot.env.catalog.gpus import GPUS
from poolpilot.env.market.files import read_availability
from poolpilot.env.market.offers import stale
from poolpilot.env.market.rentable import Rentable, rentable
from poolpilot.env.market.series import SeriesError
from poolpilot.env.scenario.planning import SPOT_PREEMPTIONS_PER_HR, Planning

HEADER = "provider,region,gpu,n_gpu,usd_hr_ondemand,usd_hr_spot,as_of\n"
ROWS = """\
aws,east,H100,8,40.0,16.0,2026-11-01
aws,east,L40S,1,1.9,,2026-11-01
aws,west,L40S,1,2.1,1.0,2026-11-01
gcp,east,L4,1,0.8,0.3,2026-11-01
gcp,east,K80,1,0.4,,2026-11-01
"""


def rent(folder: Path, **planning: Any) -> Rentable:
    (folder / "prices.csv").write_text(HEADER + ROWS)
    return rentable(Planning.model_validate({"prices": "prices.csv"} | planning), folder)


def told(found: Rentable) -> list[tuple[str, str, str]]:
    return [(offer.gpu.split("-")[0], offer.kind, offer.region) for offer in found.offers]


def test_the_cheapest_place_of_each_gpu_on_demand_and_what_was_left_out(tmp_path: Path) -> None:
    found = rent(tmp_path)
    assert told(found) == [("L4", "on_demand", "east"), ("L40S", "on_demand", "east"), ("H100", "on_demand", "east")]
    (note,) = found.notes
    assert note.endswith("prices.csv: left out 1 rows of accelerators not in the catalogue: K80")


def test_spot_only_where_it_may_serve_and_at_the_rate_of_the_scenario(tmp_path: Path) -> None:
    found = rent(tmp_path, max_spot_share=0.5, spot_preemptions_per_hr=0.2)
    spot = [offer for offer in found.offers if offer.kind == "spot"]
    assert [(offer.gpu, offer.preemptions_per_hr) for offer in spot] == [
        ("L4-24GB", 0.2),
        ("L40S-48GB", 0.2),
        ("H100-SXM-80GB", 0.2),
    ]
    assert {offer.preemptions_per_hr for offer in found.offers if offer.kind == "on_demand"} == {0.0}


def test_filters_by_gpu_provider_and_region(tmp_path: Path) -> None:
    assert told(rent(tmp_path, gpus=["L40S", "L4"], providers=["aws"])) == [("L40S", "on_demand", "east")]
    assert told(rent(tmp_path, regions=["west"])) == [("L40S", "on_demand", "west")]


def test_where_stages_may_be_unlike_every_region_stays(tmp_path: Path) -> None:
    assert ("L40S", "on_demand", "west") in told(rent(tmp_path, mixed_pipelines=True))


def test_stock_by_region_leaves_none_elsewhere_and_too_little_for_one_machine_is_none(tmp_path: Path) -> None:
    found = rent(tmp_path, stock={"L40S": {"west": 4}, "H100": 7, "L4": 2})
    assert told(found) == [("L4", "on_demand", "east"), ("L40S", "on_demand", "west")]
    assert [str(limit) for limit in found.stock] == ["4 L40S in west", "7 H100", "2 L4"]


def test_offers_of_the_scenario_stand_beside_those_of_files(tmp_path: Path) -> None:
    own = {"gpu": "L40S", "usd_per_hr": 1.0, "gpus": 2, "stock": 3, "as_of": "2026-11-20"}
    found = rent(tmp_path, prices=["prices.csv", own], gpus=["L40S"])
    mine, market = found.offers
    assert (mine.usd_per_gpu_hr, mine.stock, mine.machine_gpus, mine.as_of) == (0.5, 3, 2, date(2026, 11, 20))
    assert mine.source == "given: the scenario file"
    assert market.usd_per_hr == 1.9


@pytest.mark.parametrize(
    ("planning", "wanted"),
    [
        ({"gpus": ["B200"]}, r"planning\.gpus: no offer has B200; offers have H100-SXM-80GB, L4-24GB, L40S-48GB"),
        ({"regions": ["mars"]}, r"planning\.regions: no offer has mars; offers have east, west"),
        ({"gpus": ["L4"], "regions": ["west"]}, r"planning: gpus, .* leave none of 7 offers; spot offers need"),
        ({"prices": "none.csv"}, r"^planning\.prices: .*none\.csv: cannot be read: No such file"),
    ],
)
def test_when_nothing_is_left_one_line_says_what_leaves_nothing(
    tmp_path: Path, planning: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(SeriesError, match=wanted):
        rent(tmp_path, **planning)


def test_the_prices_that_come_with_the_package_are_of_known_gpus_days_and_sources() -> None:
    found = rentable(Planning(max_spot_share=1.0, mixed_pipelines=True), Path())
    assert found.notes == ()
    assert {offer.gpu for offer in found.offers} >= {
        *("T4-16GB", "V100-SXM-16GB", "A10G-24GB", "L4-24GB", "L40S-48GB"),
        *("A100-SXM-40GB", "A100-SXM-80GB", "H100-SXM-80GB", "H200-SXM-141GB"),
    }
    for offer in found.offers:
        assert offer.gpu in GPUS
        assert offer.as_of is not None
        assert offer.source
        assert offer.provider
        assert offer.region
        assert 0.2 < offer.usd_per_gpu_hr < 20.0
    assert stale(found.offers, date(2026, 7, 21), 10_000) == ()
    assert stale(found.offers, date(2027, 7, 21), 60)


@pytest.mark.shared_data
def test_the_usual_rate_of_preemptions_is_that_of_public_traces(shared_data: Path) -> None:
    spot = shared_data / "spot"
    kept = ["1-node/aws-04-22-2023/us-east-1c_v100_1", "1-node/aws-04-22-2023/us-east-1f_v100_1"]
    kept += ["4-node/aws-08-03-2023/us-east-1f_v100_1", "4-node/aws-08-03-2023/us-east-2a_v100_1"]
    rates = [read_availability(spot / "spot_availability.csv", f"preemption/{name}").losses_per_hr() for name in kept]
    bamboo = ("traces/p3-trace.csv", "traces/g4dn-trace.csv")
    rates += [read_availability(spot / "bamboo_node_events.csv", name).losses_per_hr() for name in bamboo]
    assert statistics.median(rates) == pytest.approx(SPOT_PREEMPTIONS_PER_HR, abs=0.1)
    assert (min(rates), max(rates)) == pytest.approx((0.06, 0.735), abs=0.005)
