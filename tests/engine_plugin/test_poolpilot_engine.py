"""The engine plugin, as far as it goes without vLLM; `tests/vllm/test_engine_plugin.py` runs it in vLLM itself."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.controller.actuators.caps import CapFiles
from poolpilot.engine_plugin import poolpilot_engine as plugin
from poolpilot.engine_plugin.poolpilot_engine import (
    CapMetrics,
    CappedScheduler,
    Caps,
    Engine,
    Source,
    UnknownEngine,
    capped,
    known_version,
    limits,
)
from poolpilot.telemetry.engine_page import parse_engine_page

FILE = Path(plugin.__file__)
ADMITS_APART, OLDER = (0, 32), (0, 25)
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _own_status_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.STATUS_VARIABLE, str(tmp_path / "status"))


def a_document(token: int = 1, cap: int = 16, budget: int = 512) -> str:
    return json.dumps({"fencing_token": token, "batch_cap": cap, "token_budget": budget})


def until(true: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s, "never came true"
        time.sleep(0.01)


class MiniatureScheduler:
    """What of vLLM's scheduler its limits touch, with the same assertions: they end the engine when they fail."""

    def __init__(self, *, version: tuple[int, int], cap: int = 32, budget: int = 1024, **config: Any) -> None:
        self.scheduler_config = SimpleNamespace(**{"enable_chunked_prefill": True, "async_scheduling": False, **config})
        self._apart = version >= plugin.ADMISSION_SINCE
        self.max_num_running_reqs = cap
        if self._apart:
            self.max_num_active_reqs = cap
        self.max_num_scheduled_tokens = budget
        self.num_spec_tokens = config.get("spec", 0)
        self.running: list[int] = []
        self.waiting = 0

    def schedule(self) -> int:
        """Tokens scheduled: one and what is speculated for each that runs."""
        budget = self.max_num_scheduled_tokens
        admit = self.max_num_active_reqs if self._apart else self.max_num_running_reqs
        while self.waiting and len(self.running) < admit and len(self.running) < budget:
            self.running.append(0)
            self.waiting -= 1
        assert len(self.running) <= self.max_num_running_reqs
        assert budget <= 1024
        return min(budget, len(self.running) * (1 + self.num_spec_tokens))

    def shutdown(self) -> None:
        """Nothing to end."""


def a_scheduler(where: Path | str, version: tuple[int, int], **settings: Any) -> Any:
    return capped(MiniatureScheduler, version, Source(str(where)))(version=version, **settings)


# What a source may hold


def test_what_the_sidecar_writes_is_what_an_engine_takes(tmp_path: Path) -> None:
    files = CapFiles(tmp_path)
    source = Source(str(files.path("l40s")))
    source.poll()
    assert (source.caps, source.errors, source.read_at_s) == (None, 0, None)
    files.apply("l40s", 8, 512, fencing_token=3)
    source.poll()
    assert source.caps == Caps(3, 8, 512)


# What is made of it


@given(
    caps=st.builds(Caps, st.integers(0, 9), st.integers(1, 10**9), st.integers(1, 10**9)),
    start_cap=st.integers(1, 512),
    start_budget=st.integers(512, 65536),
    held=st.integers(0, 600),
    tokens_each=st.integers(1, 8),
    splits=st.booleans(),
    apart=st.booleans(),
)
def test_limits_never_exceed_the_start_nor_kill_the_engine(
    caps: Caps, start_cap: int, start_budget: int, held: int, tokens_each: int, splits: bool, apart: bool
) -> None:
    held = min(held, start_cap)
    cap, budget = limits(caps, Engine(start_cap, start_budget, held, tokens_each, splits, apart))
    assert 1 <= cap <= start_cap
    assert 1 <= budget <= start_budget
    assert cap == min(caps.batch_cap, start_cap) or (cap == held and not apart)
    assert apart or cap >= held, "an engine of before 0.31 dies"
    assert budget >= min(max(held, cap) * tokens_each, start_budget), "the tail would starve, nothing be admitted"
    assert splits or budget == start_budget, "a long prompt would wait for ever"


