"""Which rules a network blends: the portfolio that stands on its checkpoint's card.

A card spells out every knob, so that rules that are tuned anew never change what an old checkpoint bends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ..env.codec import BLENDED
from ..env.contract import Cluster
from .rules import Knobs, Rule

MakeRule: TypeAlias = Callable[[str, Knobs], Callable[[Cluster], Rule]]
"""A rule by name and knobs; ValueError where there is no such rule or knob (`portfolio.make_rule`)."""
MAX_KNOB: Final = 1e9
"""No rule has a knob that large."""
MAX_SHOWN: Final = 60
"""Characters of a wrong value that are shown."""


class PortfolioError(ValueError):
    """No portfolio of rules that can be blended; the message is one line."""


@dataclass(frozen=True)
class Member:
    """A rule of a portfolio, by name, with its knobs."""

    rule: str
    knobs: Knobs

    def as_json(self) -> dict[str, Any]:
        """As it stands on a card."""
        return {"rule": self.rule, "knobs": dict(self.knobs)}


Portfolio: TypeAlias = tuple[Member, ...]
"""`BLENDED` of them, the neutral one first."""


def portfolio_from_json(document: Any) -> Portfolio:
    """A portfolio as it stands on a card.

    Raises:
        PortfolioError: says what is wrong where.
    """
    if not isinstance(document, list):
        raise PortfolioError(f"portfolio: {_short(document)}, wanted a list of {BLENDED} rules with their knobs")
    if len(document) != BLENDED:
        raise PortfolioError(f"portfolio: {len(document)} rules, wanted {BLENDED}")
    return tuple(_member(entry, f"portfolio[{k}]") for k, entry in enumerate(document))


def portfolio_as_json(portfolio: Portfolio) -> list[dict[str, Any]]:
    """As it stands on a card."""
    return [member.as_json() for member in portfolio]


def rules_of(portfolio: Portfolio, make_rule: MakeRule) -> Callable[[Cluster], tuple[Rule, ...]]:
    """What makes a portfolio's rules for a cluster, or for a batch of clusters.

    Raises:
        PortfolioError: there is no such rule, or it has no such knob.
    """
    made: list[Callable[[Cluster], Rule]] = []
    for k, member in enumerate(portfolio):
        try:
            made.append(make_rule(member.rule, member.knobs))
        except ValueError as error:
            raise PortfolioError(f"portfolio[{k}]: {error}") from None
    return lambda cluster: tuple(make(cluster) for make in made)


def _member(entry: Any, where: str) -> Member:
    if not isinstance(entry, dict) or set(entry) != {"rule", "knobs"}:
        raise PortfolioError(f'{where}: {_short(entry)}, wanted {{"rule": name, "knobs": {{...}}}}')
    rule, knobs = entry["rule"], entry["knobs"]
    if not isinstance(rule, str):
        raise PortfolioError(f"{where}.rule: {_short(rule)}, wanted a rule's name")
    if not isinstance(knobs, dict):
        raise PortfolioError(f"{where}.knobs: {_short(knobs)}, wanted numbers by name")
    for name, value in knobs.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_KNOB:
            raise PortfolioError(f"{where}.knobs.{name[:MAX_SHOWN]}: {_short(value)}, wanted a number of 0 or more")
    return Member(rule, {name: float(value) for name, value in knobs.items()})


def _short(value: Any) -> str:
    return repr(value)[:MAX_SHOWN]
