"""What is fed with damaged files: each target takes bytes, and either uses them or says in one line why not."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import yaml
from pydantic import TypeAdapter, ValidationError

from poolpilot.agents.portfolio import PLAN_TRACKING, spec_of
from poolpilot.agents.tuned import TunedError, read_tuned
from poolpilot.env.market.price_list import read_price_list
from poolpilot.env.market.rentable import SHIPPED_PRICES, rentable
from poolpilot.env.market.series import SeriesError
from poolpilot.env.one_line import first_problem, one_line
from poolpilot.env.plain_yaml import PlainYamlError, plain_yaml
from poolpilot.env.scenario import ScenarioError, load_scenario, shipped_scenarios
from poolpilot.env.workload import generate, jobs, scaling, sessions, streams
from poolpilot.env.workload.assign import assign_classes
from poolpilot.env.workload.clients import requests_of_clients
from poolpilot.env.workload.load import load_workload
from poolpilot.env.workload.requests import WorkloadError
from poolpilot.env.workload.spec import AssignRule, ServegenSpec, WorkloadSpec
from poolpilot.env.workload.traces import TraceError, read_trace
from poolpilot.tests.env.workload.trace_files import PACK, SERVEGEN_DATASET, SERVEGEN_TRACE, VALID, parquet_bytes
from poolpilot.tests.fuzz.mutating import mutated
from poolpilot.tests.training.clusters import tiny
from poolpilot.training.suites import SuiteError, load_suite

Outcome = Literal["used", "refused"]
REFUSALS = (TraceError, WorkloadError, ScenarioError, PlainYamlError, SeriesError, SuiteError, TunedError)
FEW_REQUESTS = 100_000
"""A mutated scenario may ask for millions of requests, which takes time and is no fault."""
SPEC: TypeAdapter[WorkloadSpec] = TypeAdapter(WorkloadSpec)


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    seeds: tuple[bytes, ...]
    use: Callable[[bytes, Path], None]
    """Read the content, put into a folder of its own; raises one of `REFUSALS`, or nothing."""
    mutate: Callable[[random.Random], bytes]

    def outcome(self, content: bytes, folder: Path) -> Outcome:
        """What the reader makes of it.

        Raises:
            AssertionError: the reason is no single printable line.
            Exception: anything else that the reader lets through is a finding.
        """
        try:
            self.use(content, folder)
        except REFUSALS as error:
            message = str(error)
            assert message, "a refusal without a reason"
            assert "\n" not in message, repr(message)
            message.encode()
            assert len(message) < 1500, len(message)
            return "refused"
        return "used"


def _by_bytes(name: str, seeds: tuple[bytes, ...], use: Callable[[bytes, Path], None]) -> Target:
    return Target(name, seeds, use, lambda rng: mutated(rng.choice(seeds), seeds, rng))


def _trace(content: bytes, folder: Path) -> None:
    path = folder / "trace"
    path.write_bytes(content)
    trace = read_trace(path)
    load = assign_classes(trace, [AssignRule(class_name="all")], ("all",), 0)  # a Workload checks itself
    assert len(load) == len(trace)
    if len(load):
        load.prefix_hit_share()


def _chunks(content: bytes, folder: Path) -> None:
    trace, _, dataset = content.partition(b"\n====\n")
    (folder / "chunk-1-trace.csv").write_bytes(trace)
    (folder / "chunk-1-dataset.json").write_bytes(dataset)
    _servegen(folder, folder)


def _tables(content: bytes, folder: Path) -> None:
    size = int.from_bytes(content[:4], "little")
    (folder / "x_clients.parquet").write_bytes(content[4 : 4 + size])
    (folder / "x_lengths.parquet").write_bytes(content[4 + size :])
    _servegen(folder / "x_clients.parquet", folder)


def _servegen(path: Path, folder: Path) -> None:
    spec = ServegenSpec(kind="servegen", path=path, rate_per_s=2.0, assign=(AssignRule(class_name="all"),))
    requests_of_clients(spec, ("all",), 600.0, 0, folder)


def _scenario(content: bytes, folder: Path) -> None:
    path = folder / "scenario.yaml"
    path.write_bytes(content)
    planning = load_scenario(path, needs_pools=False).planning
    if planning is not None:
        rentable(planning, folder)


def _prices(content: bytes, folder: Path) -> None:
    path = folder / "vms.csv"
    path.write_bytes(content)
    for offer in read_price_list(path).offers:
        assert offer.usd_per_hr > 0.0
        assert 1 <= offer.gpus <= offer.machine_gpus


def _tuned(content: bytes, folder: Path) -> None:
    path = folder / "tuned.json"
    path.write_bytes(content)
    for name, rule in read_tuned(path, spec_of).items():
        spec_of(name).settled(rule.knobs)


def _suite(content: bytes, folder: Path) -> None:
    tiny(folder)
    path = folder / "suite.yaml"
    path.write_bytes(content)
    suite = load_suite(path, folder / "data")
    assert len(suite.scenarios) + len(suite.skipped) >= 1
    assert all("\n" not in own.why + own.name for own in suite.skipped)


def _workload(content: bytes, folder: Path) -> None:
    """A `workload:` section, read and drawn from."""
    (folder / "trace.csv").write_bytes(VALID["plain.csv"])
    (folder / "burst.csv").write_bytes(VALID["burstgpt-1.csv"])
    try:
        spec = SPEC.validate_python(plain_yaml(content.decode("utf-8", "surrogateescape")))
    except ValidationError as error:
        raise ScenarioError(one_line(first_problem(error))) from None
    except PlainYamlError as error:
        raise ScenarioError(one_line(str(error))) from None
    with ExitStack() as few:
        for module in (streams, scaling, generate, jobs, sessions):
            if hasattr(module, "MAX_REQUESTS"):  # put back afterwards: other tests share the process
                few.enter_context(patch.object(module, "MAX_REQUESTS", FEW_REQUESTS))
        load_workload(spec, ("chat", "batch"), 60.0, 0, folder)


WORKLOADS = """
- kind: generated
  classes:
    chat:
      rate_per_s: 3
      arrivals: gamma
      cv: 1.5
      clients: {count: 5, zipf: 1.0}
      shape:
        - {kind: diurnal, period_s: 600, amplitude: 0.5, peak_at_s: 100}
        - {kind: weekly, factors: [1, 1, 1, 1, 1, 0.5, 0.5], starts_at_s: 1000}
        - {kind: bursts, every_s: 20, duration_s: 5, factor: 3}
        - {kind: ramp, times_s: [0, 30], factors: [1, 2]}
        - {kind: steps, times_s: [0, 30], factors: [1, 0]}
      prompt_tokens: {kind: lognormal, mean: 1155, p95: 3300, max: 8000}
      output_tokens: {kind: lognormal, median: 130, sigma: 1.0, max: 1500}
      correlation: 0.4
      shared_prefix: {count: 3, zipf: 1.0, share: 0.5, tokens: {kind: fixed, tokens: 100}}
