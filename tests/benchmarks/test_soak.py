"""The soak: what counts as growth, and a short one on the real parts."""

import json
import random

import pytest
from click.testing import CliRunner

from poolpilot.benchmarks.load_search import Step
from poolpilot.benchmarks.soak import Growth, Soaked, carried, evened, growth, growth_of_rate, main, markdown, verdict

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


def test_what_could_not_be_told_is_no_pass() -> None:
    assert growth_of_rate("tick", "ms", [1.0, 2.0, 3.0], [5.0, 5.0, 5.0], 0.25, 5.0).grew


@pytest.mark.parametrize("slower", [0.0, 60.0], ids=["as ever", "slower and slower"])
def test_processor_time_of_a_tick_is_told_from_how_many_ticks_there_were(slower: float) -> None:
    ticks = [
        float(n + NOISE.randint(0, 1)) for n in range(0, 240, 2)
    ]  # a sample may come just before a tick or after it
    used_ms = [50.0 * n + slower * n * n / 480.0 for n in ticks]
    found = growth_of_rate("tick", "ms", used_ms, ticks, 0.25, 5.0)
    assert found.first == pytest.approx(50.0 + slower * 0.4, rel=0.1)
    assert found.grew is bool(slower)


@pytest.mark.parametrize("slower", [0.0, 60.0], ids=["as ever", "slower and slower"])
def test_a_machine_that_slows_down_is_no_growth_and_hides_none(slower: float) -> None:
    ticks = [float(n) for n in range(240)]
    work_s = [0.004 * (1.5 if n > 150 else 1.0) * NOISE.uniform(0.9, 1.1) for n in ticks]
    used_ms = [0.0]
    for n, work in zip(ticks[1:], work_s[1:], strict=True):
        used_ms.append(used_ms[-1] + (50.0 + slower * n / 240.0) * work / 0.004)
    assert growth_of_rate("tick", "ms", used_ms, ticks, 0.25, 5.0).grew
    found = growth_of_rate("tick", "ms", evened(used_ms, work_s), ticks, 0.25, 5.0)
    assert found.grew is bool(slower)


def soaked(grew: bool = False, lost: int = 0, slipped_frac: float = 0.0) -> Soaked:
    last = 200.0 if grew else 100.0
    steps = (Step(4.0, 0.0, 0), Step(8.0, 0.4, 0), Step(8.0, 0.3, 0))
    growths = (Growth("sidecar: memory", "MiB", 100.0, last, 110.0),)
    return Soaked(10.0, 3.2, steps, 1920, 1920 - lost, 0, lost, ("cut",) * bool(lost), slipped_frac, 300, growths)


def test_the_verdict_says_what_did_not_pass_and_the_page_begins_with_it() -> None:
    assert verdict(soaked()).startswith("PASSED")
    assert "sidecar: memory grew" in verdict(soaked(grew=True))
    assert "2 requests were lost (cut)" in verdict(soaked(lost=2))
    assert "the clients starved" in verdict(soaked(slipped_frac=0.5))
    assert markdown(soaked(grew=True)).startswith("**FAILED")
    assert "4 requests a second; at 8 the clients" in carried(soaked())


@pytest.mark.e2e
def test_a_short_soak_loses_nothing_and_looks_at_every_process() -> None:
    result = CliRunner().invoke(main, ["--minutes", "0.3", "--rate", "6", "--json"])
    document = json.loads(result.stdout)
    assert document["lost"] == 0, document["lost_for"]
    assert document["served"] == document["sent"] > 60
    assert document["ticks"] >= 4
    assert document["verdict"]
    seen = {g["what"]: g["first"] for g in document["growths"]}
    kinds = ("sidecar", "Envoy", "Valkey", "replicas")
    kept = {f"{kind}: {what}" for kind in kinds for what in ("memory", "file handles")}
    used = {"sidecar: processor time of a tick", *(f"{kind}: processor time" for kind in kinds[1:])}
    assert set(seen) == kept | used
    assert min(value for what, value in seen.items() if what != "Valkey: processor time") > 0.0
