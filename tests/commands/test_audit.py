"""`poolpilot audit`: refuses in one line, keeps secrets to itself, and shows data as text."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.audit.description import read_description
from poolpilot.cli import main
from poolpilot.commands.auditing.asked import window_of

from ..audit.fleets import ONE_POOL, as_csv, served_by_one
from ..browser.chromium import OpenTab

EVIL = "<script>alert(1)</script>"


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["audit", *arguments], env=environment)


@pytest.fixture
def pools(tmp_path: Path) -> Path:
    path = tmp_path / "pools.yaml"
    path.write_text(ONE_POOL.format(count=1))
    return path


def test_the_example_is_printed_and_can_be_used(tmp_path: Path) -> None:
    answer = run("--write-example")
    assert answer.exit_code == 0
    path = tmp_path / "pools.yaml"
    path.write_text(answer.stdout)
    assert read_description(path).model == yaml.safe_load(answer.stdout)["model"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--pools is missing"),
        (("--pools", "{pools}"), "one source"),
        (("--pools", "{pools}", "--prometheus", "http://x", "--requests", "y"), "one source"),
        (("--pools", "{pools}", "--prometheus", "localhost:9090"), "begins with http://"),
        (("--pools", "{pools}", "--prometheus", "http://127.0.0.1:1"), "no answer"),
        (("--pools", "{pools}", "--requests", "none.csv"), "no such file"),
        (("--pools", "none.yaml", "--requests", "none.csv"), "--write-example"),
        (("--pools", "{pools}", "--requests", "{pools}", "--column", "ttft"), "FIELD=NAME"),
        (("--pools", "{pools}", "--requests", "{pools}", "--unit", "ttft=hours"), "one of s, ms, us, ns"),
        (("--pools", "{pools}", "--prometheus", "http://x", "--range", "soon"), "length of time"),
        (("--pools", "{pools}", "--prometheus", "http://x", "--until", "soon"), "a moment"),
        (("--pools", "{pools}", "--prometheus", "http://x", "--until", "5", "--from", "9"), "before --until"),
        (("--pools", "{pools}", "--prometheus", "http://x", "--step", "1ms"), "length of time"),
        (("--pools", "{pools}", "--prometheus", "http://x", "--step", "1s"), "86400 steps"),
        (("--pools", "{pools}", "--requests", "x", "--rules", "luck"), "--rules luck"),
        (("--pools", "{pools}", "--prometheus", "http://x", "--header", "no colon secret"), "Name: value"),
    ],
)
def test_bad_input_is_one_clear_line(pools: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = run(*(text.format(pools=pools) for text in arguments))
    assert answer.exit_code == 2
    assert said in answer.output
    assert "secret" not in answer.output
    assert "Traceback" not in answer.output


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives one answer to everything; its address, and the headers that it was sent."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            seen.append(dict(self.headers.items()))
            self.send_response(status)
            self.send_header("Location", "http://elsewhere.invalid/")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://user:hush@127.0.0.1:{server.server_port}/prom", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"", "not let in"),
        (302, b"", "sends elsewhere"),
        (200, b"<html>", "no answer of Prometheus"),
        (422, b'{"status": "error", "error": "query is\\nbad"}', "query is bad"),
        (200, b'{"status": "success", "data": {"resultType": "matrix", "result": []}}', "Prometheus has no"),
        (200, b"[" * 100_000, "no answer of Prometheus"),
    ],
)
def test_answers_that_are_none_are_one_line_without_secrets(pools: Path, status: int, body: bytes, said: str) -> None:
    with answering(status, body) as (url, seen):
        answer = run(
            "--pools", str(pools), "--prometheus", url, "--header", "X-Scope-OrgID: team", POOLPILOT_PROMETHEUS_TOKEN=""
        )
    assert answer.exit_code == 2
    assert said in answer.output
    assert "hush" not in answer.output
    assert seen[0]["X-Scope-OrgID"] == "team"
    assert seen[0]["Authorization"].startswith("Basic ")


def test_a_token_is_sent_and_never_shown(pools: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with answering(403, b"") as (url, seen):
        answer = run("--pools", str(pools), "--prometheus", url.replace("user:hush@", ""), "--token-file", str(token))
    assert seen[0]["Authorization"] == "Bearer s3cret"
    assert answer.exit_code == 2
    assert "s3cret" not in answer.output


def test_a_log_is_audited_and_what_it_says_is_shown_as_text(pools: Path, tmp_path: Path, open_tab: OpenTab) -> None:
    columns = served_by_one(duration_s=300.0)
    log = as_csv({EVIL if name == "duration_s" else name: own for name, own in columns.items()}, tmp_path / "log.csv")
    out = tmp_path / "out"
    asked = ("--pools", str(pools), "--requests", str(log), "--column", f"duration={EVIL}", "--out", str(out))
    answer = run(*asked, "--rules", "threshold", "--seeds", "2")
    assert answer.exit_code in (0, 3), answer.output
    assert "you spent $0.16" in answer.output
    document = json.loads((out / "audit.json").read_text())
    assert document["spent"]["usd"] == pytest.approx(1.8 * document["duration_s"] / 3600.0)
    tab = open_tab(theme="dark")
    tab.page.goto((out / "audit.html").as_uri())
    tab.page.wait_for_selector("[data-figure=bill] .main-svg")
    assert EVIL in tab.page.locator("header").inner_text()
    assert EVIL not in (out / "audit.html").read_text()


@given(st.integers(2, 5000), st.floats(0.1, 600.0))
def test_a_range_is_read_in_whole_stretches_but_for_a_twentieth_at_most(steps: int, step_s: float) -> None:
    window, stretch = window_of((steps + 0.5) * step_s, 1e6, step_s)
    read = window.moments - 1
    assert read % stretch == 0
    assert 0.95 * steps <= read <= steps
    assert window.end_s == 1e6
    assert window.begin_s == pytest.approx(1e6 - read * step_s)
