"""What the sidecar knows of latency is what clients feel: Envoy's log against the clients' clocks."""

from pathlib import Path

import numpy as np
import pytest

from poolpilot.commands.demonstration.stack import addressees
from poolpilot.controller.actuators.envoy_process import EnvoyFolder
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.telemetry.envoy_log import LogTail, RequestRecord, added_s, ttft_s
from poolpilot.telemetry.valkey import embedded_valkey

from .miniature import a_stage, control

pytestmark = pytest.mark.e2e

TOLERATED_S = 0.005
"""Loopback, an event loop's turn, the client's own parsing."""
MOST_LAG_S = 0.25
"""From a client's sending to Envoy's first byte, on a machine that is busy with other things."""


async def test_the_first_byte_in_envoys_log_is_the_clients_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with embedded_valkey(tmp_path / "valkey") as valkey:
        stage = a_stage(tmp_path, valkey.url, speed_up=1.0, duration_s=8)
        async with control(stage, folder) as running:
            records = await replay(stage.workload, addressees(stage.scenario), running.url, 1.0, Replay())
            assert await running.ended() == 0
    tail = LogTail(EnvoyFolder(folder / "envoy").access_log)
    logged = [r for r in tail.read() if isinstance(r, RequestRecord) and r.succeeded]
    tail.close()
    chat = sorted((r for r in logged if r.class_name == "chat"), key=lambda r: r.started_at_s)
    sent = sorted((r for r in records if r.streamed), key=lambda r: r.sent_s)
    assert len(chat) == len(sent) >= 10
    by_clients = np.array([r.first_token_s - r.sent_s for r in sent if r.first_token_s is not None])
    by_envoy = np.array([ttft_s(r) for r in chat])
    whole = np.array([r.end_s - r.sent_s for r in sent if r.end_s is not None])
    whole_by_envoy = np.array([r.total_s for r in chat])
    # Whoever waits for a turn of the processor on the way to Envoy is late with everything alike: that is the lag.
    lag_s = float(np.median(by_clients - by_envoy))
    assert -TOLERATED_S < lag_s < MOST_LAG_S
    tolerated_s = max(TOLERATED_S, lag_s / 2)
    assert abs(float(np.median(whole - whole_by_envoy)) - lag_s) < tolerated_s
    # Counted from the first byte the lag is gone. Had the log told when headers left, this would be a whole TTFT.
    streaming_s = (whole - by_clients) - (whole_by_envoy - by_envoy)
    assert abs(float(np.median(streaming_s))) < tolerated_s
    # What the proxy says it added itself is no more than what the client waited.
    assert float(np.median([added_s(r) for r in chat])) < float(np.median(by_clients))
