"""Short classes to cheap GPUs, long ones to premium ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.agents.opponents.workload_aware import WorkloadAware
from poolpilot.env.contract import FloatArray

from .small import small, told

NAN = np.nan
CLUSTER, PLAN = small(2, usd_per_hr=np.array([1.0, 4.0]))  # the same $ per request/s on both pools
RULE = WorkloadAware(CLUSTER, headroom=1.0, burst=0.0, long_tokens=2000.0, strictness=1.0)


def need_with(rule: WorkloadAware = RULE, **columns: object) -> FloatArray:
    told_first = {"ready": [0.0, 0.0], "arrival_rate_per_s": [8.0, 8.0], "usd_per_hr": [1.0, 4.0]}
    return rule.propose(told(**{**told_first, **columns}), PLAN, {})[0].need


def test_by_length() -> None:
    need = need_with(prompt_tokens_mean=[500.0, 6000.0], output_tokens_mean=[100.0, 400.0])
    assert need == pytest.approx(np.array([[4.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize(
    ("prompt", "output", "premium"),
    [(1900.0, 0.0, False), (2100.0, 0.0, True), (1100.0, 200.0, False), (1100.0, 240.0, True), (NAN, 100.0, None)],
    ids=["short prompts", "long prompts", "short", "long by its answers", "unknown: by cost alone"],
)
def test_a_token_of_the_answer_counts_four_times(prompt: float, output: float, premium: bool | None) -> None:
    need = need_with(prompt_tokens_mean=prompt, output_tokens_mean=output)
    expected = {False: [8.0, 0.0], True: [0.0, 2.0], None: [4.0, 1.0]}[premium]
    assert need.sum(axis=0) == pytest.approx(expected)


def test_cost_outweighs_length_where_the_rule_is_lenient() -> None:
    long = {"prompt_tokens_mean": 9000.0, "usd_per_hr": [1.0, 6.0]}
    assert need_with(replace(RULE, strictness=0.3), **long).sum(axis=0) == pytest.approx([8.0, 0.0])
    assert need_with(**long).sum(axis=0) == pytest.approx([0.0, 2.0])


def test_with_one_grade_only_length_does_not_matter() -> None:
    rule = replace(RULE, cluster=replace(CLUSTER, usd_per_hr=np.ones(2)))
    for prompt in (100.0, 90000.0):
        assert need_with(rule, prompt_tokens_mean=prompt, usd_per_hr=1.0).sum(axis=0) == pytest.approx([0.0, 2.0])
