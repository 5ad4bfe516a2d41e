"""What is written as JSON is read back bit for bit, and what was never written is refused by field."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.contract import (
    BILL_LAYERS,
    CLASS_COLUMNS,
    FORECAST_HORIZON_S,
    IDLE_PARTS,
    POOL_COLUMNS,
    SCHEMA_VERSION,
    Action,
    Bill,
    Cluster,
    Decision,
    Mode,
    Plan,
    Reason,
    ReasonCode,
    SchemaError,
    Snapshot,
    Targets,
)
from poolpilot.env.wire import from_json, memory_from_json, memory_to_json, to_json

from .clusters import a_cluster, a_plan, any_floats, proposals, row, same, situations

ANY_FLOAT = st.floats()
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def there_and_back(value: Any) -> Any:
    """Through real JSON text, strict about NaN."""
    return from_json(type(value), json.loads(json.dumps(to_json(value), allow_nan=False)))


@st.composite
def plans(draw: st.DrawFn, *batch: int) -> Plan:
    c, p = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shapes = {"replicas": (p,), "route": (c, p), "batch_cap": (p,), "capacity_per_s": (c, p), "load_per_s": (c,)}
    shapes |= {"usd_per_hr": (), "attainment": (c,)}
    return Plan(**{name: draw(any_floats(*batch, *shape)) for name, shape in shapes.items()})


@st.composite
def snapshots(draw: st.DrawFn, *batch: int) -> Snapshot:
    c, p = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Snapshot(
        time_s=np.asarray(draw(st.floats(allow_nan=False)) if not batch else np.arange(float(batch[0]))),
        classes=draw(any_floats(*batch, c, len(CLASS_COLUMNS))),
        pools=draw(any_floats(*batch, p, len(POOL_COLUMNS))),
        forecast_per_s=draw(any_floats(*batch, c, len(FORECAST_HORIZON_S))),
    )


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    reason = st.builds(Reason, st.sampled_from(ReasonCode), ANY_TEXT, ANY_FLOAT, ANY_FLOAT, ANY_TEXT)
    return Decision(
        tick=draw(st.integers(0)),
        time_s=draw(ANY_FLOAT),
        proposed=row(draw(proposals(1, 2, 3)), 0),
        applied=row(draw(proposals(1, 2, 3)), 0),
        reasons=tuple(draw(st.lists(reason, max_size=3))),
        expected_usd_per_hr=draw(ANY_FLOAT),
        expected_attainment=draw(any_floats(2)),
        policy_name=draw(ANY_TEXT),
        policy_hash=draw(ANY_TEXT),
        mode=draw(st.sampled_from(Mode)),
        fencing_token=draw(st.integers(0, 2**63)),
    )


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_contract_type_comes_back_bit_for_bit(data: st.DataObject) -> None:
    situation = data.draw(situations(absurdity=True))
    values = [
        situation.cluster,
        row(situation.cluster, 0),
        situation.cluster.targets,
        data.draw(snapshots()),
        data.draw(snapshots(2)),
        data.draw(plans()),
        data.draw(plans(2)),
        data.draw(proposals(2, 2, 3)),
        data.draw(decisions()),
        data.draw(decisions()).reasons,
        Bill(data.draw(any_floats(2, 2, len(BILL_LAYERS))), data.draw(any_floats(2, 2, len(IDLE_PARTS)))),
    ]
    for value in values:
        if isinstance(value, tuple):
            assert all(same(there_and_back(reason), reason) for reason in value)
        else:
            assert same(there_and_back(value), value), type(value).__name__


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(ANY_TEXT, any_floats(2, 3) | any_floats(), max_size=4))
def test_a_memory_comes_back_bit_for_bit(memory: dict[str, Any]) -> None:
    back = memory_from_json(json.loads(json.dumps(memory_to_json(memory), allow_nan=False)))
    assert back.keys() == memory.keys()
    assert all(same(back[name], memory[name]) for name in memory)


def test_unknown_is_null_and_infinity_a_word() -> None:
    written = to_json(Bill(np.array([[[np.nan, np.inf, -np.inf, 0.5, 2.0]]]), np.zeros((1, 1, 4))))
    assert written["usd"] == [[[None, "inf", "-inf", 0.5, 2.0]]]
    assert to_json({"mode": Mode.CANARY, "count": np.int64(3), "share": np.float32(0.5)}) == {
        "mode": "canary",
        "count": 3,
        "share": 0.5,
    }


# Each case: which document, where in it, what is put there (DELETE takes the field away), and what is said.
DELETE = object()
NULL = None
DEEP: Any = 1.0
for _ in range(500):
    DEEP = [DEEP]
BROKEN = [
    ("cluster", ("serves",), DELETE, "Cluster.serves: missing"),
    ("cluster", ("colour",), 1, "Cluster.colour: unknown field"),
    ("cluster", ("x" * 500,), 1, "Cluster.xxx"),
    ("cluster", ("serves",), [[True, False], [True]], "Cluster.serves: .*equal rows"),
    ("cluster", ("serves",), [[True, None]], "Cluster.serves: None, wanted true or false"),
    ("cluster", ("serves",), [[1, 0]], "Cluster.serves: 1, wanted true or false"),
    ("cluster", ("class_mask",), NULL, "Cluster.class_mask: None, wanted true or false"),
    ("cluster", ("spot",), {"a": 1}, "Cluster.spot: .*wanted true or false"),
    ("cluster", ("pool_names",), "abc", "Cluster.pool_names: 'abc', wanted a list"),
    ("cluster", ("pool_names",), ["a", 1], r"Cluster.pool_names\[1\]: 1, wanted str"),
    ("cluster", ("pool_names",), ["a", None], r"Cluster.pool_names\[1\]: None, wanted str"),
    ("cluster", ("usd_per_hr",), ["1.0"], "Cluster.usd_per_hr: '1.0', wanted numbers"),
    ("cluster", ("usd_per_hr",), ["nan"], "Cluster.usd_per_hr: 'nan', wanted numbers"),
    ("cluster", ("usd_per_hr",), [True], "Cluster.usd_per_hr: True, wanted numbers"),
    ("cluster", ("usd_per_hr",), [{}], "Cluster.usd_per_hr: {}, wanted numbers"),
    ("cluster", ("usd_per_hr",), [10**400], "Cluster.usd_per_hr: .*wanted numbers"),
    ("cluster", ("usd_per_hr",), [16**9000], "Cluster.usd_per_hr: .*wanted numbers"),
    ("cluster", ("usd_per_hr",), [[1.0], 2.0], "Cluster.usd_per_hr: .*equal rows"),
    ("cluster", ("usd_per_hr",), DEEP, "Cluster.usd_per_hr: nested deeper"),
    ("cluster", ("spot",), DEEP, "Cluster.spot: nested deeper"),
    ("cluster", ("targets",), NULL, "Cluster.targets: None, wanted an object"),
    ("cluster", ("targets", "ttft_s"), DELETE, "Cluster.targets.ttft_s: missing"),
    ("cluster", ("targets", "ttft_s"), "fast", "Cluster.targets.ttft_s: 'fast', wanted numbers"),
    ("plan", ("route",), [[0.5, 0.5], [1.0]], "Plan.route: .*equal rows"),
    ("plan", (), [1, 2], r"Plan: \[1, 2\], wanted an object"),
    ("plan", (), NULL, "Plan: None, wanted an object"),
    ("snapshot", ("schema",), DELETE, "Snapshot.schema: missing"),
    ("snapshot", ("schema",), SCHEMA_VERSION + 1, f"Snapshot.schema: {SCHEMA_VERSION + 1}, this build reads"),
    ("snapshot", ("schema",), NULL, "Snapshot.schema: None"),
    ("snapshot", ("schema",), True, "Snapshot.schema: True"),
    ("snapshot", ("schema",), [1], r"Snapshot.schema: \[1\]"),
    ("snapshot", ("extra",), 1, "Snapshot.extra: unknown field"),
    ("snapshot", ("time_s",), DELETE, "Snapshot.time_s: missing"),
    ("snapshot", ("time_s",), NULL, "Snapshot.time_s: None, wanted seconds"),
    ("snapshot", ("time_s",), [1.0, 2.0], "Snapshot.classes.arrival_rate_per_s: shape"),
    ("snapshot", ("classes",), NULL, "Snapshot.classes: None, wanted an object"),
    ("snapshot", ("classes", "shed_per_s"), DELETE, "Snapshot.classes.shed_per_s: missing"),
    ("snapshot", ("classes", "mood"), [1, 2], "Snapshot.classes.mood: unknown field"),
    ("snapshot", ("classes", "ttft_p95_s"), [1.0], "Snapshot.classes.ttft_p95_s: shape"),
    ("snapshot", ("classes", "ttft_p95_s"), 1.0, "Snapshot.classes.ttft_p95_s: shape"),
    ("snapshot", ("pools", "waiting"), ["many", 1, 2], "Snapshot.pools.waiting: 'many', wanted numbers"),
    ("snapshot", ("pools", "waiting"), [[1, 2, 3]], "Snapshot.pools.waiting: shape"),
    ("snapshot", ("forecast_per_s",), DELETE, "Snapshot.forecast_per_s: missing"),
    ("snapshot", ("forecast_per_s",), [[1.0]], "Snapshot.forecast_per_s: shape"),
    ("snapshot", ("forecast_per_s",), NULL, "Snapshot.forecast_per_s: shape"),
    ("snapshot", (), "text", "Snapshot: 'text', wanted an object"),
    ("decision", ("schema",), SCHEMA_VERSION + 1, "Decision.schema: "),
    ("decision", ("schema",), DELETE, "Decision.schema: missing"),
    ("decision", ("tick",), NULL, "Decision.tick: None, wanted int"),
    ("decision", ("tick",), True, "Decision.tick: True, wanted int"),
    ("decision", ("tick",), 1.5, "Decision.tick: 1.5, wanted int"),
    ("decision", ("time_s",), [1.0, 2.0], r"Decision.time_s: \[1.0, 2.0\], wanted one number"),
    ("decision", ("time_s",), "late", "Decision.time_s: 'late', wanted numbers"),
    ("decision", ("policy_name",), NULL, "Decision.policy_name: None, wanted str"),
    ("decision", ("mode",), "reckless", "Decision.mode: 'reckless', wanted one of .*advise"),
    ("decision", ("mode",), [], r"Decision.mode: \[\], wanted one of"),
    ("decision", ("applied", "admit"), DELETE, "Decision.applied.admit: missing"),
    ("decision", ("reasons",), {}, "Decision.reasons: {}, wanted a list"),
    ("decision", ("reasons",), [{}], r"Decision.reasons\[0\].code: missing"),
    ("decision", ("reasons", 0, "code"), "whim", r"Decision.reasons\[0\].code: 'whim', wanted one of"),
]


def whole_documents() -> dict[str, tuple[type, Any]]:
    rng = np.random.default_rng(3)
    batch = a_cluster(rng, 1, 2, 3)
    cluster, plan = row(batch, 0), row(a_plan(rng, batch), 0)
    action = Action(plan.route, np.ones(2), plan.batch_cap, cluster.max_token_budget, plan.replicas)
    reason = Reason(ReasonCode.BUDGET, "pool-1", 3.0, 2.0)
    decision = Decision(7, 1.0, action, action, (reason,), 2.5, np.ones(2), "rule", "", Mode.ADVISE)
    snapshot = Snapshot(
        time_s=np.array(1.0),
        classes=np.ones((2, len(CLASS_COLUMNS))),
        pools=np.ones((3, len(POOL_COLUMNS))),
        forecast_per_s=np.ones((2, len(FORECAST_HORIZON_S))),
    )
    values = {"cluster": cluster, "plan": plan, "snapshot": snapshot, "decision": decision}
    return {name: (type(value), json.loads(json.dumps(to_json(value)))) for name, value in values.items()}


@pytest.mark.parametrize(("what", "path", "put", "said"), BROKEN, ids=[case[3] for case in BROKEN])
def test_a_broken_document_is_refused_by_field(what: str, path: tuple[Any, ...], put: Any, said: str) -> None:
    kind, document = whole_documents()[what]
    from_json(kind, document)
    if path:
        place = document
        for step in path[:-1]:
            place = place[step]
        if put is DELETE:
            del place[path[-1]]
        else:
            place[path[-1]] = put
    else:
        document = put
    with pytest.raises(SchemaError, match=f"^{said}") as caught:
        from_json(kind, document)
    assert len(str(caught.value)) < 1000


def test_optional_fields_have_their_defaults() -> None:
    kind, document = whole_documents()["decision"]
    del document["fencing_token"]
    del document["reasons"][0]["detail"]
    read = from_json(kind, document)
    assert (read.fencing_token, read.reasons[0].detail) == (0, "")


@pytest.mark.parametrize(
    ("document", "said"),
    [([], r"memory: \[\], wanted an object"), ({"need": ["a"]}, "memory.need: 'a'"), ({"need": {}}, "memory.need: {}")],
)
def test_a_memory_that_is_no_arrays_is_refused(document: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        memory_from_json(document)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["cluster", "plan", "snapshot", "decision"]), st.data())
def test_junk_in_any_place_is_read_or_refused_never_more(what: str, data: st.DataObject) -> None:
    kind, document = whole_documents()[what]
    place, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JUNK)
    with suppress(SchemaError):
        from_json(kind, document)


def test_targets_alone_can_be_stored() -> None:
    cluster: Cluster = row(a_cluster(np.random.default_rng(0), 1, 2, 2), 0)
    assert same(there_and_back(cluster.targets), cluster.targets)
    assert isinstance(there_and_back(cluster.targets), Targets)