- kind: generated
  classes:
    chat: {kind: sessions, sessions_per_s: 0.5, turns_mean: 3, think_s: 10, think_cv: 1, message_tokens: {kind: fixed,
      tokens: 10}, output_tokens: {kind: bimodal, long_share: 0.2, short: {kind: lognormal, median: 10, sigma: 1},
      long: {kind: lognormal, median: 100, sigma: 1}}, max_prompt_tokens: 4000}
    batch: {kind: jobs, every_s: 30, at_s: [5, 10], requests_mean: 10, requests_cv: 0.5, over_s: 4,
      prompt_tokens: {kind: fixed, tokens: 10}, output_tokens: {kind: fixed, tokens: 0}}
- kind: mix
  parts:
    - {kind: trace, path: trace.csv, start_s: 0.5, end_s: 10, rate_factor: 0.5, scale: {kind: resample, factor: 3}}
    - {kind: trace, path: burst.csv, format: burstgpt, keep: 0.9, keep_failed: true, scale: {kind: superpose, factor: 2},
      assign: [{class: chat, where: {model: [GPT-4, 7]}, hours: [0, 12], share: 0.5}, {class: batch}]}
"""


def _mutated_document(rng: random.Random) -> bytes:
    """A workload in which some values are something else, dumped as YAML; or its text mutated."""
    document = copy.deepcopy(rng.choice(yaml.safe_load(WORKLOADS)))
    for _ in range(rng.choice((1, 1, 2, 3))):
        holders = [holder for holder in _holders(document) if holder]
        holder = rng.choice(holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        before = holder[key]
        if isinstance(before, int | float) and rng.random() < 0.7:
            factor = 10.0 ** rng.uniform(-4, 4)
            holder[key] = int(before * factor) if isinstance(before, int) else before * factor
            continue
        found = [value for other in holders[:20] for value in _values(other)]
        holder[key] = copy.deepcopy(rng.choice(_VALUES + found))
    text = yaml.safe_dump(document).encode()
    return mutated(text, (text,), rng) if rng.random() < 0.3 else text


_VALUES: list[Any] = [
    *(0, 1, -1, 2, 0.5, 1e-9, 1e9, 1e308, 5e-324, 10**25, 2**63, -(2**63), float("nan"), float("inf"), True, None),
    *("", "x", "chat", "nan", "1", [], {}, [1], {"kind": "fixed", "tokens": 1}, [[]], "a" * 300, 9_999_999, 100_000),
]


def _holders(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [node, *(found for child in node.values() for found in _holders(child))]
    if isinstance(node, list):
        return [node, *(found for child in node for found in _holders(child))]
    return []


def _values(node: Any) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else list(node)


_CLIENTS = parquet_bytes(
    client=[1, 2], window_start_s=[0, 0], rate_rps=[1.0, 2.0], family=["Gamma", None], p1=[0.5, None]
)
_LENGTHS = parquet_bytes(
    client=[1, 1], bucket_start_s=[0, 0], field=["input_tokens", "output_tokens"], q0=[1.0, 1.0], q100=[9.0, 5.0]
)
_TRACES = (*VALID.values(), *(pack(VALID["plain.csv"]) for pack in PACK.values()))
_PRICES = (
    b"\n".join(SHIPPED_PRICES.read_bytes().splitlines()[:40]),
    b"gpu,usd_hr_spot,stock,machine_gpus,preemptions_per_hr\nH100,1.5,8,8,0.1\nK80,0.1,,,\n",
    (
        b"InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Region,AvailabilityZone,Price,SpotPrice\n"
        b"a2-highgpu-1g,12.0,85.0,,,,us,us-a,0.74,0.37\n,T4,1.0,,,T4,us,us-a,0.35,0.1\n,A100,1.0,,,A100,us,us-a,2.9,1.2\n"
        b"n1-standard-4,,,4,15,,us,us-a,0.19,0.04\np5.48xlarge,H100,8.0,192,2048,,east,a,55.04,14.2\n"
    ),
)
_TUNED = json.dumps(
    {
        PLAN_TRACKING: {
            "knobs": spec_of(PLAN_TRACKING).defaults,
            "trials": 40,
            "seeds": 2,
            "suite": "train",
            "suite_hash": "0123456789abcdef",
            "reached": {"loss": 0.8, "bill_ratio": 0.7, "shortfall": 0.005},
            "reached_by_defaults": {"loss": 0.9, "bill_ratio": 0.9, "shortfall": 0.0},
            "versions": {"poolpilot": "0.1.0"},
        }
    }
).encode()
_SUITE = b"""\
schema: 1
name: mine
summary: "Mine: all of it."
scenarios:
  - path: tiny.yaml
  - {path: tiny.yaml, name: again, needs: data}
  - scenario: spot-storm
  - {random: {seed: 7, difficulty: 0.5}, name: mild}
