"""How capacities are measured and told."""

from __future__ import annotations

import pytest

from poolpilot.benchmarks.capacities import PAGE, Case, replica_lines, rewritten, true_per_s
from poolpilot.benchmarks.replicas import served


def test_a_true_capacity_does_not_depend_on_where_the_search_begins() -> None:
    case = served("A100-SXM-80GB", "llama-2-7b", "bf16", ("chat",), (0.95,), n=1500)
    low, high = (true_per_s(case, 0.95, guess) for guess in (1.0, 30.0))
    assert low == pytest.approx(high, rel=0.03)
    assert case.met(0.9 * low, 11)[0] >= 0.95 > case.met(1.3 * low, 11)[0]


def test_where_nothing_attains_what_is_wanted_there_is_no_capacity() -> None:
    case = served("T4-16GB", "llama-2-7b", "int8", ("code",), (0.999,), n=500)
    assert true_per_s(case, 0.999, 0.5) == 0.0


def test_the_table_tells_medians_and_the_worst() -> None:
    cases = [
        Case("a", "chat", 0.9, 9.0, 12.0, 10.0, 0.95),
        Case("b", "chat", 0.9, 8.0, 11.0, 10.0, 0.89),
        Case("c", "code", 0.99, 0.0, 0.0, 0.0, None),
    ]
    everything = cases + [Case("d", shape, 0.9, 9.0, 9.0, 10.0, 0.9) for shape in _OTHERS]
    chat = next(line for line in replica_lines(everything) if line.startswith("| chat"))
    assert chat == "| chat | -15 % | -19 % to -11 % | -1.0 points | +15 % |"


_OTHERS = ("summarisation", "code", "classification", "embedding", "end to end")


def test_only_what_stands_between_the_marks_is_rewritten() -> None:
    text = "before\n<!-- plans -->\nold\n<!-- end of plans -->\nafter\n"
    assert rewritten(text, "plans", ["| new |"]) == "before\n<!-- plans -->\n| new |\n<!-- end of plans -->\nafter\n"
    page = PAGE.read_text(encoding="utf-8")
    for part in ("replicas", "plans"):
        assert rewritten(page, part, ["x"]).count(f"<!-- {part} -->\nx\n<!-- end of {part} -->") == 1
