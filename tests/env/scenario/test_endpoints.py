"""Servers of the user's own in a scenario file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.addresses import Address, parse_address

FILE = """\
schema: 1
name: mine
summary: Servers of my own.
duration_s: 600
tick_s: 5
model: llama-3.1-8b
pools:
  a100: {gpu: A100-SXM-80GB, price: {usd_per_hr: 2.0}, MORE}
classes:
  chat: {target: {ttft_s: 2.0, attainment: 0.9}}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 1.0
      prompt_tokens: {kind: lognormal, median: 200, sigma: 0.5, max: 1000}
      output_tokens: {kind: lognormal, median: 200, sigma: 0.4, max: 500}
"""


def loaded(folder: Path, more: str) -> Scenario:
    path = folder / "mine.yaml"
    path.write_text(FILE.replace("MORE", more))
    return load_scenario(path)


def test_all_of_them_are_wanted_unless_the_file_says_that_something_scales_them(tmp_path: Path) -> None:
    pool = loaded(tmp_path, "endpoints: ['http://10.0.0.1:8000', 'http://gpu-2:8000']").pools["a100"]
    assert pool.addresses == (Address("10.0.0.1", 8000), Address("gpu-2", 8000))
    assert (pool.replicas.min, pool.replicas.start, pool.replicas.max) == (0, 2, 2)
    scaled = "endpoints: ['http://vllm.default.svc:8000'], replicas: {min: 1, max: 9, start: 3}"
    assert loaded(tmp_path, scaled).pools["a100"].replicas.max == 9


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("endpoints: []", "endpoints"),
        ("endpoints: ['https://10.0.0.1:8000']", "plain HTTP"),
        ("endpoints: ['10.0.0.1:8000']", r"wanted http://HOST:PORT"),
        ("endpoints: ['http://10.0.0.1']", r"wanted http://HOST:PORT"),
        ("endpoints: ['http://10.0.0.1:99999']", r"wanted http://HOST:PORT"),
        ("endpoints: ['http://10.0.0.1:8000/v1']", r"wanted http://HOST:PORT"),
        ("endpoints: ['http://a:80', 'http://a:80/']", "is there twice"),
        ("endpoints: ['http://a:80'], command: [serve, '{port}']", "wanted endpoints or command, got both"),
        ("endpoints: ['http://a:80'], sleep: {}", "sleep: not with endpoints"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, more)


@given(st.text(max_size=40) | st.from_regex(r"http://[a-z0-9.:/@-]{0,20}", fullmatch=True))
def test_any_text_is_an_address_or_refused_(text: str) -> None:
    with suppress(ValueError):
        address = parse_address(text)
        assert 1 <= address.port <= 65535
        assert address.host
