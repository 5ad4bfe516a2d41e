"""A learner's progress as a file, and as the sidecar shows it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from poolpilot.telemetry.exported_learner import LearnerMetrics
from poolpilot.telemetry.learner_progress import (
    LearnerProgress,
    LearnerState,
    ProgressError,
    read_progress,
    write_progress,
)

NOW = LearnerProgress(LearnerState.LEARNING, "0123", 500, 1000, 1000.0, kl=1.5, detail="on its way")


def shown(path: Path | None, now_unix_s: float = 1060.0) -> tuple[LearnerMetrics, CollectorRegistry]:
    registry = CollectorRegistry()
    metrics = LearnerMetrics(registry, path)
    metrics.show(now_unix_s)
    return metrics, registry


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "learner.json"
    write_progress(path, NOW)
    again = read_progress(path)
    assert again is not None
    assert math.isnan(again.reward)
    assert replace(again, reward=0.0, attainment=0.0, loss=0.0, incumbent_loss=0.0, kl_limit=0.0) == replace(
        NOW, reward=0.0, attainment=0.0, loss=0.0, incumbent_loss=0.0, kl_limit=0.0
    )
    assert [own.name for own in tmp_path.iterdir()] == ["learner.json"]


def test_where_no_learner_was_there_is_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "learner.json") is None
    _, registry = shown(tmp_path / "learner.json")
    assert math.isnan(registry.get_sample_value("poolpilot_learner_age_seconds") or 0.0)
    assert registry.get_sample_value("poolpilot_learner_state", {"state": "learning"}) == 0.0


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("state", "thinking", "state: 'thinking', wanted one of learning"),
        ("steps", "many", "steps: 'many', wanted a whole number"),
        ("steps", -1, "wanted a whole number of 0 or more"),
        ("kl", True, "kl: 'True', wanted a number or null"),
        ("detail", 3, "detail: '3', wanted a text"),
        ("format", 2, "wanted a learner's progress of format 1"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, field: str, value: object, said: str) -> None:
    path = tmp_path / "learner.json"
    write_progress(path, NOW)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ProgressError, match=said):
        read_progress(path)
    metrics, registry = shown(path)
    assert said in metrics.trouble
    assert math.isnan(registry.get_sample_value("poolpilot_learner_age_seconds") or 0.0)


def test_the_sidecar_shows_how_old_the_news_is(tmp_path: Path) -> None:
    path = tmp_path / "learner.json"
    write_progress(path, NOW)
    _, registry = shown(path)
    assert registry.get_sample_value("poolpilot_learner_age_seconds") == 60.0
    assert registry.get_sample_value("poolpilot_learner_state", {"state": "learning"}) == 1.0
    assert registry.get_sample_value("poolpilot_learner_kl_nats") == 1.5
