"""The same small scenario twice: through real Envoy with emulated replicas, and through the simulator.

Routing is fixed, so that nothing but the proxy and the engines decides. Both sides are told the same weights, admitted
shares and limits, and meet the same requests at the same times; they draw their own coin tosses.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from poolpilot.commands.demonstration.stack import addressees
from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.controller.actuators.envoy_process import EnvoyFolder, embedded
from poolpilot.controller.routing import routing_table
from poolpilot.env.contract import Action, FloatArray
from poolpilot.env.emulator.replay import ClientRecord, Replay, replay
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import world_from_scenario
from poolpilot.env.window import E2E_SUM_S, FINISHED, LOST, N_BUCKETS, SHED, TPOT, TTFT, percentile_s
from poolpilot.env.workload.load import load_workload
from poolpilot.env.workload.requests import Workload
from poolpilot.telemetry.envoy_log import LogRecord, LogTail, RequestRecord, StartRecord
from poolpilot.telemetry.tally import tally

SCENARIO = """\
schema: 1
name: twin
summary: Two unlike pools under fixed routing, one class that streams and one that may wait.
duration_s: {duration_s}
tick_s: 1
model: llama-2-13b
pools:
  near:
    gpu: L40S-48GB
    precision: bf16
    price: {{usd_per_hr: 1.9}}
    replicas: {{min: 0, max: 2, start: 2}}
    engine: {{max_num_seqs: 6, max_model_len: 4096, gpu_memory_utilization: 0.95}}
  far:
    gpu: A40-48GB
    precision: bf16
    price: {{usd_per_hr: 0.9}}
    replicas: {{min: 0, max: 2, start: 2}}
    engine: {{max_num_seqs: 6, max_model_len: 4096, gpu_memory_utilization: 0.95}}
classes:
  chat:
    target: {{ttft_s: 2.0, tpot_s: 0.1, attainment: 0.9}}
  batch:
    target: {{deadline_s: 300, attainment: 0.9}}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: {chat_per_s}
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 60, sigma: 0.3, max: 200}}
    batch:
      rate_per_s: 1.0
      prompt_tokens: {{kind: lognormal, median: 300, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 50, sigma: 0.3, max: 200}}
