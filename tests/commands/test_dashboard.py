"""`poolpilot dashboard` says in one line what is wrong with how it was asked, and serves until it is told to stop."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from poolpilot.commands.dashboard import TOKEN_VARIABLE, dashboard
from poolpilot.tests.dashboard.recorded import records, write_log


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "nothing to show: wanted --store URL or --log FILE"),
        (("--store", "redis://127.0.0.1:1", "--log", "{}"), "wanted one of them, not both"),
        (("--store", "http://127.0.0.1:1"), "wanted one like redis://host:6379/0"),
        (("--runs", "{}", "--host", "0.0.0.0"), "needs a token"),
        (("--runs", "{}", "--token-file", "{}/short"), "wanted at least 16"),
    ],
    ids=["nothing", "both", "no store", "open to all", "short token"],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, asked: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    (tmp_path / "short").write_text("abc\n")
    result = CliRunner().invoke(dashboard, [argument.replace("{}", str(tmp_path)) for argument in asked])
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.e2e
def test_it_serves_a_sidecars_folder_until_it_is_told_to_stop(tmp_path: Path) -> None:
    write_log(tmp_path / "decisions.jsonl", records(3))
    command = [sys.executable, "-m", "poolpilot", "dashboard", "--log", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"dashboard at (http://127\.0\.0\.1:\d+)", process.stdout.readline().strip())
            assert found, process.stderr.read() if process.stderr else ""
            with urllib.request.urlopen(f"{found[1]}/data/policies", timeout=60) as answer:
                assert "--runs" in json.load(answer)["empty"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 0
