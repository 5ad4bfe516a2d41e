"""Real child processes: a small server that can be late, busy, stubborn, or unlucky with its port."""

import asyncio
import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from poolpilot.controller.actuators.child import ReplicaCommand
from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.controller.actuators.in_flight import requests_at
from poolpilot.controller.actuators.local_replica import LocalSettings
from poolpilot.controller.actuators.processes import LocalProcesses
from poolpilot.controller.actuators.replicas import CausedSeconds, RentedSeconds
from poolpilot.controller.actuators.roster import RosterError, read_roster, started_ticks

IMPORT_ROOT = Path(__file__).resolve().parents[3] / ".import"

SERVER = """
import os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, port, *words = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
say = dict(word.split("=") for word in words)
if "exit" in say:
    sys.exit("no GPU found")
taken = folder / "port-taken"
if taken.exists():
    taken.unlink()
    sys.exit("OSError: [Errno 98] Address already in use")
if "stubborn" in say:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: (print("asked to stop", flush=True), os._exit(0)))
ready_at = time.monotonic() + float(say.get("late_s", 0))

PAGE = '''vllm:num_requests_running{m="x"} %d
vllm:num_requests_waiting{m="x"} 0
vllm:kv_cache_usage_perc{m="x"} 0
vllm:prompt_tokens_total{m="x"} 0
vllm:generation_tokens_total{m="x"} 0
'''

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if "mute" in say and self.path == "/metrics":
            time.sleep(120)
        busy = folder / f"busy-{port}"
        requests = int(busy.read_text()) if busy.exists() else 0
        body = (PAGE % requests).encode() if self.path == "/metrics" else b""
        self.send_response(200 if time.monotonic() >= ready_at else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the server's script is; whatever still runs it afterwards is a leak, and is killed."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    yield tmp_path
    left = serving(script)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def serving(script: Path) -> list[int]:
    """Processes that run the script and are not only waiting to be reaped."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.fsencode(script) in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if started_ticks(pid) is not None]


def command(folder: Path, *words: str) -> ReplicaCommand:
    return ReplicaCommand((sys.executable, "-I", "-S", str(folder / "server.py"), str(folder), "{port}", *words))


@pytest.fixture
def local(folder: Path, session: aiohttp.ClientSession) -> Callable[..., LocalProcesses]:
    """Makes processes of pools `a` and `b`; impatient, so that tests are short."""
    settings = LocalSettings(
        log_dir=folder / "logs",
        poll_s=0.02,
        ready_within_s=60.0,
        grace_s=0.1,
        drain_within_s=60.0,
        shutdown_within_s=20.0,
        first_backoff_s=0.05,
        most_backoff_s=0.2,
    )

    def make(
        *words: str,
        clock: Callable[[], float] = time.monotonic,
        provision_s: Callable[[str], float] = lambda pool: 0.0,
        **changes: object,
    ) -> LocalProcesses:
        commands = {"a": command(folder, *words), "b": command(folder)}
        chosen = replace(settings, **changes)  # type: ignore[arg-type]
        return LocalProcesses(commands, chosen, clock, provision_s, functools.partial(requests_at, session))

    return make


async def until(holds: Callable[[], object], what: str = "it") -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def counts(processes: LocalProcesses, pool: str = "a") -> tuple[int, int, int]:
    state = processes.states()[pool]
    return state.starting, state.ready, state.draining


def busy(folder: Path, endpoint: Endpoint, requests: int) -> None:
    part = folder / "busy.part"
    part.write_text(str(requests))
    part.replace(folder / f"busy-{endpoint.port}")


async def test_replicas_start_serve_and_stop(
    folder: Path, local: Callable[..., LocalProcesses], session: aiohttp.ClientSession
) -> None:
    async with local() as processes:
        await processes.apply({"a": 2, "b": 1})
        assert counts(processes) == (2, 0, 0)
        await until(lambda: counts(processes) == (0, 2, 0) and counts(processes, "b") == (0, 1, 0))
        endpoints = processes.states()["a"].endpoints
        assert len(set(endpoints)) == 2
        for endpoint in endpoints:
            async with session.get(f"http://{endpoint.host}:{endpoint.port}/health") as response:
                assert response.status == 200
        assert len(serving(folder / "server.py")) == 3
    assert serving(folder / "server.py") == []
    assert {r.name: r for p in processes.states().values() for r in p.replicas} == {}
    assert (folder / "logs" / "a-1.log").read_text().strip() == "asked to stop"