routing: {{slow_start_s: 0}}  # the simulator's replicas take their full share at once
world: {{performance_error_frac: 0, retry_after_s: 4, give_up_after_s: 600}}
"""
ROUTE = np.array([[0.65, 0.35], [0.2, 0.8]])
ADMIT = np.array([1.0, 0.7])
_QUEUED = re.compile(r"^vllm:request_queue_time_seconds_sum\S* (\S+)$", re.MULTILINE)
_MEAN_S = "{}: mean time in all, s"
_ADDRESS = re.compile(r"http://([\d.]+):(\d+)")


@dataclass(frozen=True)
class Kill:
    """One replica of a pool dies at a time, and none is started for it."""

    pool: str
    at_s: float


@dataclass(frozen=True)
class Measures:
    """What one run came to, by name; NaN where there is nothing to measure."""

    values: Mapping[str, float]
    records: Sequence[ClientRecord] = ()


def a_scenario(folder: Path, duration_s: float, chat_per_s: float) -> tuple[Scenario, Path]:
    """The scenario, and its file."""
    path = folder / "twin.yaml"
    path.write_text(SCENARIO.format(duration_s=duration_s, chat_per_s=chat_per_s))
    return load_scenario(str(path)), path


def its_workload(scenario: Scenario) -> Workload:
    """The requests that both sides meet."""
    return load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)


def an_action(scenario: Scenario) -> Action:
    """Fixed routing and admission, everything else as the scenario starts."""
    cluster = scenario.cluster()
    start = np.array([float(pool.replicas.start) for pool in scenario.pools.values()])
    return Action(ROUTE, ADMIT, cluster.max_batch_cap, cluster.max_token_budget, start)


def simulated(scenario: Scenario, workload: Workload, seeds: int, kills: Sequence[Kill] = ()) -> list[Measures]:
    """The same in as many simulated worlds, which differ in their coin tosses only."""
    faults = [{"kind": "crash", "pool": kill.pool, "at_s": kill.at_s} for kill in kills]
    struck = Scenario.model_validate({**scenario.model_dump(by_alias=True), "faults": faults})
    specs = [world_from_scenario(struck, seed, workload) for seed in range(seeds)]
    specs = [replace(spec, duration_s=10_000.0) for spec in specs]
    clusters = SimulatedClusters(specs, scenario.tick_s)
    action = an_action(scenario)
    names = scenario.pool_names
    tallies, waiting, work = [], [], np.zeros((seeds, len(names), len(scenario.class_names)))
    while True:
        now_s = float(clusters.now_s[0])
        alive = action.replicas - [sum(k.pool == name and k.at_s < now_s for k in kills) for name in names]
        batched = Action(
            *(np.broadcast_to(v, (seeds, *v.shape)) for v in (action.route, action.admit, action.batch_cap)),
            np.broadcast_to(action.token_budget, (seeds, len(names))),
            np.broadcast_to(alive, (seeds, len(names))),
        )
        outcome = clusters.advance(batched)
        snapshot = clusters.snapshot()
        tallies.append(outcome.tally)
        waiting.append(np.nan_to_num(snapshot.waiting))
        work += outcome.meter.class_work
        if now_s > scenario.duration_s and not snapshot.in_flight.any() and not clusters.backing_off.any():
            break
    total, queue_s = np.sum(tallies, axis=0), np.sum(waiting, axis=0) * scenario.tick_s
    return [_measures(scenario, total[b], work[b], queue_s[b]) for b in range(seeds)]


async def through_envoy(
    scenario: Scenario,
    file: Path,
    workload: Workload,
    folder: Path,
    speed_up: float,
    kills: Sequence[Kill] = (),
) -> Measures:
    """The same through an Envoy, with a process for each replica."""
    proxy = EnvoyFolder(folder / "envoy")
    proxy.xds.mkdir(parents=True)
    async with _replicas(scenario, file, speed_up) as replicas:
        ready = {name: tuple(one.endpoint for one in members) for name, members in replicas.items()}
        envoy.write(proxy.xds, routing_table(scenario, an_action(scenario), ready))
        async with embedded(proxy) as running:
            started = time.perf_counter()
            killers = [asyncio.create_task(_kill_at(replicas[k.pool], started + k.at_s / speed_up)) for k in kills]
            records = await replay(workload, addressees(scenario), running.url, speed_up, Replay())
            await asyncio.gather(*killers)
            queue_s = await _queued_s(replicas)
            await asyncio.sleep(0.5)  # Envoy's log is flushed every 100 ms
        tail = LogTail(proxy.access_log)
        logged = tail.read()
        tail.close()
    counted = tally(logged, {}, scenario.cluster(), time.time(), speed_up)
    measures = _measures(
        scenario,
        counted.counts,
        counted.work_tokens,
        np.array([queue_s[name] for name in scenario.pool_names]),
    )
    seen = _choices(logged)
    # A client that was told to come back waited since its first try, of which the log of the last one knows nothing.
    for c, name in enumerate(scenario.class_names):
        whole = [r.end_s - r.sent_s for r in records if r.class_index == c and r.end_s is not None]
        seen[_MEAN_S.format(name)] = float(np.mean(whole))
    return Measures({**measures.values, **seen}, records)


def _choices(logged: Sequence[LogRecord]) -> dict[str, float]:
    """How often a pool's two replicas held unlike numbers of requests when one was chosen, and how often the less."""
    ends = {r.stream_id: r.started_at_s + r.total_s for r in logged if isinstance(r, RequestRecord)}
    starts = [r for r in logged if isinstance(r, StartRecord)]
    hosts = {(r.pool, r.host) for r in starts}
    unlike, less = 0, 0
    for start in starts:
        held = Counter({host: 0 for pool, host in hosts if pool == start.pool})
        for other in starts:
            if other.started_at_s < start.started_at_s < ends[other.stream_id] and other.host in held:
                held[other.host] += 1
        if len(held) == 2 and len(set(held.values())) == 2:
            unlike += 1
            less += held[start.host] == min(held.values())
    return {"unlike choices": float(unlike), "less loaded": float(less)}


