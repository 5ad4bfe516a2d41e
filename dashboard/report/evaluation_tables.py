"""The tables of the evaluation's report, from its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..figures.evaluation_rows import Link
from .cells import UNKNOWN, Cell, Column, Row, Table, counted, interval, number, percent, ratio, words

Record = Mapping[str, Any]
_COMMON: Final = (
    Column("$/h", says="Mean bill, with its 95 % interval"),
    Column("bill, %", says="Bill against the reference's, pair by pair: percent more or less"),
    Column("met, %", says="Requests that met all their targets, mean over classes"),
    Column("short, points", says="Wanted less attained, mean over classes; red: more than counts as held"),
    Column("lost", says="Requests that never ended"),
    Column("scalings", says="Replicas added or removed, mean over runs"),
    Column("above bound, %", says="How much dearer than any policy must be that meets as many requests"),
    Column("calibrated, %", says="Tokens served inside the range that the performance model was measured over"),
)


def policies_table(document: Record, suite: str) -> Table:
    """Every policy over the whole suite, as shipped and at equal attainment."""
    own = document["suites"][suite]
    equal = [
        (f"at {at['level'] * 100:g} %, %", {record["policy"]: record for record in at["policies"]})
        for at in own["equal_attainment"]
    ]
    columns = [Column("policy", number=False), Column("kind", number=False), *_COMMON]
    columns += [
        Column(title, says="Cost against the reference's where both hold that attainment") for title, _ in equal
    ]
    rows = [
        Row(
            [
                words(record["policy"]),
                words(record["kind"]),
                *_common(record, document["reference"]),
                *(_at_level(of.get(record["policy"]), document["reference"]) for _, of in equal),
            ]
        )
        for record in own["as_shipped"]["policies"]
    ]
    scenarios = counted(len(own["scenarios"]), "scenario")
    caption = f"{suite}: {scenarios} x {counted(own['seeds'], 'seed')}, paired. {_compared(document)}"
    return Table(f"policies-{_slug(suite, document)}", columns, rows, caption)


def scenarios_table(document: Record, link: Link) -> Table:
    """Every policy on every scenario of every suite, as shipped."""
    columns = [
        Column("scenario", number=False),
        Column("policy", number=False),
        *_COMMON,
        Column("$ per 1,000 met", says="Dollars for 1,000 requests that met all their targets"),
        Column("classes: met (wanted), %", number=False),
    ]
    rows = [
        Row(
            [
                words(record["scenario"], link(suite, record["scenario"], record["policy"], 1.0)),
                words(record["policy"]),
                *_common(record, document["reference"]),
                interval(record["usd_per_1000_met"], 3),
                Cell(_classes(record["classes"]), words=True),
            ],
            {"suite": suite, "scenario": record["scenario"], "policy": record["policy"]},
        )
        for suite, own in document["suites"].items()
        for record in own["as_shipped"]["by_scenario"]
    ]
    caption = f"As shipped; intervals over seeds. A scenario's name leads to its runs. {_compared(document)}"
    return Table("scenarios", columns, rows, caption)


def knobs_table(manifest: Record) -> Table:
    """Who took part, and what each was set to."""
    rows = [
        Row(
            [
                words(name),
                words(own["kind"]),
                Cell(", ".join(f"{knob} {value:.4g}" for knob, value in own["knobs"].items()) or "none", words=True),
                Cell(", ".join(f"{file} {digest[:12]}" for file, digest in own["files"].items()) or "none", words=True),
            ]
        )
        for name, own in manifest["policies"].items()
    ]
    columns = [Column(title, number=False) for title in ("policy", "kind", "knobs as shipped", "files, SHA-256")]
    return Table("knobs", columns, rows, "Rules: knobs. Checkpoints: files by hash, and the price of a miss.")


def _common(record: Record, reference: str) -> Sequence[Cell]:
    held = record.get("held", True)  # summaries of before do not say it of single scenarios
    short = interval(record["shortfall"], 2, 100.0)
    return (
        interval(record["usd_per_hr"]),
        ratio(record["bill_ratio"]) if record["policy"] != reference else Cell("reference", 0.0),
        percent(record["attainment"]),
        Cell(short.text if held else f"{short.text} !", short.sort, short.ends, warn=not held),
        number(record["lost"], 0),
        number(record["replica_changes"]["mean"] if record["replica_changes"] else None, 0),
        _signed_percent(record["above_bound_frac"]),
        percent(record["covered_frac"]["mean"] if record["covered_frac"] else None, 0),
    )


def _at_level(record: Record | None, reference: str) -> Cell:
    if record is None:
        return Cell(UNKNOWN)
    return ratio(record["cost_ratio"]) if record["policy"] != reference else Cell("reference", 0.0)


def _signed_percent(own: Record | None) -> Cell:
    return number(own["mean"] * 100.0, 0) if own else Cell(UNKNOWN)


def _classes(classes: Sequence[Record]) -> str:
    return ", ".join(
        f"{own['name']} {UNKNOWN if own['attainment'] is None else format(own['attainment'] * 100, '.2f')}"
        f" ({own['wanted'] * 100:g})"
        for own in classes
    )


def _compared(document: Record) -> str:
    return f"Bills are compared with those of {document['reference']}."


def _slug(suite: str, document: Record) -> str:
    """Names of suites may hold what ids may not."""
    return str(list(document["suites"]).index(suite))
