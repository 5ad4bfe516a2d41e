"""The figures as tables for people, as JSON, and as a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Sequence[str]


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    note: str
    head: Row
    rows: tuple[Row, ...]


def sections(figures: dict[str, Any]) -> Iterator[Section]:
    """The tables of what was measured; a part that was left out has none."""
    if "versus" in figures:
        yield _versus(figures["versus"])
    for name, title, unit in (
        ("requests", "Cost as requests grow", "requests"),
        ("replicas", "Cost as replicas grow", "replicas"),
        ("load", "Cost as load grows", "load"),
    ):
        if name in figures.get("growth", {}):
            yield _growth(figures["growth"][name], title, unit)
    if "planning" in figures:
        yield from _planning(figures["planning"])
    if "training" in figures:
        yield _training(figures["training"])
        yield _split(figures["training"])
    if "deciding" in figures:
        yield _deciding(figures["deciding"])
    if "collecting" in figures:
        yield _collecting(figures["collecting"])
    if "start" in figures:
        yield _start(figures["start"])


def _versus(rows: list[dict[str, Any]]) -> Section:
    def cells(row: dict[str, Any]) -> Row:
        rival = row.get("rival")
        return (
            str(row["replicas"]),
            _per_s(row["kernel"]),
            _per_s(row["fleet_60s"]),
            _per_s(row["fleet_10s"]),
            _per_s(rival) if rival else "not installed",
            f"{_times(row['fleet_60s'], rival)} / {_times(row['fleet_10s'], rival)}" if rival else "-",
            f"{row['fleet_10s']['peak_mib']:.0f} / {rival['peak_mib']:.0f}" if rival else "-",
        )

    return Section(
        "Beside vllm-sr-sim, on the same requests",
        "Requests per CPU-second. The kernel is the engines alone; the fleet is everything: routing, engines, spot, "
        "pipeline stages, priorities, prefix caching, power and heat, meters, the ledger, and a snapshot every tick.",
        (
            "replicas",
            "kernel",
            "fleet, 60 s ticks",
            "fleet, 10 s ticks",
            "vllm-sr-sim",
            "fleet / rival, 60 s / 10 s",
            "MiB, fleet / rival",
        ),
        tuple(cells(row) for row in rows),
    )


def _growth(rows: list[dict[str, Any]], title: str, unit: str) -> Section:
    def named(value: float) -> str:
        return f"{value:.0%}" if unit == "load" else f"{value:,}"

    return Section(
        title,
        "The whole fleet, 60 s ticks.",
        (unit, "requests simulated", "requests per CPU-s", "us per request", "MiB"),
        tuple(
            (
                named(row[unit]),
                f"{row['requests']:,}",
                _per_s(row),
                f"{1e6 / row['requests_per_cpu_s']:.2f}",
                f"{row['peak_mib']:.0f}",
            )
            for row in rows
        ),
    )


def _planning(rows: dict[str, Any]) -> Iterator[Section]:
    head = (
        "GPU types",
        "buckets",
        "options, kept",
        "shares",
        "capacities, CPU s",
        "solve, CPU s, slowest",
        "wall s, slowest",
        "widest gap",
        "Mélange's: binaries",
        "CPU s",
        "gap",
        "$/h beside ours",
    )

    def cells(row: dict[str, Any]) -> Row:
        rival = row.get("sliced")
        return (
            str(row["gpus"]),
            str(row["buckets"]),
            f"{row['options']:.0f}, {row['kept']:.0f}",
            f"{row['shares']:,.0f}",
            f"{row['capacities_cpu_s']:.2f}",
            f"{row['cpu_s']:.2f}, {row['slowest_cpu_s']:.2f}",
            f"{row['slowest_wall_s']:.2f}",
            f"{row['widest_gap']:.2%}",
            *((f"{rival['binaries']:,}", f"{rival['cpu_s']:.2f}", *_of_rival(row, rival)) if rival else ("-",) * 4),
        )

    yield Section(
        "Planning: what to rent, as GPU types grow",
        "To a gap of 0.5 %, one thread. Each GPU type in tensor-parallel degrees 1, 2, 4 and 8 and three precisions, all "
        "that run; five classes; medians and extremes of some draws. Mélange's formulation of the first draw (a bucket in "
        "8 slices, each whole on one type) by the same solver to the same gap, or until 60 s on the clock are up, of which "
        "a busy machine may give it few CPU seconds.",
        head,
        tuple(cells(row) for row in rows["gpus"]),
    )
    yield Section(
        "Planning: as buckets grow",
        "As above; the last row has every type also on the spot market, for at most half of each class.",
        head,
        (*(cells(row) for row in rows["buckets"]), cells(rows["spot"])),
    )
    again = rows["again"]
    yield Section(
        "Planning a running fleet again",
        "To a gap of 0.1 %, starts weighed.",
        ("pools", "classes", "CPU ms, median", "CPU ms, slowest", "wall ms, slowest"),
        (
            (
                str(again["pools"]),
                str(again["classes"]),
                *(f"{1e3 * again[name]:.1f}" for name in ("cpu_s", "slowest_cpu_s", "slowest_wall_s")),
            ),
        ),
    )


def _of_rival(row: dict[str, Any], rival: dict[str, Any]) -> Row:
    """Its gap, and its bill of the first draw beside ours."""
    if rival["usd_per_hr"] is None:
        return "none found", "-"
    return f"{rival['gap']:.2%}", f"{rival['usd_per_hr'] / row['first_usd_per_hr'] - 1.0:+.1%}"


def _training(rows: list[dict[str, Any]]) -> Section:
    return Section(
        "PPO training, whole",
        "Environment steps per second, planning, guard and new episodes included. The first steps also draw the bank of "
        "worlds; the later ones meet worlds again.",
        ("network", "requests per step", "steps per CPU-s, later", "steps per s, later", "steps per CPU-s, first"),
        tuple(
            (
                row["network"],
                f"{row['later']['requests_per_step']:.0f}",
                f"{row['later']['steps_per_cpu_s']:,.0f}",
                f"{row['later']['steps_per_s']:,.0f}",
                f"{row['first']['steps_per_cpu_s']:,.0f}",
            )
            for row in rows
        ),
    )


def _split(rows: list[dict[str, Any]]) -> Section:
    parts = tuple(rows[0]["later"]["share"])
    return Section(
        "Where the time of training goes",
        "Share of wall time, in the same runs, later steps.",
        ("network", *parts),
        tuple((row["short"], *(f"{row['later']['share'][part]:.0%}" for part in parts)) for row in rows),
    )


def _deciding(rows: list[dict[str, Any]]) -> Section:
    columns = ("inference_p50_ms", "inference_p99_ms", "network_p99_ms", "rules_p50_ms", "rules_p99_ms", "whole_p99_ms")
    return Section(
        "A decision of the learned policy",
        "One cluster at a time on one core, as the sidecar decides, milliseconds on the clock. Inference is everything but "
        "the rules: looking back, laying out what the network sees, the network in ONNX Runtime, blending and bending. The "
        "rules are four; those that plan take longest when the mix is to be chosen anew, which these snapshots, drawn at "
        "random, ask of them more often than life does.",
        ("pools", "classes", "inference, median", "p99", "network alone, p99", "rules, median", "p99", "whole, p99"),
        tuple((str(row["pools"]), str(row["classes"]), *(f"{row[name]:.2f}" for name in columns)) for row in rows),
    )


def _collecting(rows: list[dict[str, Any]]) -> Section:
    size = rows[0]["page_kb"]
    return Section(
        "A tick's look at many replicas",
        f"Metrics pages of {size:.0f} kB each over HTTP, served by another process; the collector on one core, CPU seconds of "
        "user and kernel. Beside it what its parser takes for one page when it reads the wanted families only, and the "
        "whole page.",
        ("replicas", "CPU s a tick", "worst", "share of a 5 s tick", "pages missed", "page, ms", "whole page, ms"),
        tuple(
            (
                str(row["replicas"]),
                f"{row['cpu_s']:.2f}",
                f"{row['worst_cpu_s']:.2f}",
                f"{row['cpu_s'] / row['tick_s']:.0%}",
                str(row["missed"]),
                f"{row['read_ms']:.2f}",
                f"{row['read_whole_ms']:.1f}",
            )
            for row in rows
        ),
    )


def _start(row: dict[str, Any]) -> Section:
    return Section(
        "Start-up",
        "Seconds of CPU in a new process, until the first tick of a fleet is over and looked at.",
        ("", "CPU s", "wall s"),
        (
            ("nothing compiled yet", f"{row['cold']['cpu_s']:.1f}", f"{row['cold']['wall_s']:.1f}"),
            ("compiled before", f"{row['cached']['cpu_s']:.1f}", f"{row['cached']['wall_s']:.1f}"),
        ),
    )


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    print_sections(sections(figures), console)


def print_sections(sections: Iterable[Section], console: Console) -> None:
    """Print tables."""
    for section in sections:
        table = Table(title=section.title, caption=section.note, title_justify="left", caption_justify="left")
        for i, name in enumerate(section.head):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)


PARTS = ("versus", "growth", "planning", "training", "deciding", "collecting", "start")


def marks(part: str) -> tuple[str, str]:
    """Between what the tables of a part stand on the page."""
    return f"<!-- {part}: begin -->", f"<!-- {part}: end -->"


def write(figures: dict[str, Any], page: Path, command: str) -> None:
    """Put the tables of the parts that were measured between their marks on the page, each with what it was made on.

    Raises:
        ValueError: the page lacks the marks of a part.
    """
    for part in PARTS:
        if part in figures:
            own = {name: value for name, value in figures.items() if name == part or name not in PARTS}
            put(page, part, _markdown(own, command))


def put(page: Path, part: str, body: str) -> None:
    """Put a text between the marks of a part of a page.

    Raises:
        ValueError: the page lacks the marks.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = marks(part)
    if begin not in text or end not in text:
        raise ValueError(f"{page}: wanted the marks {begin} and {end}")
    before, rest = text.split(begin)
    page.write_text(f"{before}{begin}\n\n{body}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def markdown(sections: Iterable[Section]) -> str:
    """Tables under headings of the third level."""
    lines: list[str] = []
    for section in sections:
        lines += [f"### {section.title}", "", section.note, "", f"| {' | '.join(section.head)} |"]
        lines.append("|---" + "|--:" * (len(section.head) - 1) + "|")
        lines += [f"| {' | '.join(row)} |" for row in section.rows] + [""]
    return "\n".join(lines)


def _markdown(figures: dict[str, Any], command: str) -> str:
    machine = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    rival = figures.get("rival_version") if "versus" in figures else None
    others = f", vllm-sr-sim {rival}" if rival else ""
    where = f"{machine['cpu']}, {machine['cores']} cores, load average {machine['load']:.1f} when it began"
    made = f"Made by `{command}` on {where}; Python {machine['python']}, {versions}{others}."
    return f"{made}\n\n{markdown(sections(figures))}"


def _per_s(row: dict[str, Any]) -> str:
    return f"{row['requests_per_cpu_s']:,.0f}"


def _times(own: dict[str, Any], rival: dict[str, Any]) -> str:
    return f"{own['requests_per_cpu_s'] / rival['requests_per_cpu_s']:.0f}x"