async def test_applying_again_changes_nothing(local: Callable[..., LocalProcesses]) -> None:
    async with local() as processes:
        for _ in range(3):
            await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        before = processes.states()
        await processes.apply({"a": 1})
        await processes.apply({})
        assert processes.states()["a"].replicas == before["a"].replicas


async def test_a_replica_is_ready_only_when_it_says_so(local: Callable[..., LocalProcesses]) -> None:
    async with local("late_s=0.4") as processes:
        await processes.apply({"a": 1})
        await until(lambda: processes.states()["a"].replicas[0].endpoint)
        assert counts(processes) == (1, 0, 0)
        assert processes.states()["a"].endpoints == ()
        await until(lambda: counts(processes) == (0, 1, 0))
        assert processes.states()["a"].cold_start_s >= 0.4


async def test_it_leaves_routing_then_empties_then_stops(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    async with local() as processes:
        await processes.apply({"a": 2})
        await until(lambda: counts(processes) == (0, 2, 0))
        first, second = processes.states()["a"].endpoints
        busy(folder, first, 9)
        busy(folder, second, 3)
        await processes.apply({"a": 1})
        assert processes.states()["a"].endpoints == (first,), "the less busy one goes"
        processes.release([first, second])
        await asyncio.sleep(0.3)
        assert counts(processes) == (0, 1, 1), "routing may still send it requests"
        processes.release([first])
        await asyncio.sleep(0.3)
        assert counts(processes) == (0, 1, 1), "it still has requests"
        busy(folder, second, 0)
        await until(lambda: counts(processes) == (0, 1, 0))
        busy(folder, first, 0)


async def test_a_draining_replica_is_called_back_without_a_new_start(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    async with local() as processes:
        await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        (replica,) = processes.states()["a"].replicas
        assert replica.endpoint
        busy(folder, replica.endpoint, 1)
        await processes.apply({"a": 0})
        processes.release([])
        await processes.apply({"a": 1})
        assert processes.states()["a"].replicas == (replica,)
        busy(folder, replica.endpoint, 0)
        await asyncio.sleep(0.3)
        assert processes.states()["a"].replicas == (replica,), "its end was called off"


async def test_one_that_was_told_to_stop_is_not_called_back(local: Callable[..., LocalProcesses]) -> None:
    async with local("stubborn=1", shutdown_within_s=0.5) as processes:
        await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        await processes.apply({"a": 0})
        processes.release([])
        await until(lambda: processes.states()["a"].replicas[0].stage == "stopping")
        await processes.apply({"a": 1})
        assert counts(processes) == (1, 0, 1)
        await until(lambda: counts(processes) == (0, 1, 0))
        assert processes.states()["a"].replicas[0].name == "a-2"


async def test_a_replica_that_never_empties_is_stopped_in_the_end(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    async with local(drain_within_s=0.3) as processes:
        await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        busy(folder, processes.states()["a"].endpoints[0], 1)
        await processes.apply({"a": 0})
        processes.release([])
        await until(lambda: counts(processes) == (0, 0, 0))


async def test_at_the_end_one_that_does_not_say_what_it_has_is_not_waited_for(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    patience_s = 600.0
    async with local("mute=1", drain_within_s=patience_s) as processes:
        await processes.apply({"a": 2})
        await until(lambda: counts(processes) == (0, 2, 0))
        await processes.apply({"a": 1})
        processes.release(processes.states()["a"].endpoints)  # one has been emptying for a while, as far as it tells
        began_s = time.monotonic()
        await processes.stop_all()
    assert time.monotonic() - began_s < patience_s / 10
    # Told to stop in its own way, not killed: it may finish what it has.
    assert (folder / "logs" / "a-1.log").read_text().strip() == "asked to stop"


async def test_a_dead_replica_is_reported_and_replaced(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    async with local() as processes:
        await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        os.kill(serving(folder / "server.py")[0], signal.SIGKILL)
        await until(lambda: processes.states()["a"].failed == 1)
        assert processes.states()["a"].endpoints == ()
        assert "replica a-1: exited with status -9 while ready" in processes.states()["a"].last_failure
        await until(lambda: counts(processes) == (0, 1, 0))
        assert processes.states()["a"].replicas[0].name == "a-2"
        assert processes.states()["a"].last_failure == ""


async def test_a_replica_that_cannot_start_is_tried_again_with_backoff(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    async with local("exit=1") as processes:
        await processes.apply({"a": 1, "b": 1})
        await until(lambda: processes.states()["a"].failed == 3)
        state = processes.states()["a"]
        log = folder / "logs" / "a-3.log"
        assert state.last_failure == (f"replica a-3: exited with status 1 before it was ready; {log}: no GPU found")
        await until(lambda: counts(processes, "b") == (0, 1, 0))
        await until(lambda: processes.states()["a"].starting == 1)


async def test_a_replica_that_is_not_ready_in_time_is_replaced(local: Callable[..., LocalProcesses]) -> None:
    async with local("late_s=1000", ready_within_s=0.3) as processes:
        await processes.apply({"a": 1})
        await until(lambda: processes.states()["a"].failed >= 2)
        assert "not ready within 0.3 s" in processes.states()["a"].last_failure


async def test_a_program_that_is_not_there_is_reported(
    folder: Path, session: aiohttp.ClientSession, local: Callable[..., LocalProcesses]
) -> None:
    settings = LocalSettings(folder / "logs", roster=folder / "roster.json", first_backoff_s=0.01)
    commands = {"a": ReplicaCommand((str(folder / "nothing"), "{port}"))}
    probe = functools.partial(requests_at, session)
    async with LocalProcesses(commands, settings, time.monotonic, lambda pool: 0.0, probe) as processes:
        await processes.apply({"a": 1})
        await until(lambda: processes.states()["a"].failed >= 1)
        assert "FileNotFoundError" in processes.states()["a"].last_failure


async def test_a_taken_port_is_no_failure(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    (folder / "port-taken").touch()
    async with local() as processes:
        await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        assert processes.states()["a"].failed == 0
        assert processes.states()["a"].replicas[0].name == "a-1"
        assert "Address already in use" in (folder / "logs" / "a-1.log").read_text()


async def test_a_start_that_is_not_wanted_any_more_is_given_up(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    delays_s = iter([1000.0, 0.0])
    async with local("late_s=1000", provision_s=lambda pool: next(delays_s)) as processes:
        await processes.apply({"a": 2})
        await until(lambda: serving(folder / "server.py"))
        await processes.apply({"a": 0})
        await until(lambda: counts(processes) == (0, 0, 0))
        assert processes.states()["a"].failed == 0


async def test_the_machine_comes_first_and_scenario_time_is_faster(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    began_s = time.monotonic()
    delays_s = itertools.repeat(60.0)
    async with local(
        speed_up=100.0, provision_s=lambda pool: next(delays_s), clock=lambda: (time.monotonic() - began_s) * 100.0
    ) as processes:
        await processes.apply({"a": 1})
        await asyncio.sleep(0.1)
        assert serving(folder / "server.py") == []
        assert processes.states()["a"].replicas[0].stage == "provisioning"
        await until(lambda: counts(processes) == (0, 1, 0))
        assert processes.states()["a"].cold_start_s >= 60.0
        assert processes.usage()["a"].starting_s == pytest.approx(processes.states()["a"].cold_start_s, rel=0.01)
        assert processes.usage()["b"] == RentedSeconds()


async def test_a_process_may_be_started_ahead_of_its_time_and_does_not_count_before(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    began_s = time.monotonic()
    async with local(
        speed_up=100.0,
        ahead_s=1000.0,
        provision_s=lambda pool: 300.0,
        clock=lambda: (time.monotonic() - began_s) * 100.0,
    ) as processes:
        await processes.apply({"a": 1})
        await until(lambda: serving(folder / "server.py"))
        assert processes.states()["a"].replicas[0].stage == "loading"
        await until(lambda: counts(processes) == (0, 1, 0))
        assert processes.states()["a"].cold_start_s >= 300.0


async def test_rent_goes_by_the_clock_that_was_handed_in(local: Callable[..., LocalProcesses]) -> None:
    now_s = [0.0]
    async with local(clock=lambda: now_s[0]) as processes:
        await processes.apply({"a": 2}, tick=4)
        now_s[0] = 7.0
        await until(lambda: counts(processes) == (0, 2, 0))
        now_s[0] = 10.0
        await processes.apply({"a": 1}, tick=9)
        now_s[0] = 15.0
        assert processes.usage()["a"] == RentedSeconds(starting_s=14.0, ready_s=11.0, draining_s=5.0)
        assert processes.caused() == (
            CausedSeconds("a", "starting_s", 4, 14.0),
            CausedSeconds("a", "draining_s", 9, 5.0),
        )


async def test_stopping_everything_kills_the_stubborn(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    processes = local("stubborn=1", shutdown_within_s=0.3)
    await processes.apply({"a": 2})
    await until(lambda: counts(processes) == (0, 2, 0))
    await processes.stop_all()
    assert serving(folder / "server.py") == []
    with pytest.raises(RuntimeError, match="were stopped"):
        await processes.apply({"a": 1})
    await processes.stop_all()


async def test_cancelling_the_stop_leaves_nothing_behind(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    processes = local("stubborn=1", shutdown_within_s=1000.0)
    await processes.apply({"a": 2, "b": 1})
    await until(lambda: counts(processes) == (0, 2, 0) and counts(processes, "b") == (0, 1, 0))
    busy(folder, processes.states()["b"].endpoints[0], 5)
    stopping = asyncio.create_task(processes.stop_all())
    await until(lambda: "stopping" in [r.stage for r in processes.states()["a"].replicas])
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert serving(folder / "server.py") == []
    assert processes.states()["a"].replicas == ()
    assert processes.states()["a"].failed == 0


async def test_a_cancelled_user_leaves_nothing_behind(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    started = asyncio.Event()

    async def use() -> None:
        async with local() as processes:
            await processes.apply({"a": 1})
            await until(lambda: counts(processes) == (0, 1, 0))
            started.set()
            await asyncio.sleep(1000)

    user = asyncio.create_task(use())
    await started.wait()
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert serving(folder / "server.py") == []


@pytest.mark.parametrize(
    ("targets", "message"),
    [({"c": 1}, "c: 1 replicas; wanted a count of a pool of a, b"), ({"a": -1}, "a: -1"), ({"a": 1.5}, "a: 1.5")],
)
async def test_a_count_that_cannot_be_is_refused(
    local: Callable[..., LocalProcesses], targets: dict[str, int], message: str
) -> None:
    async with local() as processes:
        with pytest.raises(ValueError, match=message):
            await processes.apply(targets)


async def test_what_is_left_running_is_found_again(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    roster = folder / "roster.json"
    before = local(roster=roster)
    await before.apply({"a": 2, "b": 1})
    await until(lambda: counts(before) == (0, 2, 0) and counts(before, "b") == (0, 1, 0))
    endpoints = before.states()["a"].endpoints
    await before.detach()
    async with local(roster=roster) as after:
        assert await after.adopt() == 3
        await until(lambda: counts(after) == (0, 2, 0))
        assert after.states()["a"].endpoints == endpoints
        await after.apply({"a": 3})
        await until(lambda: counts(after) == (0, 3, 0))
        assert [r.name for r in after.states()["a"].replicas] == ["a-1", "a-2", "a-3"]
        os.kill(read_roster(roster)[0].pid, signal.SIGKILL)
        await until(lambda: after.states()["a"].failed == 1)
        assert "a-1: exited with status None while ready" in after.states()["a"].last_failure
        await until(lambda: counts(after) == (0, 3, 0))
    assert serving(folder / "server.py") == []
    assert read_roster(roster) == ()


async def test_one_that_was_told_to_stop_is_seen_to_its_end_by_the_next(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    roster = folder / "roster.json"
    before = local("stubborn=1", roster=roster)
    await before.apply({"a": 1})
    await until(lambda: counts(before) == (0, 1, 0))
    await before.apply({"a": 0})
    before.release([])
    await until(lambda: before.states()["a"].replicas[0].stage == "stopping")
    await before.detach()
    async with local(roster=roster, shutdown_within_s=0.3) as after:
        assert await after.adopt() == 1
        assert counts(after) == (0, 0, 1), "it answers its health check and refuses requests"
        await until(lambda: counts(after) == (0, 0, 0))


async def test_a_roster_of_another_scenario_is_refused(folder: Path, local: Callable[..., LocalProcesses]) -> None:
    roster = folder / "roster.json"
    async with local(roster=roster) as processes:
        await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        text = roster.read_text()
        other = folder / "other.json"
        other.write_text(text.replace('"pool": "a"', '"pool": "z"'))
        async with local(roster=other) as stranger:
            with pytest.raises(RosterError, match="runs for pool 'z', which is none of a, b"):
                await stranger.adopt()
        assert counts(processes) == (0, 1, 0)


async def test_nothing_can_be_left_without_a_roster(local: Callable[..., LocalProcesses]) -> None:
    async with local() as processes:
        with pytest.raises(RuntimeError, match="no roster"):
            await processes.detach()


SIDECAR = """
import asyncio, sys, time
from pathlib import Path
from poolpilot.controller.actuators.child import ReplicaCommand
from poolpilot.controller.actuators.local_replica import LocalSettings
from poolpilot.controller.actuators.processes import LocalProcesses

async def main(folder, roster):
    async def unknown(endpoint):
        return None
    command = ReplicaCommand((sys.executable, "-I", "-S", str(folder / "server.py"), str(folder), "{port}"))
    settings = LocalSettings(folder / "logs", roster=folder / "roster.json" if roster else None, poll_s=0.02)
    processes = LocalProcesses({"a": command}, settings, time.monotonic, lambda pool: 0.0, unknown)
    await processes.apply({"a": 2})
    while processes.states()["a"].ready < 2:
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "roster"))
"""


def killed_sidecar(folder: Path, roster: str) -> None:
    """Run a sidecar until it has two replicas, then `kill -9` it."""
    environment = {**os.environ, "PYTHONPATH": str(IMPORT_ROOT)}
    argv = [sys.executable, "-c", SIDECAR, str(folder), roster]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE) as sidecar:
        assert sidecar.stdout
        assert sidecar.stdout.readline() == b"ready\n"
        sidecar.kill()


async def test_replicas_outlive_a_killed_sidecar_and_the_next_one_takes_over(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    await asyncio.to_thread(killed_sidecar, folder, "roster")
    assert len(serving(folder / "server.py")) == 2
    async with local(roster=folder / "roster.json") as processes:
        assert await processes.adopt() == 2
        await until(lambda: counts(processes) == (0, 2, 0))


async def test_without_a_roster_they_die_with_it(folder: Path) -> None:
    await asyncio.to_thread(killed_sidecar, folder, "none")
    await until(lambda: not serving(folder / "server.py"))


async def test_one_that_hangs_is_killed_and_replaced_and_one_that_pauses_is_not(
    folder: Path, local: Callable[..., LocalProcesses]
) -> None:
    async with local(watch_every_s=0.05, hung_after_s=4.0) as processes:
        await processes.apply({"a": 1})
        await until(lambda: counts(processes) == (0, 1, 0))
        (pid,) = serving(folder / "server.py")
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.3)
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.3)
        assert serving(folder / "server.py") == [pid], "a pause is no reason"
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: processes.states()["a"].failed == 1)
        assert "hangs" in processes.states()["a"].last_failure
        await until(lambda: counts(processes) == (0, 1, 0))
        assert serving(folder / "server.py") not in ([], [pid])
