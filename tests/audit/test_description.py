"""The description of a fleet: the example is one, and what cannot be is one line that names the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolpilot.audit.description import EXAMPLE, DescriptionError, read_description

from .fleets import ONE_POOL, described

GOOD = ONE_POOL.format(count=2)


def test_the_example_that_is_printed_can_be_used() -> None:
    fleet = read_description(EXAMPLE)
    assert list(fleet.pools) == ["h100", "l40s"]
    assert fleet.pools["h100"].price.usd_per_hr == 6.88
    assert fleet.pools["l40s"].steps == ((0.0, 4),)


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("price: 1.8", "price: -1", "pools.l40s.price.usd_per_hr: -1"),
        ("count: 2", "count: 2\n    moves: [[0, 1]]", "wanted count or moves"),
        ("count: 2", "moves: [[5, 1]]", "moves: seconds"),
        ("count: 2", "count: 2\n    select: {9job: a}", "'9job'"),
        ("count: 2", "count: 2\n    select: {job: '~('}", "no regular expression"),
        ("count: 2", "count: 2\n    min: 3\n    max: 2", "min <= max"),
        ("count: 2", "cuont: 2", "pools.l40s.cuont"),
        ("    target:", "    pools: [h100]\n    target:", "unknown pool 'h100'"),
        ("schema: 1", "schema: 7", "schema: 7"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, wrong: str, right: str, said: str) -> None:
    assert wrong in GOOD
    with pytest.raises(DescriptionError) as refused:
        described(tmp_path, GOOD.replace(wrong, right, 1))
    assert said in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\x00"])
def test_what_is_no_description_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DescriptionError):
        described(tmp_path, text)


def test_a_file_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="--write-example"):
        read_description(tmp_path / "none.yaml")


def test_a_pool_becomes_a_scenarios_with_the_starts_that_were_seen(tmp_path: Path) -> None:
    pool = described(tmp_path, count=2).pools["l40s"]
    own = pool.scenario_pool(2, 5)
    assert (own.replicas.min, own.replicas.max, own.replicas.start) == (0, 5, 2)
    assert own.cold_start.delays(1.0).mean_s == 50.0
    assert pool.scenario_pool(2, 5, 80.0).cold_start.delays(1.0).mean_s == pytest.approx(80.0)
    assert pool.scenario_pool(2, 5, 10.0).cold_start.delays(1.0).mean_s == pytest.approx(10.0)
