"""Who takes part in the demo: rules at their shipped knobs, fixed counts as well chosen as they can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any, Final

from rich.console import Console

from ...agents.checkpoint import load_checkpoint
from ...agents.portfolio import RULES, STATIC
from ...env.scenario import Scenario, load_scenario
from ...env.scenario.fingerprint import fingerprint
from .stack import Entrant

TUNED_FILE: Final = Path(__file__).with_name("tuned.json")
"""The best fixed counts for the demo's own scenario, as `tune` found them; made by `python -m
poolpilot.commands.demonstration.entrants`. Checked against a new search in the tests."""
DEMO_SCENARIO: Final = "mixed-chat"


class GivenUp(RuntimeError):
    """The user does not want to wait for it any longer."""


def entrants_for(
    scenario: Scenario, policies: Sequence[str], out: Console, giving_up: Event | None = None
) -> list[Entrant]:
    """The policies as they are shipped; fixed counts are searched on the scenario's other days, unless that was done.

    Raises:
        GivenUp: `giving_up` was set while counts were searched.
    """
    entrants = []
    for name in policies:
        if name == STATIC:
            entrants.append(Entrant(name, name, _counts(scenario, out, giving_up)))
        else:
            entrants.append(Entrant(name if name in RULES else load_checkpoint(name).name, name))
    return entrants


def _counts(scenario: Scenario, out: Console, giving_up: Event | None) -> tuple[float, ...]:
    known = json.loads(TUNED_FILE.read_text(encoding="utf-8"))
    if known["scenario"] != fingerprint(scenario):
        out.print("searching fixed counts in the simulator (compiles it first, once per machine) ...")
        known = tune(scenario, giving_up)
    return tuple(known["counts"])


def tune(scenario: Scenario, giving_up: Event | None = None) -> dict[str, Any]:
    """The best fixed counts on days of the scenario that are not replayed, and what they came to there."""
    from ...training.days import tuning_episodes  # the simulator takes seconds to load
    from ...training.tuning.counts import fixed_counts

    def go_on() -> None:
        if giving_up is not None and giving_up.is_set():
            raise GivenUp(f"the search for counts of {STATIC} was given up")

    found = fixed_counts(tuning_episodes(scenario), scenario.tick_s, go_on)
    return {
        "scenario": fingerprint(scenario),
        "counts": list(found.counts),
        "bill_ratio": round(found.outcome.bill_ratio, 4),
        "shortfall": round(found.outcome.shortfall, 5),
        "trials": found.trials,
    }


def main() -> None:
    """Search the counts for the demo's scenario and keep what was found."""
    found = tune(load_scenario(DEMO_SCENARIO))
    TUNED_FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
