"""What replicas cost now: stated, by the scenario's own series, or followed in a file with its age."""

import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from poolpilot.env.market.series import SeriesError
from poolpilot.env.scenario import Scenario
from poolpilot.env.scenario.pools import PoolStage
from poolpilot.telemetry.prices import PriceBook, Prices, quote_of

OWN = "provider,region,gpu,n_gpu,usd_hr_ondemand,usd_hr_spot,as_of\n"
SKY = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone\n"
NOW_S = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
HOUR_S = 3600.0


def scenario(folder: Path, feed: dict[str, Any] | None, **price: Any) -> Scenario:
    document: dict[str, Any] = {
        "schema": 1,
        "name": "priced",
        "summary": "One pool follows a file, one states its price, one has a series.",
        "duration_s": 600,
        "tick_s": 10,
        "model": "qwen2.5-0.5b",
        "pools": {
            "followed": {"gpu": "H100", "tensor_parallel": 2, "price": {"usd_per_hr": 5.0, **price, "feed": feed}},
            "stated": {"gpu": "L4", "price": {"usd_per_hr": 0.8}},
            "moving": {"gpu": "L4", "price": {"usd_per_hr": 0.8, "series": {"steps": [[0, 0.7], [100, 0.9]]}}},
        },
        "classes": {"chat": {"target": {"ttft_s": 2.0, "attainment": 0.9}}},
        "workload": {
            "kind": "generated",
            "classes": {
                "chat": {
                    "rate_per_s": 1.0,
                    "prompt_tokens": {"kind": "lognormal", "median": 200, "sigma": 0.5, "max": 1000},
                    "output_tokens": {"kind": "lognormal", "median": 200, "sigma": 0.4, "max": 500},
                }
            },
        },
        "base_dir": folder,
    }
    return Scenario.model_validate(document)


def written(path: Path, text: str, at_s: float = NOW_S) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    os.utime(path, (at_s, at_s))
    return path


class Wall:
    def __init__(self) -> None:
        self.now_s = NOW_S + HOUR_S

    def __call__(self) -> float:
        return self.now_s


def reader(folder: Path, feed: dict[str, Any], wall: Wall, **price: Any) -> Callable[[], Any]:
    book = PriceBook(scenario(folder, feed, **price), wall)

    async def now(time_s: float = 0.0) -> Prices:
        return await book.now(time_s, patience_s=60.0)

    return now


async def test_stated_prices_have_no_age_and_series_move_with_the_deciders_clock(tmp_path: Path) -> None:
    written(tmp_path / "prices.csv", OWN + "aws,us-east-1,H100,8,40,,\n")
    now = reader(tmp_path, {"path": "prices.csv"}, Wall())
    first, later = await now(0.0), await now(150.0)
    assert first.usd_per_hr.tolist() == [10.0, 0.8, 0.7]
    assert later.usd_per_hr.tolist() == [10.0, 0.8, 0.9]
    assert first.age_s[0] == HOUR_S
    assert [math.isnan(age) for age in first.age_s] == [False, True, True]
    assert first.troubles == ()


async def test_a_changed_file_counts_at_the_next_tick(tmp_path: Path) -> None:
    wall, path = Wall(), written(tmp_path / "prices.csv", OWN + "aws,us-east-1,H100,8,40,,\n")
    now = reader(tmp_path, {"path": "prices.csv"}, wall)
    await now()
    written(path, OWN + "aws,us-east-1,H100,8,48,,\n", NOW_S + 1800.0)
    prices = await now()
    assert (prices.usd_per_hr[0], prices.age_s[0]) == (12.0, 1800.0)


