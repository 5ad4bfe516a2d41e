"""Rules may ask for what a trace says of its requests, and for the hour."""

from pathlib import Path
from typing import Any

import pytest

from poolpilot.env.workload.assign import assign_classes
from poolpilot.env.workload.requests import WorkloadError
from poolpilot.env.workload.spec import AssignRule
from poolpilot.env.workload.traces import Trace, read_trace
from poolpilot.tests.env.workload.trace_files import BURSTGPT_1, MOONCAKE, PLAIN, a_file


def rule(name: str, **conditions: Any) -> AssignRule:
    return AssignRule(class_name=name, **conditions)


def classes(trace: Trace, *rules: AssignRule) -> str:
    load = assign_classes(trace, rules, ("a", "b", "c"), 0)
    return "".join(load.class_names[i] for i in load.class_index)


ROWS = "".join(
    f"{3600 * hour},{model},10,1,11,{log}\n"
    for hour, model, log in [(1, "GPT-4", "API log"), (7, "ChatGPT", "API log"), (23, "GPT-4", "Conversation log")]
)
BURSTGPT = BURSTGPT_1.splitlines()[0] + "\n" + ROWS


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([rule("a", where={"model": "GPT-4"}), rule("b")], "aba"),
        ([rule("a", where={"model": "GPT-4", "log_type": "API log"}), rule("b")], "abb"),
        ([rule("a", where={"model": ("GPT-4", "ChatGPT")}), rule("b")], "aaa"),
        ([rule("a", where={"model": "gpt-4"}), rule("b")], "bbb"),
        ([rule("a", hours=(22, 6)), rule("b")], "aba"),
        ([rule("a", hours=(6, 22)), rule("b")], "bab"),
        ([rule("a", hours=(1, 7)), rule("b", hours=(7, 8)), rule("c")], "abc"),
        ([rule("a", hours=(0, 24), where={"log_type": "API log"}), rule("b")], "aab"),
    ],
    ids=["model", "model and log", "any of two", "exact name", "night", "day", "from, not up to", "whole day"],
)
def test_rules_by_model_log_and_hour(tmp_path: Path, rules: list[AssignRule], expected: str) -> None:
    assert classes(read_trace(a_file(tmp_path, BURSTGPT)), *rules) == expected


@pytest.mark.parametrize(
    ("text", "conditions", "message"),
    [
        (
            MOONCAKE,
            {"where": {"model": "x"}},
            r"assign\[0\]\.where: the trace does not say 'model'; it says nothing of",
        ),
        (PLAIN, {"where": {"log_type": "x"}}, r"the trace does not say 'log_type'; it says class, model"),
        (MOONCAKE, {"hours": (1, 2)}, r"assign\[0\]\.hours: the trace's times are no clock times"),
    ],
)
def test_a_rule_for_what_the_trace_does_not_say_is_refused(
    tmp_path: Path, text: str, conditions: dict[str, Any], message: str
) -> None:
    with pytest.raises(WorkloadError, match=message):
        classes(read_trace(a_file(tmp_path, text)), rule("a", **conditions), rule("b"))


def test_without_rules_the_trace_must_name_known_classes(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="assign: missing, and the trace has no column `class`"):
        assign_classes(read_trace(a_file(tmp_path, MOONCAKE)), None, ("a",), 0)
    with pytest.raises(WorkloadError, match="unknown class 'batch'; classes are chat"):
        assign_classes(read_trace(a_file(tmp_path, PLAIN)), None, ("chat",), 0)
