"""What Envoy is told, without an Envoy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.controller.actuators.envoy_clusters import clusters
from poolpilot.controller.actuators.envoy_config import (
    MILLION,
    WEIGHT_TOTAL,
    ClassRoute,
    Endpoint,
    PoolBackends,
    RoutingTable,
    discovery,
    spread,
)
from poolpilot.controller.actuators.envoy_routes import routes

ONE = (Endpoint("10.0.0.1", 8000),)
HALVES = (("A", 0.5), ("B", 0.5))


def a_table(*classes: ClassRoute, ready: str = "ABC") -> RoutingTable:
    pools = tuple(PoolBackends(name, ONE if name in ready else ()) for name in "ABC")
    return RoutingTable(classes, pools, classes[0].name)


def all_routes(table: RoutingTable) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = routes(table)["virtual_hosts"][0]["routes"]
    return found


@pytest.mark.parametrize(
    ("weights", "ready", "shares"),
    [
        ((("A", 0.5), ("B", 0.5)), "AB", {"A": 0.5, "B": 0.5}),
        ((("A", 0.5), ("B", 0.3), ("C", 0.2)), "BC", {"B": 0.6, "C": 0.4}),
        ((("A", 1.0), ("B", 0.0), ("C", 0.0)), "BC", {"B": 1.0}),
        ((("A", 7.0), ("B", 1.0)), "AB", {"A": 0.875, "B": 0.125}),
        ((("A", 1.0), ("B", 0.0)), "", {}),
    ],
    ids=["all ready", "in proportion", "to the next in order", "any scale", "nobody"],
)
def test_the_share_of_a_pool_that_is_not_ready(weights: Any, ready: str, shares: dict[str, float]) -> None:
    spread_out = dict(spread(weights, set(ready)))
    assert spread_out.keys() == shares.keys()
    assert all(abs(spread_out[pool] / WEIGHT_TOTAL - share) < 1e-4 for pool, share in shares.items())


@given(
    st.dictionaries(st.sampled_from("ABCDEFGH"), st.floats(0, 1e6, allow_subnormal=False), min_size=1),
    st.sets(st.sampled_from("ABCDEFGH")),
)
def test_whole_weights_keep_the_sum_and_the_shares(shares: dict[str, float], ready: set[str]) -> None:
    given_out = dict(spread(tuple(shares.items()), ready))
    alive = {pool: share for pool, share in shares.items() if pool in ready}
    assert sum(given_out.values()) == (WEIGHT_TOTAL if alive else 0)
    assert given_out.keys() <= alive.keys()
    total = sum(alive.values())
    if total > 0:
        assert all(abs(given_out.get(p, 0) - s / total * WEIGHT_TOTAL) <= 1 for p, s in alive.items())


def test_weights_and_admission_draw_independently() -> None:
    # One random number serves both, each by its remainder: they are independent if the moduli share no factor.
    assert all(WEIGHT_TOTAL % n for n in range(2, 317))
    assert MILLION % WEIGHT_TOTAL


@pytest.mark.parametrize(
    ("admit_frac", "kinds"),
    [(1.0, ["route"]), (0.25, ["direct_response", "route"]), (0.0, ["direct_response"])],
    ids=["all", "a quarter", "none"],
)
def test_admission(admit_frac: float, kinds: list[str]) -> None:
    header_routes = [
        route
        for route in all_routes(a_table(ClassRoute("chat", HALVES, admit_frac=admit_frac)))
        if route["match"].get("headers", [{}])[0].get("string_match") == {"exact": "chat"}
    ]
    assert [kind for route in header_routes for kind in ("direct_response", "route") if kind in route] == kinds
    if admit_frac == 0.25:
        assert header_routes[0]["match"]["runtime_fraction"]["default_value"]["numerator"] == 750_000


def test_the_body_is_read_only_where_a_class_asks_for_it() -> None:
    plain = routes(a_table(ClassRoute("chat", HALVES)))["virtual_hosts"][0]
    reading = routes(a_table(ClassRoute("chat", HALVES), ClassRoute("code", HALVES, body_match={"model": "x"})))
    assert "typed_per_filter_config" not in plain
    (rules,) = reading["virtual_hosts"][0]["typed_per_filter_config"].values()
    assert [rule["selectors"] for rule in rules["request_rules"]["rules"]] == [[{"key": "model"}]]
    by_header = [route for route in reading["virtual_hosts"][0]["routes"] if "headers" in route["match"]]
    assert all("typed_per_filter_config" in route for route in by_header)


def test_chains_start_at_their_pool_and_stay_within_the_class() -> None:
    table = a_table(ClassRoute("chat", (("A", 1.0), ("B", 0.0))), ClassRoute("code", (("C", 1.0),)))
    chains = {
        cluster["name"]: [sub["name"] for sub in cluster["cluster_type"]["typed_config"]["clusters"]]
        for cluster in clusters(table, lambda _: {})
        if "cluster_type" in cluster
    }
    assert chains == {">A>B": [*"AAAB"], ">B>A": [*"BBBA"], ">C": [*"CCC"]}


def test_weights_do_not_touch_clusters() -> None:
    one, other = (a_table(ClassRoute("chat", (("A", w), ("B", 1 - w)))) for w in (0.2, 0.7))
    assert clusters(one, lambda _: {}) == clusters(other, lambda _: {})
    assert discovery("k", [routes(one)])["version_info"] != discovery("k", [routes(other)])["version_info"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([ClassRoute("chat", ())], "class chat: no pool may serve it"),
        ([ClassRoute("chat", (("Z", 1.0),))], "unknown pool 'Z'; pools are A, B, C"),
        ([ClassRoute("chat", (("A", -1.0),))], "weight of A is -1.0"),
        ([ClassRoute("chat", (("A", float("nan")),))], "weight of A is nan"),
        ([ClassRoute("chat", (("A", 1.0), ("A", 1.0)))], "class chat weights: 'A' is there twice"),
        ([ClassRoute("chat", HALVES, admit_frac=1.5)], "admit_frac is 1.5, wanted 0..1"),
        ([ClassRoute("chat", HALVES, timeout_s=-1.0)], "timeout_s is -1.0, wanted 0 or more"),
        ([ClassRoute("chat", HALVES), ClassRoute("chat", HALVES)], "classes: 'chat' is there twice"),
        ([ClassRoute("a b", HALVES)], "a name is made of letters"),
    ],
    ids=["no pool", "unknown pool", "negative", "nan", "pool twice", "admission", "timeout", "class twice", "name"],
)
def test_a_table_that_cannot_be_is_refused(classes: list[ClassRoute], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_table(*classes)


def test_the_default_must_be_a_class() -> None:
    with pytest.raises(ValueError, match="default_class 'x' is none of the classes chat"):
        RoutingTable((ClassRoute("chat", HALVES),), a_table(ClassRoute("chat", HALVES)).pools, "x")