async def test_a_file_that_is_gone_broken_or_old_is_named_and_its_last_price_kept(tmp_path: Path) -> None:
    wall, path = Wall(), tmp_path / "prices.csv"
    now = reader(tmp_path, {"path": "prices.csv", "max_age_s": 2 * HOUR_S}, wall)
    missing = await now()
    assert missing.usd_per_hr[0] == 5.0
    assert "price of followed" in missing.troubles[0]
    assert "No such file" in missing.troubles[0]
    assert "5 $/h kept" in missing.troubles[0]

    written(path, OWN + "aws,us-east-1,H100,8,40,,\n")
    assert (await now()).troubles == ()
    wall.now_s = NOW_S + 3 * HOUR_S
    old = await now()
    assert old.usd_per_hr[0] == 10.0
    assert "10800 s old, wanted 7200 s at most; 10 $/h kept" in old.troubles[0]

    written(path, "price,per,hour\n1,2,3\n", NOW_S + 2.9 * HOUR_S)
    broken = await now()
    assert broken.usd_per_hr[0] == 10.0
    assert "columns are" in broken.troubles[0]
    assert broken.age_s[0] == 3 * HOUR_S

    written(path, OWN + "aws,us-east-1,H100,8,44,,\n", NOW_S + 2.95 * HOUR_S)
    healed = await now()
    assert (healed.usd_per_hr[0], healed.troubles) == (11.0, ())


async def test_the_catalogue_of_skypilot_by_place_and_kind(tmp_path: Path) -> None:
    rows = (
        "p5.48xlarge,H100,8,192,2048,,55.04,22.4,us-east-1,us-east-1a\n"
        "p5.48xlarge,H100,8,192,2048,,55.04,19.2,us-west-2,us-west-2b\n"
    )
    written(tmp_path / "aws" / "vms.csv", SKY + rows)
    feed = {"path": "aws/vms.csv"}
    assert (await reader(tmp_path, feed, Wall())()).usd_per_hr[0] == pytest.approx(13.76)
    assert (await reader(tmp_path, feed, Wall(), kind="spot")()).usd_per_hr[0] == pytest.approx(4.8)
    east = {**feed, "region": "us-east-1"}
    assert (await reader(tmp_path, east, Wall(), kind="spot")()).usd_per_hr[0] == pytest.approx(5.6)
    elsewhere = await reader(tmp_path, {**feed, "region": "mars", "provider": "aws"}, Wall())()
    assert elsewhere.usd_per_hr[0] == 5.0
    assert "no on_demand offer of H100-SXM-80GB with provider aws, region mars among" in elsewhere.troubles[0]


@pytest.mark.parametrize(
    ("as_of", "written_on", "age_days"),
    [("2026-11-20", 20, 0.0), ("2026-11-10", 20, 9.0), ("2026-11-25", 20, 0.0), ("", 15, 5.0)],
    ids=["told today", "an old price in a new file", "a day to come", "the file's own time"],
)
def test_a_price_is_as_old_as_its_file_or_its_day(tmp_path: Path, as_of: str, written_on: int, age_days: float) -> None:
    at_s = datetime(2026, 11, written_on, 12, tzinfo=UTC).timestamp()
    path = written(tmp_path / "prices.csv", OWN + f"aws,us-east-1,H100,8,40,,{as_of}\n", at_s)
    pool = scenario(tmp_path, {"path": "prices.csv"}).pools["followed"]
    assert (NOW_S - quote_of(path, pool, at_s).told_at_s) / 86400 == pytest.approx(age_days)


def test_a_replica_over_unlike_gpus_costs_what_its_parts_cost(tmp_path: Path) -> None:
    path = written(tmp_path / "prices.csv", OWN + "aws,east,H100,8,40,,\naws,east,L4,1,0.8,,\n")
    pool = (
        scenario(tmp_path, {"path": "prices.csv"})
        .pools["followed"]
        .model_copy(update={"stages": _stages(("H100", 2), ("L4", 1))})
    )
    assert quote_of(path, pool, NOW_S).usd_per_hr == pytest.approx(10.8)
    bare = written(tmp_path / "bare.csv", OWN + "aws,east,H100,8,40,,\n")
    with pytest.raises(SeriesError, match="no on_demand offer of L4-24GB among 1 offers"):
        quote_of(bare, pool, NOW_S)


def _stages(*parts: tuple[str, int]) -> Any:

    return tuple(PoolStage(gpu=gpu, layers=10, tensor_parallel=count) for gpu, count in parts)
