"""The soak: what counts as growth, and a short one on the real parts."""

import json
import random

import pytest
from click.testing import CliRunner

from poolpilot.benchmarks.soak import Growth, growth, main

NOISE = random.Random(0)


def series(slope: float, n: int = 120, level: float = 100.0) -> list[float]:
    """Noise of one in a hundred on a line, with a warm-up before it."""
    warming = [level * n / (n + 1.0 + 4 * (20 - i)) for i in range(20)]
    return warming + [level + slope * i / n + NOISE.gauss(0.0, 1.0) for i in range(n - 20)]


@pytest.mark.parametrize(
    ("slope", "slack_frac", "slack", "grew"),
    [(0.0, 0.05, 0.0, False), (-30.0, 0.0, 3.0, False), (30.0, 0.05, 0.0, True), (30.0, 0.0, 40.0, False)],
    ids=["level", "falling", "leaking", "within the slack"],
)
def test_growth_is_told_from_noise_and_from_warming_up(
    slope: float, slack_frac: float, slack: float, grew: bool
) -> None:
    assert growth("memory", "MiB", series(slope), slack_frac, slack).grew is grew


def test_one_high_sample_is_no_growth() -> None:
    values = [*series(0.0), 900.0]
    assert growth("memory", "MiB", values, 0.05, 0.0) == Growth(
        "memory", "MiB", *(pytest.approx(100.0, abs=2.0),) * 2, pytest.approx(105.0, abs=2.0)
    )


@pytest.mark.e2e
def test_a_short_soak_loses_nothing_and_looks_at_every_process() -> None:
    result = CliRunner().invoke(main, ["--minutes", "0.3", "--rate", "6", "--json"])
    document = json.loads(result.stdout)
    assert document["lost"] == 0, document["lost_for"]
    assert document["served"] == document["sent"] > 60
    assert document["ticks"] >= 4
    seen = {g["what"]: g["first"] for g in document["growths"]}
    assert set(seen) == {
        *(
            f"{kind}: {what}"
            for kind in ("sidecar", "Envoy", "Valkey", "replicas")
            for what in ("memory", "file handles")
        ),
        "sidecar: time of a tick",
    }
    assert min(seen.values()) > 0.0