"""
_TO_PLAN = b"""\
schema: 1
name: to-plan
summary: Anything on the market.
duration_s: 60
model: llama-3.1-8b
classes: {chat: {target: {ttft_s: 1}, quality_floor: 0.9}}
workload: {kind: generated, classes: {chat: {rate_per_s: 1, prompt_tokens: {kind: fixed, tokens: 9}, output_tokens: {
  kind: fixed, tokens: 9}}}}
planning:
  prices: [{gpu: H100, usd_per_hr: 20, gpus: 8, kind: spot, stock: 2, as_of: 2026-01-01}, {gpu: L4, usd_per_hr: 0.7}]
  stock: {H100: 16, L4: {east: 3, '': 2}}
  gpus: [H100, L4]
  max_spot_share: 0.5
  precisions: [bf16, int4]
  budget_usd_per_hr: 30
"""
_SCENARIOS = (
    _TO_PLAN,
    *(path.read_bytes() for path in shipped_scenarios(to_plan=True).values()),
    b"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + b"".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n".encode() for i in range(12)),
)

TARGETS: tuple[Target, ...] = (
    _by_bytes("traces", _TRACES, _trace),
    _by_bytes("servegen-chunks", (f"{SERVEGEN_TRACE}\n====\n{SERVEGEN_DATASET}".encode(),), _chunks),
    _by_bytes("servegen-tables", (len(_CLIENTS).to_bytes(4, "little") + _CLIENTS + _LENGTHS,), _tables),
    _by_bytes("scenarios", _SCENARIOS, _scenario),
    _by_bytes("prices", _PRICES, _prices),
    _by_bytes("tuned", (_TUNED,), _tuned),
    _by_bytes("suites", (_SUITE,), _suite),
    Target(
        "workloads", tuple(yaml.safe_dump(d).encode() for d in yaml.safe_load(WORKLOADS)), _workload, _mutated_document
    ),
)
