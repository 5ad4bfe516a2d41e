"""What an evaluation says at a glance: a few figures of the policy that it is about, each with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .cells import Cell, counted, interval, ratio

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """One card."""

    name: str
    value: str
    """A number, or that it is not known."""
    unit: str
    more: str
    warn: bool = False


def featured(summary: Record, suite: str) -> str:
    """Whom the glance is at: the first checkpoint, else the first policy that is not the reference, else that."""
    policies = summary["suites"][suite]["as_shipped"]["policies"]
    others = [own for own in policies if own["policy"] != summary["reference"]]
    learned = [own for own in others if own["kind"] == "checkpoint"]
    return str((learned or [own for own in others if own["kind"] == "rule"] or others or policies)[0]["policy"])


def headlines(summary: Record, suite: str) -> list[Headline]:
    """The cards of a suite."""
    return list(_cards(summary, suite, featured(summary, suite)))


def _cards(summary: Record, suite: str, policy: str) -> Iterator[Headline]:
    own, reference = summary["suites"][suite], summary["reference"]
    (record,) = (r for r in own["as_shipped"]["policies"] if r["policy"] == policy)
    if policy != reference:
        yield _of(f"Bill against {reference}", ratio(record["bill_ratio"]), "%", "as shipped")
    else:
        yield _of("Bill", interval(record["usd_per_hr"]), "$/h", "as shipped")
    for best in own["as_shipped"]["against_best_rules"][-1:]:
        if best["policy"] == policy and best["rule"] != reference:
            yield _of(
                f"Bill against {best['rule']}",
                ratio(best["bill_ratio"]),
                "%",
                f"best rule by {best['chosen_by']}",
            )
    held = "counts as held" if record["held"] else "more than counts as held: read bills with it"
    yield _of("Attainment short by", interval(record["shortfall"], 2, 100.0), "points", held, not record["held"])
    for at in own["equal_attainment"][:1]:
        (equal,) = (r for r in at["policies"] if r["policy"] == policy)
        if policy != reference:
            where = f"known in {len(equal['compared'])} of {counted(len(own['scenarios']), 'scenario')}"
            yield _of(f"Cost at {at['level'] * 100:g} % attainment", ratio(equal["cost_ratio"]), "%", where)
    if record["above_bound_frac"]:
        above = interval(record["above_bound_frac"], 0, 100.0, sign=True)
        yield _of("Above the clairvoyant bound", above, "%", "no policy can reach it")
    if record["covered_frac"]:
        covered = interval(record["covered_frac"], 0, 100.0)
        yield _of("Inside the calibrated range", covered, "%", "of the tokens served")


def _of(name: str, cell: Cell, unit: str, more: str, warn: bool = False) -> Headline:
    known = bool(cell.ends) or cell.sort != ""
    return Headline(
        name, cell.text if known else "not known", unit if known else "", f"{cell.ends} {more}".strip(), warn
    )
