"""What happened between two pages, restarts included."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.telemetry.engine_page import EnginePage
from poolpilot.telemetry.readings import use_between

OLD = EnginePage(
    running=1.0,
    waiting=0.0,
    kv_used_frac=0.1,
    prompt_tokens_total=1000.0,
    generation_tokens_total=500.0,
    preemptions_total=2.0,
    token_gap_s_total=10.0,
    token_gaps_total=400.0,
    process_started_s=1e9,
    busy_s_total=50.0,
)


def test_counters_become_differences() -> None:
    new = replace(OLD, prompt_tokens_total=1100.0, generation_tokens_total=520.0, busy_s_total=53.0)
    use = use_between(OLD, replace(new, token_gap_s_total=11.0, token_gaps_total=420.0), span_s=10.0)
    assert (use.tokens_per_s, use.busy_frac, use.preemptions) == (12.0, pytest.approx(0.3), 0.0)
    assert use.mean_token_gap_s == pytest.approx(0.05)
    assert math.isnan(use.useful_s)


def test_one_counter_that_fell_means_that_all_began_anew() -> None:
    new = replace(OLD, prompt_tokens_total=1200.0, generation_tokens_total=100.0, busy_s_total=4.0)
    use = use_between(OLD, new, span_s=10.0)
    assert (use.prompt_tokens, use.generation_tokens, use.busy_s) == (1200.0, 100.0, 4.0)


def test_a_new_start_time_tells_a_restart_that_the_counters_hide() -> None:
    new = replace(OLD, prompt_tokens_total=1200.0, generation_tokens_total=600.0, process_started_s=1e9 + 60)
    assert use_between(OLD, new, span_s=100.0).prompt_tokens == 1200.0


def test_no_gap_between_tokens_has_no_mean() -> None:
    assert math.isnan(use_between(OLD, OLD, span_s=1.0).mean_token_gap_s)


def test_a_span_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="span_s: 0"):
        use_between(OLD, OLD, span_s=0.0)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=2), st.floats(0.1, 100))
def test_nothing_is_ever_undone(totals: list[tuple[float, float]], span_s: float) -> None:
    pages = [replace(OLD, prompt_tokens_total=p, generation_tokens_total=g) for p, g in totals]
    for old, new in pairwise(pages):
        use = use_between(old, new, span_s)
        assert use.prompt_tokens >= 0
        assert use.generation_tokens >= 0
        assert use.tokens_per_s >= 0
