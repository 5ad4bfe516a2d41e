"""Who takes part in the demo, each as well set as it can be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any, Final

from rich.console import Console

from ...agents.checkpoint import load_checkpoint
from ...agents.portfolio import RULES
from ...env.scenario import Scenario
from .stack import Entrant

TUNED_FILE: Final = Path(__file__).with_name("tuned.json")
"""Settings of the rules for the demo's own scenario, as `tune` found them; made by `python -m
poolpilot.commands.demonstration.entrants`. Checked against a new search in the tests."""
DEMO_SCENARIO: Final = "mixed-chat"


class GivenUp(RuntimeError):
    """The user does not want to wait for it any longer."""


def entrants_for(
    scenario: Scenario, policies: Sequence[str], out: Console, giving_up: Event | None = None
) -> list[Entrant]:
    """The policies with their settings: rules are tuned on the scenario's other days, unless that was done before.

    Raises:
        GivenUp: `giving_up` was set while a rule was tuned.
    """
    known = json.loads(TUNED_FILE.read_text(encoding="utf-8"))
    settings = known["settings"] if known["scenario"] == fingerprint(scenario) else {}
    entrants = []
    for name in policies:
        if name not in RULES:
            entrants.append(Entrant(load_checkpoint(name).name, name))
            continue
        if name not in settings:
            out.print(f"tuning {name} in the simulator (compiles it first, once per machine) ...")
            settings = {**settings, name: tune(scenario, name, giving_up)["setting"]}
        entrants.append(Entrant(name, name, tuple(settings[name])))
    return entrants


def tune(scenario: Scenario, name: str, giving_up: Event | None = None) -> dict[str, Any]:
    """A rule's best setting on days of the scenario that are not replayed, and what it came to there."""
    from ...training.evaluate import TUNERS, tuning_episodes  # the simulator takes seconds to load

    def go_on() -> None:
        if giving_up is not None and giving_up.is_set():
            raise GivenUp(f"tuning {name} was given up")

    tuned = TUNERS[name](tuning_episodes(scenario), scenario.tick_s, go_on)
    best = tuned.best
    return {
        "setting": list(best.setting),
        "usd_per_hr": round(best.usd_per_hr, 4),
        "shortfall": round(best.shortfall, 5),
        "trials": tuned.trials,
    }


def fingerprint(scenario: Scenario) -> str:
    """A hash of everything in a scenario that settings depend on."""
    document = scenario.model_dump(mode="json", by_alias=True, exclude={"summary", "name"})
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    """Tune every rule for the demo's scenario and keep what was found."""
    from ...env.scenario import load_scenario

    scenario = load_scenario(DEMO_SCENARIO)
    found = {name: tune(scenario, name) for name in RULES}
    document = {
        "scenario": fingerprint(scenario),
        "settings": {name: result["setting"] for name, result in found.items()},
        "evidence": found,
    }
    TUNED_FILE.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
