"""`poolpilot control`: what it refuses before anything is started, and logs that are decided again."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from poolpilot.cli import main
from poolpilot.controller.choosing import FALLBACK, PolicyChoice
from poolpilot.controller.decision_log import DecisionLog
from poolpilot.telemetry.record import TickRecord, entry_of
from poolpilot.telemetry.store import Store
from poolpilot.telemetry.valkey import embedded_valkey

from ..controller.ticks import a_sitting, sat_through

TOKEN = "0123456789abcdef"


def control(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["control", *arguments], env=environment, catch_exceptions=False)


def ticks(n: int) -> list[TickRecord]:
    sitting = a_sitting()
    chosen = PolicyChoice("saturation")
    deciding = chosen.make(sitting.cluster), FALLBACK.make(sitting.cluster)
    sitting = replace(sitting, policies=(chosen.sat(deciding[0]), FALLBACK.sat(deciding[1])))
    return list(sat_through(sitting, n, 5, deciding=deciding))


def logged(path: Path, records: list[TickRecord]) -> str:
    with DecisionLog(path, records[0].sitting) as log:
        for record in records:
            log.append(record)
    return str(path)


def otherwise(record: TickRecord) -> TickRecord:
    """The same tick, with a count that nobody decided."""
    applied = record.decision.applied
    counts = np.nextafter(applied.replicas, 99.0)
    return replace(record, decision=replace(record.decision, applied=replace(applied, replicas=counts)))


def test_a_log_that_decides_the_same_again_exits_with_0(tmp_path: Path) -> None:
    log = logged(tmp_path / "log.jsonl", ticks(4))
    told = control("--replay", log)
    assert told.exit_code == 0
    assert "4 ticks decided again: every decision is the same" in told.stdout
    document = json.loads(control("--replay", log, "--json").stdout)
    assert (document["ticks"], document["same"], document["differences"]) == (4, True, [])
    assert sum(document["decided_by"].values()) == 4


def test_a_log_that_decides_otherwise_exits_with_1_and_names_the_figures(tmp_path: Path) -> None:
    first, *others = ticks(3)
    log = logged(tmp_path / "log.jsonl", [first, otherwise(others[0]), others[1]])
    told = control("--replay", log)
    assert told.exit_code == 1
    assert "3 ticks decided again: 1 came out otherwise" in told.stdout
    assert "applied.replicas[0]" in told.stdout
    document = json.loads(control("--replay", log, "--json").stdout)
    assert {difference["tick"] for difference in document["differences"]} == {1}
    assert not document["same"]


def test_a_log_without_ticks_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    assert control("--replay", str(tmp_path / "log.jsonl")).exit_code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind": "letters"}\n', "log.jsonl:1: kind 'letters'"),
        ("what\n", "log.jsonl:1: not JSON"),
        (None, "no such file"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    told = control("--replay", str(tmp_path / "log.jsonl"))
    assert told.exit_code == 2
    assert said in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1


def test_a_world_of_other_pools_is_refused(tmp_path: Path) -> None:
    told = control(
        "--scenario", "mixed-chat", "--world", "spot-storm", "--folder", str(tmp_path / "run"), "--speed-up", "10"
    )
    assert told.exit_code == 2
    assert "the world has pool_names" in told.stderr
    assert "as the scenario" in told.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.e2e
async def test_a_stream_is_decided_again_as_a_file_is() -> None:
    records = ticks(5)
    async with embedded_valkey() as server, Store(server.url, prefix="p", timeout_s=10.0) as store:
        for record in records:
            await store.append_tick(entry_of(record))
        told = await asyncio.to_thread(control, "--replay", server.url, "--store-prefix", "p", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["ticks"] == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--scenario is missing"),
        (("--scenario", "mixed-chat"), "--folder is missing"),
        (("--scenario", "mixed-chat", "--folder", "{}", "--json"), "only --replay prints a document"),
        (("--scenario", "mixed-chat", "--folder", "{}", "--api-host", "0.0.0.0"), "needs a token"),
        (("--scenario", "mixed-chat", "--folder", "{}", "--policy", "nobody"), "nobody"),
        (("--scenario", "mixed-chat", "--folder", "{}", "--setting", "speed=3"), "speed"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_started(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    told = control(*(part.format(tmp_path / "run") for part in arguments))
    assert told.exit_code == 2
    assert said in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("token", ["short", "with a space in the middle"])
def test_a_token_that_is_easily_guessed_is_refused(tmp_path: Path, token: str) -> None:
    told = control("--scenario", "mixed-chat", "--folder", str(tmp_path / "run"), POOLPILOT_API_TOKEN=token)
    assert told.exit_code == 2
    assert "wanted at least 16 printable ASCII" in told.stderr
    assert token not in told.stderr
