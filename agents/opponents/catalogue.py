"""The table of docs/opponents.md, from the rules' own words.

`python -m poolpilot.agents.opponents.catalogue docs/opponents.md` writes it into the page.
"""

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


def with_table(page: str, specs: Iterable[RuleSpec]) -> str:
    """The page with the table between its marks.

    Raises:
        ValueError: the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN} and {END} to put the table between")
    return f"{before}{BEGIN}\n{as_table(specs)}\n{END}{after}"


if __name__ == "__main__":
    import sys
    from pathlib import Path

    from ..portfolio import RULE_SPECS

    for page in map(Path, sys.argv[1:]):
        page.write_text(with_table(page.read_text(encoding="utf-8"), RULE_SPECS.values()), encoding="utf-8")
