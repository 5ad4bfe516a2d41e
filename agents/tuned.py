"""The file of tuned knobs: what every rule is set to unless somebody says otherwise, and how that was found.

One JSON object, rule by rule, each with its own evidence: rules may be tuned one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..env.one_line import first_problem, one_line
from .rules import RuleSpec

SHIPPED: Final = Path(__file__).resolve().parent / "opponents" / "tuned.json"
MAX_BYTES: Final = 1 << 20
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class TunedError(ValueError):
    """A file of tuned knobs cannot be used; the message is one line."""


class Reached(BaseModel):
    """What a setting came to on the worlds it was tuned on (`training.criterion`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    loss: Finite
    bill_ratio: Finite
    shortfall: Finite


class TunedRule(BaseModel):
    """One rule's knobs and their evidence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    knobs: dict[str, Finite]
    trials: Count
    """Settings tried, the defaults among them."""
    seeds: Count
    """Worlds of each scenario."""
    suite: str
    suite_hash: str
    """Of all scenarios tuned on."""
    reached: Reached
    reached_by_defaults: Reached
    versions: dict[str, str]
    """Of the packages that the result hangs on."""


_FILE = TypeAdapter(dict[str, TunedRule])


def read_tuned(path: Path, spec_of: Callable[[str], RuleSpec], without: Collection[str] = ()) -> dict[str, TunedRule]:
    """The rules of a file; nothing if there is no such file.

    Args:
        path: of the file.
        spec_of: a rule by name; a ValueError of one line if there is none.
        without: rules that are not asked for; what the file says of them may be wrong.

    Raises:
        TunedError: not JSON, a field that is missing, unknown or no number, a rule or knob that does not exist, a
            knob that is missing or beyond its range.
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_BYTES:
        raise TunedError(f"{path}: larger than {MAX_BYTES} bytes, wanted a small JSON file of `poolpilot tune`")
    try:
        tuned = _FILE.validate_json(path.read_bytes())
    except ValidationError as error:
        raise TunedError(one_line(f"{path}: {first_problem(error)}")) from None
    asked = {name: rule for name, rule in tuned.items() if name not in without}
    for name, rule in asked.items():
        try:
            _check(spec_of(name), rule.knobs)
        except ValueError as error:
            raise TunedError(one_line(f"{path}: {error}")) from None
    return asked


def write_tuned(path: Path, tuned: Mapping[str, TunedRule]) -> None:
    """Keep the rules in a file, in their order; the whole file or nothing."""
    document = {name: rule.model_dump(mode="json") for name, rule in tuned.items()}
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _check(spec: RuleSpec, knobs: Mapping[str, float]) -> None:
    spec.settled(knobs)  # raises for a knob that it does not have
    for knob in spec.knobs:
        if knob.name not in knobs:
            raise TunedError(f"{spec.name}: no {knob.name}; wanted all of its knobs: {', '.join(spec.defaults)}")
        if not knob.low <= knobs[knob.name] <= knob.high:
            raise TunedError(f"{spec.name}: {knob.name} is {knobs[knob.name]}, wanted {knob.low:g} to {knob.high:g}")