@pytest.mark.parametrize("version", [ADMITS_APART, OLDER], ids=str)
@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 2000), st.integers(0, 40), st.integers(0, 8)), max_size=12
    )
)
def test_an_engine_lives_through_any_caps(
    version: tuple[int, int], steps: list[tuple[int, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    scheduler = a_scheduler(tmp_path_factory.mktemp("caps") / "none.json", version)
    source = scheduler._watch._source
    scheduler._watch.stop()
    for cap, budget, come, go in steps:
        source.caps = Caps(0, cap, budget)
        scheduler.waiting += come
        before = len(scheduler.running)
        scheduler.schedule()
        assert len(scheduler.running) <= max(before, min(cap, 32)), "admitted above the cap"
        assert scheduler.max_num_running_reqs <= 32
        del scheduler.running[: min(go, len(scheduler.running))]


def test_a_lower_cap_lets_what_runs_finish_and_a_higher_one_admits_again(tmp_path: Path) -> None:
    files = CapFiles(tmp_path)
    scheduler = a_scheduler(files.path("a"), ADMITS_APART)
    scheduler.waiting = 100
    scheduler.schedule()
    assert len(scheduler.running) == 32
    for cap, left in ((4, 30), (4, 4), (16, 16)):
        files.apply("a", cap, 1024)
        until(lambda cap=cap: scheduler._limits()[0] == cap)
        del scheduler.running[min(left, len(scheduler.running)) :]
        scheduler.schedule()
        assert len(scheduler.running) == max(left, cap)
    scheduler.shutdown()


@pytest.mark.parametrize(
    "config",
    [{"enable_chunked_prefill": False}, {"disable_chunked_mm_input": True}],
    ids=["no chunked prefill", "images in one piece"],
)
def test_a_budget_is_left_alone_where_prompts_are_not_split(tmp_path: Path, config: dict[str, bool]) -> None:
    (tmp_path / "a.json").write_text(a_document(cap=8, budget=64))
    scheduler = a_scheduler(tmp_path / "a.json", ADMITS_APART, **config)
    scheduler.schedule()
    assert (scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens) == (8, 1024)
    scheduler.shutdown()


# When the source fails


@pytest.mark.parametrize(
    "bad", ["", "{", a_document(token=6, cap=4), a_document(token=9, cap=0), " " * 5000], ids=str.strip
)
def test_bad_content_keeps_the_last_good_one_and_is_counted_once(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "caps.json"
    path.write_text(a_document(7, 16))
    source = Source(str(path))
    source.poll()
    good_at_s = source.read_at_s
    path.write_text(bad)
    source.poll()
    source.poll()
    assert (source.caps, source.errors) == (Caps(7, 16, 512), 1)
    assert source.read_at_s == good_at_s, "bad content must not pass for news"
    path.write_text(a_document(8, 9, 600))
    source.poll()
    assert source.caps == Caps(8, 9, 600)


def test_a_file_taken_away_keeps_its_caps_and_ages(tmp_path: Path) -> None:
    path = tmp_path / "caps.json"
    path.write_text(a_document())
    source = Source(str(path))
    source.poll()
    seen_at_s = source.read_at_s
    path.unlink()
    source.poll()
    assert (source.caps, source.errors, source.read_at_s) == (Caps(1, 16, 512), 0, seen_at_s)


def test_a_pipe_or_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        source = Source(str(path))
        source.poll()
        assert (source.caps, source.errors) == (None, 1)


@contextmanager
def answering(
    status: int, body: bytes, headers: dict[str, str] | None = None
) -> Iterator[tuple[str, list[str | None]]]:
    """A server that answers everything so; its address, and the Authorization headers that it got."""
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/caps/a", asked
    finally:
        server.shutdown()
        server.server_close()


def test_caps_come_from_an_address_with_its_token_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(200, a_document().encode()) as (url, asked):
        source = Source(url, "secret")
        source.poll()
        assert (source.caps, asked) == (Caps(1, 16, 512), ["Bearer secret"])
    source.poll()
    assert (source.caps, source.errors) == (Caps(1, 16, 512), 1), "the controller is gone: what it said last holds"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [(503, b"", {}), (200, b"<html>", {}), (200, b"x" * 100_000, {}), (302, b"", {"Location": "http://127.0.0.1:9/"})],
    ids=["error", "html", "long", "redirect"],
)
def test_an_address_that_answers_anything_else_is_counted(status: int, body: bytes, headers: dict[str, str]) -> None:
    with answering(status, body, headers) as (url, _):
        source = Source(url)
        source.poll()
        assert (source.caps, source.errors) == (None, 1)


# Which engines it knows


@pytest.mark.parametrize("version", ["0.24.0", "0.25.1", "0.31.0rc2", "0.32.0", "0.32.1.dev4+g1234.cpu", "0.32"])
def test_known_versions(version: str) -> None:
    assert plugin.OLDEST <= known_version(version) <= plugin.NEWEST


@pytest.mark.parametrize("version", ["0.23.0", "0.33.0", "1.0.0", "0.240.0", "dev", "", "0.3"])
def test_unknown_versions_are_refused_with_a_way_out(version: str) -> None:
    with pytest.raises(UnknownEngine, match=r"known are 0\.24 to 0\.32.*without --scheduler-cls"):
        known_version(version)


def test_a_scheduler_that_lacks_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownEngine, match=r"MiniatureScheduler\.max_num_active_reqs: None, wanted int"):
        capped(MiniatureScheduler, ADMITS_APART, Source(str(tmp_path / "a")))(version=OLDER)


def test_without_a_source_the_engine_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugin.SOURCE_VARIABLE, raising=False)
    with pytest.raises(UnknownEngine, match="POOLPILOT_CAPS is not set"):
        CappedScheduler(vllm_config=None)


def test_a_base_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json.dumps", "json", "json.Nothing"):
        monkeypatch.setenv(plugin.BASE_VARIABLE, name)
        with pytest.raises(UnknownEngine, match=rf"{plugin.BASE_VARIABLE}={name}"):
            plugin.base_class(False)


def test_one_file_on_the_standard_library_alone(tmp_path: Path) -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    named = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    named |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert named <= sys.stdlib_module_names
    copy = tmp_path / FILE.name
    copy.write_bytes(FILE.read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", copy], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no vLLM in" in done.stderr


# What it tells

PAGE = (
    b"vllm:num_requests_running 3.0\nvllm:num_requests_waiting 0.0\nvllm:kv_cache_usage_perc 0.1\n"
    b"vllm:prompt_tokens_total 1.0\nvllm:generation_tokens_total 1.0\n"
)


async def ask(path: str, status: int = 200, method: str = "GET", **scope: Any) -> tuple[dict[str, Any], bytes, Any]:
    """A request through the middleware: head and body of the answer, and the headers that the app behind it got."""
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        head = {"type": "http.response.start", "status": status, "headers": [(b"Content-Length", b"%d" % len(PAGE))]}
        await send(head)
        await send({"type": "http.response.body", "body": PAGE[:7], "more_body": True})
        await send({"type": "http.response.body", "body": PAGE[7:]})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asked = {"type": "http", "method": method, "path": path, "root_path": "", **scope}
    asked["headers"] = [(b"accept-encoding", b"gzip"), (b"accept", b"application/openmetrics-text"), (b"x", b"y")]
    await CapMetrics(app)(asked, None, send)  # type: ignore[arg-type]
    return sent[0], b"".join(m.get("body", b"") for m in sent[1:]), seen["headers"]


async def test_the_metrics_page_tells_what_is_in_force(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(a_document(5, 8, 256))
    scheduler = a_scheduler(tmp_path / "a.json", ADMITS_APART)
    # The engine is a process that the API server started; here both are this one.
    status = plugin.statuses(os.getpid(), os.getppid())
    assert [(s.batch_cap, s.token_budget, s.fencing_token, s.errors) for s in status] == [(8, 256, 5, 0)]
    head, body, headers = await ask("/metrics")
    assert headers == [(b"x", b"y")]
    assert dict(head["headers"])[b"content-length"] == str(len(body)).encode()
    page = parse_engine_page(body.decode(), "test")
    assert (page.batch_cap, page.token_budget, page.running) == (8, 256, 3)
    assert b'poolpilot_caps_errors_total{engine="0"} 0.0\n' in body
    assert b'poolpilot_caps_age_seconds{engine="0"} ' in body
    scheduler.shutdown()
    assert await ask("/metrics") == ({**head, "headers": [(b"content-length", b"%d" % len(PAGE))]}, PAGE, headers)


@pytest.mark.parametrize(
    ("path", "more"),
    [("/v1/completions", {}), ("/metrics", {"method": "POST"}), ("/metrics", {"status": 500}), ("/xmetrics", {})],
)
async def test_other_answers_pass_untouched(tmp_path: Path, path: str, more: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(a_document())
    scheduler = a_scheduler(tmp_path / "a.json", ADMITS_APART)
    assert (await ask(path, **more))[1] == PAGE
    scheduler.shutdown()


def test_engines_of_other_servers_and_dead_ones_are_not_told(tmp_path: Path) -> None:
    def told(pid: int, parent: int, engine: int) -> None:
        status = plugin.Status(engine, pid, parent, 1, 1, 0, None, 0, 0.0)
        (plugin.status_folder() / f"{parent}-{pid}-{engine}.json").write_text(json.dumps(asdict(status)))

    gone = subprocess.Popen(["true"])
    gone.wait()
    told(os.getpid(), 10, 1)
    told(os.getpid(), 10, 0)
    told(os.getpid(), 20, 0)
    told(gone.pid, 10, 2)
    (plugin.status_folder() / "10-1-9.json").write_text("{")
    assert [(s.parent, s.engine) for s in plugin.statuses(10, 5)] == [(10, 0), (10, 1)]
    assert [(s.parent, s.engine) for s in plugin.statuses(77, 20)] == [(20, 0)], "one of several API servers"
    assert plugin.statuses(77, 5) == []
