"""Which knobs a command gives to rules: those shipped, those of a file, or those found for a scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import click

from ..agents.portfolio import has_knobs, spec_of
from ..agents.tuned import read_tuned
from ..env.scenario import Scenario
from .bad_input import refuse

knobs_option = click.option(
    "--knobs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of `poolpilot tune --out`: its rules have its knobs instead of those shipped.",
)


def need_optuna(what: str) -> None:
    """Refuse in one line where the extra that searches knobs is not installed."""
    if find_spec("optuna") is None:
        refuse(f"{what} needs optuna: pip install 'poolpilot[tune]'")


class KnobsOf:
    """A rule's knobs where they are not those shipped."""

    def __init__(self, file: Path | None, tune: bool = False) -> None:
        """`file` as `knobs_option` gives it; `tune`: search the knobs of rules that it lacks.

        Raises:
            TunedError: the file cannot be used.
        """
        self._of_file = read_tuned(file, spec_of) if file else {}
        self._tune = tune

    @property
    def by_rule(self) -> dict[str, Mapping[str, float]]:
        """All that the file says."""
        return {name: rule.knobs for name, rule in self._of_file.items()}

    def of_file(self, name: str) -> Mapping[str, float] | None:
        """What the file says of a rule; None: nothing."""
        rule = self._of_file.get(name)
        return rule.knobs if rule else None

    def __call__(
        self, name: str, scenario: Scenario, on_trial: Callable[[], None] | None = None
    ) -> Mapping[str, float] | None:
        """What a rule is set to on a scenario; None: as shipped, or it has no knobs."""
        if name in self._of_file or not self._tune or not has_knobs(name):
            return self.of_file(name)
        need_optuna("--tune")
        from ..training.tuning.search import knobs_for

        return knobs_for(name, scenario, on_trial=on_trial)
