"""Every shipped scenario loads; every mistake in one is a single line that says where, what and what would be right."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.scenario import (
    MAX_FILE_BYTES,
    ScenarioError,
    load_scenario,
    parse_scenario,
    shipped_scenarios,
)

SHIPPED = shipped_scenarios()
DOCUMENTS = {name: yaml.safe_load(path.read_text()) for name, path in SHIPPED.items()}
HERE = Path("mine.yaml")
DELETE = object()


def edited(base: str, **edits: Any) -> dict[str, Any]:
    """A shipped scenario with values put in at paths (`pools__h100__gpu`)."""
    document = copy.deepcopy(DOCUMENTS[base])
    for path, value in edits.items():
        *steps, last = path.split("__")
        place = document
        for step in steps:
            place = place[step]
        if value is DELETE:
            del place[last]
        else:
            place[last] = value
    return document


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_scenario_loads(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    cluster = scenario.cluster()
    assert cluster.class_names == tuple(DOCUMENTS[name]["classes"])
    assert cluster.pool_names == tuple(DOCUMENTS[name]["pools"])
    assert cluster.serves.any(axis=0).all()
    assert cluster.serves.any(axis=1).all()
    assert (cluster.min_replicas <= cluster.max_replicas).all()
    assert (load_scenario(SHIPPED[name]).cluster().usd_per_hr == cluster.usd_per_hr).all()


def test_the_cluster_holds_what_the_file_says() -> None:
    scenario = load_scenario("old-and-new")
    cluster = scenario.cluster()
    assert cluster.serves.tolist() == [[True, True, True], [False, True, True]]
    assert cluster.spot.tolist() == [True, False, False]
    assert cluster.max_batch_cap.tolist() == [48.0, 128.0, 128.0]
    assert cluster.max_token_budget.tolist() == [1024.0, 2048.0, 2048.0]
    assert cluster.usd_per_hr.tolist() == [0.92, 5.069, 6.88]
    assert cluster.cold_start_s.tolist() == [scenario.cold_start(name).mean_s for name in cluster.pool_names]
    assert cluster.targets.ttft_s.tolist() == [2.0, 3.0]
    assert np.isnan(cluster.targets.deadline_s).all()
    assert np.isinf(cluster.targets.budget_usd_per_hr)


def test_classes_find_the_pools_of_their_model_only() -> None:
    assert load_scenario("two-models").serves().tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]


def test_a_short_cold_start_has_the_mean_and_the_spread_that_it_says() -> None:
    document = edited("mixed-chat", pools__h100__cold_start={"provision_s": 60, "load_s": 40, "spread_frac": 0.3})
    cold = parse_scenario(document, HERE).cold_start("h100")
    assert cold.mean_s == 100.0
    rng = np.random.default_rng(0)
    whole_s = [cold.provision.at(rng.random()) + cold.load.at(rng.random()) for _ in range(20_000)]
    assert np.mean(whole_s) == pytest.approx(100.0, rel=0.01)
    assert np.std(whole_s) == pytest.approx(30.0, rel=0.05)


def test_a_load_time_left_out_follows_from_the_weights() -> None:
    def load_s(**cold: Any) -> float:
        return parse_scenario(edited("mixed-chat", pools__h100__cold_start=cold), HERE).cold_start("h100").load.mean_s

    weight_gb = parse_scenario(edited("mixed-chat"), HERE).weight_bytes("h100") / 1e9
    assert load_s() == pytest.approx(35.0 + 0.261 * weight_gb)
    assert load_s(storage="s3", loader="runai-streamer") == pytest.approx(18.3 + 0.325 * weight_gb)
    assert load_s(load_s=12.0) == 12.0
    halved = parse_scenario(edited("mixed-chat", pools__h100__precision="fp8", pools__h100__cold_start={}), HERE)
    assert halved.cold_start("h100").load.mean_s < load_s()


def test_what_was_measured_is_told_from_what_is_assumed_and_given() -> None:
    def sources(**cold: Any) -> tuple[str, str]:
        scenario = parse_scenario(edited("mixed-chat", pools__h100__cold_start=cold), HERE)
        return scenario.pools["h100"].cold_start.sources()

    assert [source.split(":")[0] for source in sources()] == ["assumed", "measured"]
    assert [source.split(":")[0] for source in sources(provision_s=5, load=3)] == ["given", "given"]


def test_energy_costs_nothing_unless_the_user_pays() -> None:
    bare = parse_scenario(edited("mixed-chat"), HERE)
    paying = parse_scenario(edited("mixed-chat", energy={"paid_by_user": True, "usd_per_kwh": 0.3}), HERE)
    assert float(bare.tariff().usd_per_kwh) == 0.0
    assert float(paying.tariff().usd_per_kwh) == 0.3


# Each mistake: the edit of mixed-chat, and what the line must say.
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown GPU": ({"pools__h100__gpu": "H1000"}, r"pools\.h100: unknown GPU 'H1000'; closest.*H100-SXM-80GB"),
    "unknown model": ({"model": "llama-99"}, r"pools\.h100: unknown model 'llama-99'; closest"),
    "unknown model of a pool": ({"pools__l40s__model": "gpt-x"}, r"pools\.l40s: unknown model 'gpt-x'"),
    "a model too large": (
        {"pools__l40s__gpu": "L4", "pools__l40s__precision": "bf16"},
        r"pools\.l40s: .*Llama-2-13b.* in bf16 does not fit on 1 x L4-24GB: \d+\.\d GB are missing",
    ),
    "a utilisation too small": (
        {"pools__l40s__engine__gpu_memory_utilization": 0.1},
        r"pools\.l40s: .*does not fit on 1 x L40S-48GB: .*GB are missing",
    ),
    "bf16 on Volta": (
        {"pools__l40s__gpu": "V100-32GB", "pools__l40s__precision": "bf16"},
        r"pools\.l40s: V100-SXM-32GB has no bf16; use fp16",
    ),
    "a split that does not divide the heads": (
        {"pools__h100__tensor_parallel": 3},
        r"pools\.h100: tensor_parallel 3 does not divide the 40 heads",
    ),
    "unknown precision": ({"pools__h100__precision": "fp7"}, r"pools\.h100\.precision: 'fp7': .*'bf16'"),
    "a target of zero": ({"classes__chat__target__ttft_s": 0}, r"classes\.chat\.target\.ttft_s: 0: .*greater than 0"),
    "a negative target": ({"classes__chat__target__tpot_s": -1}, r"classes\.chat\.target\.tpot_s: -1: .*greater than"),
    "an infinite target": (
        {"classes__chat__target__tpot_s": float("inf")},
        r"classes\.chat\.target\.tpot_s: inf: .*finite",
    ),
    "a target of no number": ({"classes__chat__target__ttft_s": "fast"}, r"classes\.chat\.target\.ttft_s: 'fast': "),
    "no target": (
        {"classes__chat__target": {"attainment": 0.9}},
        r"classes\.chat\.target: wanted at least one of ttft_s, tpot_s, e2e_s, deadline_s",
    ),
    "deferrable with a latency target": (
        {"classes__batch__target__ttft_s": 1.0},
        r"classes\.batch\.target: a deferrable class has a deadline_s and no latency target",
    ),
    "attainment above all": (
        {"classes__chat__target__attainment": 1.5},
        r"classes\.chat\.target\.attainment: 1\.5: .*less than or equal to 1",
    ),
    "a pool no class can use": ({"pools__h100__model": "qwen2.5-32b"}, r"pools\.h100: no class can use it"),
    "a class no pool can serve": (
        {"classes__chat__model": "qwen2.5-32b"},
        r"classes\.chat: no pool can serve it; it wants model qwen2\.5-32b, pools hold llama-2-13b",
    ),
    "unknown pool of a class": (
        {"classes__chat__pools": ["b200"]},
        r"classes\.chat\.pools: unknown pool 'b200'; pools are h100, l40s, a100-spot",
    ),
    "unknown pool of a fault": (
        {"faults": [{"kind": "crash", "pool": "b200", "at_s": 10}]},
        r"faults\[0\]\.pool: unknown pool 'b200'; pools are h100",
    ),
    "unknown kind of fault": (
        {"faults": [{"kind": "flood", "pool": "h100", "at_s": 10}]},
        r"faults\.0\.kind: 'flood': ",
    ),
    "unknown class of a generated workload": (
        {"workload__classes__poetry": DOCUMENTS["mixed-chat"]["workload"]["classes"]["chat"]},
        r"workload: unknown class 'poetry'; classes are chat, summarisation, batch",
    ),
    "unknown class of a trace": (
        {"workload": {"kind": "trace", "path": "t.csv", "assign": [{"class": "poetry"}]}},
        r"workload: unknown class 'poetry'; classes are chat",
    ),
    "minimum above maximum": (
        {"pools__h100__replicas": {"min": 3, "max": 2, "start": 3}},
        r"pools\.h100\.replicas: wanted min <= start <= max, got 3, 3, 2",
    ),
    "a start above the maximum": ({"pools__h100__replicas__start": 9}, r"pools\.h100\.replicas: wanted .*got 0, 9, 2"),
    "half a replica": ({"pools__h100__replicas__max": 2.5}, r"pools\.h100\.replicas\.max: 2\.5: .*integer"),
    "spot rates on demand": (
        {"pools__h100__spot": {"preemptions_per_hr": 1}},
        r"pools\.h100: spot: only for a pool whose price\.kind is spot",
    ),
    "a pool with both a mean and a distribution": (
        {"pools__h100__cold_start": {"load_s": 5, "load": 6}},
        r"pools\.h100\.cold_start: wanted load_s or load, got both",
    ),
    "an unknown way to load": (
        {"pools__h100__cold_start": {"storage": "s3", "loader": "safetensors"}},
        r"pools\.h100\.cold_start: unknown storage and loader 's3/safetensors'; closest",
    ),
    "quantiles that do not reach the longest": (
        {"pools__h100__cold_start": {"load": {"kind": "empirical", "quantiles": [[0, 5], [0.9, 9]]}}},
        r"pools\.h100\.cold_start\.load\.empirical: quantiles: wanted shares from 0 to 1, got 0 to 0\.9",
    ),
    "quantiles that fall": (
        {"pools__h100__cold_start": {"load": {"kind": "empirical", "quantiles": [[0, 5], [0.5, 3], [1, 9]]}}},
        r"pools\.h100\.cold_start\.load\.empirical: quantiles: wanted rising pairs, got \[0\.5, 3\] after \[0, 5\]",
    ),
    "an unknown kind of delay": (
        {"pools__h100__cold_start": {"load": {"kind": "weibull"}}},
        r"pools\.h100\.cold_start\.load: .*'weibull'.*'fixed', 'lognormal', 'empirical'",
    ),
    "a negative delay": (
        {"pools__h100__cold_start": {"provision": -1}},
        r"pools\.h100\.cold_start\.provision\.fixed\.s: ",
    ),
    "more stuck than started": (
        {"pools__h100__cold_start": {"stuck_start_frac": 1.5}},
        r"pools\.h100\.cold_start\.stuck_start_frac: 1\.5: .*less than or equal to 1",
    ),
    "a price series of nothing": (
        {"pools__h100__price__series": {}},
        r"pools\.h100\.price\.series: wanted either steps or a path",
    ),
    "a price series that begins late": (
        {"pools__h100__price__series": {"steps": [[5, 1.0]]}},
        r"pools\.h100\.price\.series: steps: wanted second 0 first, got 5",
    ),
    "a price series that goes back": (
        {"pools__h100__price__series": {"steps": [[0, 1.0], [9, 2.0], [9, 3.0]]}},
        r"pools\.h100\.price\.series: steps: wanted each later than the one before, got 9 after 9",
    ),
    "a free step of a price": (
        {"pools__h100__price__series": {"steps": [[0, 0.0]]}},
        r"pools\.h100\.price\.series\.steps\.0\.1: 0\.0: .*greater than 0",
    ),
    "half a machine": (
        {"pools__a100-spot__spot": {"availability": {"steps": [[0, 1.5]]}}},
        r"pools\.a100-spot\.spot\.availability\.steps\.0\.1: 1\.5: .*integer",
    ),
    "a trace without a file": (
        {"pools__a100-spot__spot": {"availability": {"steps": [[0, 1]], "trace": "x"}}},
        r"pools\.a100-spot\.spot\.availability: trace: only with a path",
    ),
    "sleepers of no number": ({"pools__h100__sleep": {"max": 0}}, r"pools\.h100\.sleep\.max: 0: .*greater"),
    "stock-outs without a length": (
        {"pools__h100__stock_outs": {"per_hr": 1}},
        r"pools\.h100\.stock_outs\.duration: Field",
    ),
    "a fault that hits nobody": (
        {"faults": [{"kind": "crash", "pool": "h100", "at_s": 1, "count": 0}]},
        r"faults\.0: count: wanted at least 1 replica hit, got 0",
    ),
    "machines left by a crash": (
        {"faults": [{"kind": "crash", "pool": "h100", "at_s": 1, "left": 2}]},
        r"faults\.0: left: only of a stock_out",
    ),
    "a price of nothing": ({"pools__h100__price__usd_per_hr": 0}, r"pools\.h100\.price\.usd_per_hr: 0: .*greater"),
    "an unknown field": ({"pools__h100__colour": "green"}, r"pools\.h100\.colour: 'green': Extra inputs"),
    "a missing field": ({"pools__h100__gpu": DELETE}, r"pools\.h100: gpu: Field required; or give stages"),
    "no pools": ({"pools": {}}, r"pools: .*at least 1"),
    "no classes": ({"classes": {}}, r"classes: .*at least 1"),
    "pools that are no mapping": ({"pools": [1, 2]}, r"pools: Input should be a valid dictionary"),
    "a pool that is nothing": ({"pools__h100": None}, r"pools\.h100: None: .*dictionary"),
    "another schema": ({"schema": 2}, r"schema: 2: Input should be 1"),
    "no schema": ({"schema": DELETE}, r"schema: Field required"),
    "a folder of one's own": ({"base_dir": "/etc"}, r"base_dir: unknown field"),
    "a name for two lines": ({"name": "a\nb"}, r"name: 'a\\nb': .*match"),
    "a pool name of two lines": (
        {"pools__h\n100": DOCUMENTS["mixed-chat"]["pools"]["h100"]},
        r"pools\.h 100\.\[key\]: 'h\\n100': .*match pattern",
    ),
    "a pool name that climbs": ({"pools__../h100": None}, r"pools\.\.\./h100\.\[key\]: '\.\./h100': .*match"),
    "a class name with markup": ({"classes__[/b]": None}, r"classes\.\[/b\]\.\[key\]: .*match"),
    "a key that is no text": ({"pools": {1: {}}}, r"pools\.1.*: 1: .*string"),
    "half a surrogate in a key": ({"\ud800": 1}, r".*valid string"),
    "a huge whole number": ({"duration_s": 16**9000}, r"duration_s: a whole number of 36001 bits: "),
    "a hot room": ({"energy": {"room_c": float("inf")}}, r"energy\.room_c: inf: "),
    "a text of a thousand words": ({"duration_s": "long " * 1000}, r"duration_s: 'long .*\.\.\.: .*number"),
}


@pytest.mark.parametrize(("edits", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_naming_file_field_value_and_remedy(edits: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=rf"^mine\.yaml: {said}") as caught:
        parse_scenario(edited("mixed-chat", **edits), HERE)
    assert_one_line(caught.value)


def assert_one_line(error: ScenarioError) -> None:
    line = str(error)
    assert line == " ".join(line.split())
    assert len(line) <= 1000
    line.encode()


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "None: wanted a mapping"),
    "a comment": (b"# later\n", "None: wanted a mapping"),
    "a list": (b"- 1\n- 2\n", "a list: wanted a mapping"),
    "a word": (b"scenario\n", "'scenario': wanted a mapping"),
    "open brackets": (b"pools: {a: [1, 2\n", "not readable as YAML: .*line 2"),
    "tabs": (b"a:\n\tb: 1\n", "not readable as YAML: .*line 2"),
    "binary": (bytes(range(256)), "not readable as YAML: "),
    "a code to run": (b"a: !!python/object/apply:os.getcwd []\n", "not readable as YAML: .*constructor"),
    "an alias bomb": (
        b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 20)),
        "stands for more than",
    ),
    "a merge bomb": (
        b"a0: &a0 {k: 1}\n"
        + b"".join(b"a%d: &a%d {<<: [%s]}\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 20)),
        "stands for more than",
    ),
    "very deep": (b"a: " + b"[" * 10000, "not readable as YAML: "),
    "very large": (b"#" * (MAX_FILE_BYTES + 1), "larger than"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_scenario_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ScenarioError, match=said) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert_one_line(caught.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", "x" * 5000, "", "mixed-chat.yaml\n", "/", "."])
def test_a_missing_file_is_one_line_naming_the_shipped_ones(name: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(name)
    assert_one_line(caught.value)
    if len(name) < 100:
        assert "shipped are cheap-gpus, mixed-chat" in str(caught.value)


def test_a_file_is_found_by_path_and_anchors_relative_paths(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHIPPED["mixed-chat"].read_text())
    assert load_scenario(path).base_dir == tmp_path
    assert load_scenario(str(path)).name == "mixed-chat"


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, -1, 0.5, 1e300, float("nan"), float("inf"), "spot", "L4", "h100", "bf16", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(DOCUMENTS)), st.data())
def test_a_mutated_scenario_loads_or_is_refused_in_one_line(name: str, data: st.DataObject) -> None:
    document = copy.deepcopy(DOCUMENTS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        place, key = document, data.draw(st.sampled_from(sorted(document)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 4)):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place, key=str) if isinstance(place, dict) else range(len(place))))
        change = data.draw(st.sampled_from(["put", "delete", "rename"]))
        if change == "put" or isinstance(place, list):
            place[key] = data.draw(JUNK)
        elif len(place) > 1:
            value = place.pop(key)
            if change == "rename":
                place[data.draw(st.text(max_size=8))] = value
    try:
        parse_scenario(document, HERE).cluster()
    except ScenarioError as error:
        assert_one_line(error)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_garbled_file_loads_or_is_refused_in_one_line(data: st.DataObject, tmp_path_factory: Any) -> None:
    text = SHIPPED[data.draw(st.sampled_from(sorted(SHIPPED)))].read_text()[:600]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 40, len(text))))
    path = tmp_path_factory.getbasetemp() / "garbled.yaml"
    path.write_bytes(
        (text[:start] + data.draw(st.text(max_size=12))).encode()
        + data.draw(st.binary(max_size=3))
        + text[end:].encode()
    )
    try:
        load_scenario(path)
    except ScenarioError as error:
        assert_one_line(error)


def test_a_scenario_cannot_change() -> None:
    scenario = load_scenario("mixed-chat")
    with pytest.raises(ValueError, match="frozen"):
        scenario.name = "other"
