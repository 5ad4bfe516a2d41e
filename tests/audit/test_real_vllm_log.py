"""The audit of a real vLLM server's log: of a GPU that no fit saw, 300 requests in half a minute, far beyond its capacity."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from poolpilot.audit.auditing import audit
from poolpilot.audit.instead import Asked
from poolpilot.audit.request_log import read_request_log
from poolpilot.audit.request_rows import AskedLog
from poolpilot.training.matching import Verdict

from .fleets import described

pytestmark = pytest.mark.shared_data

RUN = "RTXPRO6000/Llama-3.1-8B"
FLEET = """\
schema: 1
model: llama-3.1-8b
pools:
  pro6000: {gpu: RTX-PRO-6000-96GB, price: 2.0, count: 1, engine: {max_num_seqs: 128, max_num_batched_tokens: 2048}}
classes:
  chat: {target: {ttft_s: 1.0, tpot_s: 0.05, attainment: 0.95}}
"""


def test_a_real_servers_log_is_replayed_roughly_and_its_overload_is_found(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "measured_requests.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == RUN]
    log = tmp_path / "log.csv"
    with log.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    fleet = described(tmp_path, FLEET)
    asked = AskedLog(log, {"first_token": "first_token_s", "end": "last_token_s", "arrival": "arrival_s"}, {})
    found = audit(fleet, read_request_log(asked, fleet), Asked(("threshold",), "steady-hand", 2))
    assert found.match.verdict is Verdict.ROUGH, found.match.reasons
    errors = {own.figure: own.error for own in found.match.figures}
    assert abs(errors["tpot_mean_s"]) < 0.25
    assert abs(errors["e2e_mean_s"]) < 0.25
    assert abs(errors["attainment"]) < 0.05
    assert found.measured.classes["chat"].attainment == pytest.approx(0.427, abs=0.001)
    assert found.covered_frac == 0.0
    assert found.compared is not None
    assert not found.compared.best.holds
    assert any("`max`" in own.words for own in found.findings)
