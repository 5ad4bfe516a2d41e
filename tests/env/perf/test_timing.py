"""One iteration's time from the events of streams."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.env.perf.timing import NotSteady, Stream, steady_iteration_s


def a_stream(first_s: float, tokens: int, iteration_s: float) -> Stream:
    return Stream(first_s + iteration_s * np.arange(tokens), np.arange(1.0, tokens + 1))


def test_only_the_time_in_which_all_decode_counts() -> None:
    # The first stream is slow while the other one still prefills, and fast after it has ended.
    early = np.concatenate([[0.0, 1.0, 2.0], 2.0 + 0.1 * np.arange(1, 21), 4.0 + 0.001 * np.arange(1, 30)])
    late = a_stream(2.0, 21, 0.1)
    seconds, context = steady_iteration_s([Stream(early, np.arange(1.0, len(early) + 1)), late], 100)
    assert seconds == pytest.approx(0.1)
    # From the third (first) token on, each iteration reads the prompt and the tokens before the one it gives.
    assert context == pytest.approx(100 + np.mean(np.arange(3, 23)) + 100 + np.mean(np.arange(1, 21)))


def test_two_tokens_in_one_event_are_two_iterations() -> None:
    whole = a_stream(0.0, 21, 0.1)
    merged = np.array([i for i in range(21) if i not in (5, 11)])
    seconds, context = steady_iteration_s([Stream(whole.times_s[merged], whole.tokens[merged])], 50)
    assert (seconds, context) == pytest.approx(steady_iteration_s([whole], 50))


@pytest.mark.parametrize("last_s", [0.5, 3.0], ids=["few together", "never together"])
def test_too_short_a_time_together_is_refused(last_s: float) -> None:
    streams = [a_stream(0.0, 11, 0.1), a_stream(last_s, 11, 0.1)]
    with pytest.raises(NotSteady, match="2 answers decoded together for"):
        steady_iteration_s(streams, 10)
