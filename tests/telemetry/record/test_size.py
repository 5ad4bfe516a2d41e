"""How much a record takes, measured on what a large cluster really writes."""

from pathlib import Path

from poolpilot.controller.decision_log import DecisionLog
from poolpilot.telemetry.record import Keeping, read
from poolpilot.telemetry.record.segments import segments

from .days import ticks_of_a_day

WEEK_TICKS = 7 * 8640
"""At one in ten seconds."""
GIGABYTE = 1_000_000_000


def test_a_week_of_eight_pools_and_four_classes_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    records = ticks_of_a_day(150)
    steady = records[50:]  # what the policy remembers has grown by then
    keeping = Keeping(segment_bytes=500_000)
    with DecisionLog(tmp_path / "decisions.jsonl", records[0].sitting, keeping=keeping) as log:
        for record in steady:
            log.append(record)
    closed = segments(tmp_path / "decisions.jsonl")
    assert len(closed) >= 2
    assert all(path.name.endswith(".gz") for path in closed)
    bytes_per_tick = sum(path.stat().st_size for path in closed) / sum(
        len(episode) for episode in read(closed).episodes
    )
    assert bytes_per_tick * WEEK_TICKS < 0.25 * GIGABYTE  # 2.4 kB a tick were measured: 0.15 GB
