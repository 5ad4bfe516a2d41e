"""Giving each request of a trace a class by rules.

Symbols: `N` requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..contract import BoolArray
from .draws import uniform_of_rows
from .prefixes import NO_PREFIXES
from .requests import Workload, WorkloadError, check_class_names
from .spec import AssignRule
from .traces import DAY_S, Trace

CLASS_LABEL = "class"


def assign_classes(trace: Trace, rules: Sequence[AssignRule] | None, class_names: Sequence[str], seed: int) -> Workload:
    """Give each request the class of the first rule that takes it; the last rule must take all that are left.

    Shares are drawn by seed, rule and row of the file: editing one rule leaves the draws of the others, and a request
    has its class whatever part of the trace is used. Without rules, the trace itself must name the classes.

    Raises:
        WorkloadError: a rule or the trace names a class that is not in `class_names`, or a rule asks for what the
            trace does not say.
    """
    names = tuple(class_names)
    if rules is None:
        rules = _rules_of_names(trace)
    check_class_names([rule.class_name for rule in rules], names)
    class_index = np.full(len(trace), -1, dtype=np.int64)
    for i, rule in enumerate(rules):
        takes = (class_index < 0) & _meets(rule, trace, i)
        if rule.share < 1.0:
            takes &= uniform_of_rows(trace.row, seed, i) < rule.share
        class_index[takes] = names.index(rule.class_name)
    tree, node = trace.blocks.tree() if trace.blocks else (NO_PREFIXES, np.full(len(trace), -1, np.int64))
    return Workload(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, class_index, names, node, tree)


def _rules_of_names(trace: Trace) -> list[AssignRule]:
    labels = trace.labels.get(CLASS_LABEL)
    if labels is None:
        raise WorkloadError("assign: missing, and the trace has no column `class`; wanted one or the other")
    return [AssignRule(class_name=name, where={CLASS_LABEL: name}) for name in labels.names]


def _meets(rule: AssignRule, trace: Trace, i: int) -> BoolArray:
    """`[N]` whether each request meets the rule's conditions."""
    meets = np.ones(len(trace), dtype=np.bool_)
    for tokens, low, high in (
        (trace.prompt_tokens, rule.min_prompt_tokens, rule.max_prompt_tokens),
        (trace.output_tokens, rule.min_output_tokens, rule.max_output_tokens),
    ):
        if low is not None:
            meets &= tokens >= low
        if high is not None:
            meets &= tokens <= high
    for label, wanted in rule.where.items():
        if label not in trace.labels:
            said = ", ".join(trace.labels) or "nothing of the kind"
            raise WorkloadError(f"assign[{i}].where: the trace does not say {label!r}; it says {said}")
        labels = trace.labels[label]
        values = {str(value) for value in (wanted if isinstance(wanted, tuple) else (wanted,))}
        meets &= np.array([name in values for name in labels.names], np.bool_)[labels.codes]
    if rule.hours is not None:
        if trace.clock_s is None:
            raise WorkloadError(f"assign[{i}].hours: the trace's times are no clock times; wanted rules without hours")
        hour = (trace.clock_s + trace.arrival_s) % DAY_S / 3600.0
        begin, end = rule.hours
        meets &= (hour >= begin) & (hour < end) if begin < end else (hour >= begin) | (hour < end)
    return meets