def _measures(scenario: Scenario, counts: FloatArray, work: FloatArray, queue_s: FloatArray) -> Measures:
    """Figures of a whole run.

    Args:
        counts: `[C, W]` as `env.window` lays them out.
        work: `[P, C]` tokens.
        queue_s: `[P]` seconds that requests waited in engines, summed over requests.
    """
    values: dict[str, float] = {}
    for c, name in enumerate(scenario.class_names):
        row = counts[c]
        values[f"{name}: finished"] = float(row[FINISHED])
        values[f"{name}: lost"] = float(row[LOST])
        values[f"{name}: told to come back"] = float(row[SHED])
        values[_MEAN_S.format(name)] = float(row[E2E_SUM_S] / max(row[FINISHED], 1.0))
        for p, pool in enumerate(scenario.pool_names):
            values[f"{name}: share of {pool}"] = float(work[p, c] / max(work[:, c].sum(), 1.0))
    for label, first in (("TTFT", TTFT), ("TPOT", TPOT)):
        for share in (0.5, 0.95):
            at = percentile_s(counts[0, first : first + N_BUCKETS], share)
            values[f"{scenario.class_names[0]}: {label} p{share * 100:.0f}, s"] = float(at)
    for p, pool in enumerate(scenario.pool_names):
        values[f"{pool}: waiting, mean"] = float(queue_s[p] / scenario.duration_s)
    return Measures(values)


@dataclass(frozen=True)
class _Replica:
    process: asyncio.subprocess.Process
    endpoint: Endpoint

    @property
    def url(self) -> str:
        return f"http://{self.endpoint.host}:{self.endpoint.port}"


@asynccontextmanager
async def _replicas(scenario: Scenario, file: Path, speed_up: float) -> AsyncIterator[dict[str, list[_Replica]]]:
    """As many processes as the scenario starts with, by pool."""
    started: list[asyncio.subprocess.Process] = []
    try:
        for name, pool in scenario.pools.items():
            for _ in range(pool.replicas.start):
                command = [sys.executable, "-m", "poolpilot", "emulate", "--scenario", str(file), "--pool", name]
                command += ["--port", "0", "--speed-up", f"{speed_up:g}", "--stream-interval", "8"]
                command += ["--load-seconds", "0", "--die-with-parent"]
                started.append(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))
        found: dict[str, list[_Replica]] = {name: [] for name in scenario.pools}
        owners = [name for name, pool in scenario.pools.items() for _ in range(pool.replicas.start)]
        for name, process in zip(owners, started, strict=True):
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 120.0)).decode()
            at = _ADDRESS.search(line)
            assert at, line
            found[name].append(_Replica(process, Endpoint(at[1], int(at[2]))))
        yield found
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _kill_at(members: Sequence[_Replica], when: float) -> None:
    await asyncio.sleep(max(when - time.perf_counter(), 0.0))
    victim = next(one for one in members if one.process.returncode is None)
    victim.process.kill()
    await victim.process.wait()


async def _queued_s(replicas: Mapping[str, Sequence[_Replica]]) -> dict[str, float]:
    """Seconds that requests spent in queues, by pool, from the metrics pages of the replicas alive."""
    sums = dict.fromkeys(replicas, 0.0)
    async with aiohttp.ClientSession() as session:
        for name, members in replicas.items():
            for one in members:
                if one.process.returncode is None:
                    async with session.get(one.url + "/metrics") as got:
                        page = await got.text()
                    found = _QUEUED.search(page)
                    assert found, page[:500]
                    sums[name] += float(found[1])
    return sums


def side_by_side(live: Measures, worlds: Sequence[Measures]) -> list[dict[str, Any]]:
    """A row a figure: Envoy's, and the simulator's mean, least and most."""
    rows = []
    for name, value in live.values.items():
        if name in worlds[0].values:
            theirs = np.array([world.values[name] for world in worlds])
            rows.append(
                {"figure": name, "envoy": value, "mean": theirs.mean(), "low": theirs.min(), "high": theirs.max()}
            )
    return rows


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people; also what the documentation shows."""
    lines = ["| figure | Envoy | simulator, mean | least | most |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['figure']} | {row['envoy']:.4g} | {row['mean']:.4g} | {row['low']:.4g} | {row['high']:.4g} |"
        )
    return "\n".join(lines)
