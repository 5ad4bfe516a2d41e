"""The table of docs/opponents.md, from the rules' own words: `python -m poolpilot.agents.opponents.catalogue`."""

from __future__ import annotations

from collections.abc import Iterable

from ..rules import Knob, RuleSpec

BEGIN, END = "<!-- rules: begin -->", "<!-- rules: end -->"
"""Between these lines of the page stands the table."""


def as_table(specs: Iterable[RuleSpec]) -> str:
    """One row a rule, sorted by name: what it does, its knobs with defaults and ranges, whose idea it is."""
    rows = ["| rule | what it does | knobs: default (from - to) | source |", "|---|---|---|---|"]
    for spec in sorted(specs, key=lambda spec: spec.name):
        knobs = "<br>".join(_described(knob, spec) for knob in spec.knobs)
        rows.append(f"| `{spec.name}` | {spec.summary} | {knobs} | {spec.source} |")
    return "\n".join(rows)


def _described(knob: Knob, spec: RuleSpec) -> str:
    role = ""
    if knob.name == spec.headroom:
        role = "; **head-room**, more of it is less" if spec.inverse else "; **head-room**"
    return f"`{knob.name}` {knob.default:g} ({knob.low:g} - {knob.high:g}): {knob.doc}{role}"


if __name__ == "__main__":
    from ..portfolio import RULE_SPECS

    print(as_table(RULE_SPECS.values()))
